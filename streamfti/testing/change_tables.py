"""A table whose rows change, as its database sees it: what a topic is told, with before images or without.

For harnesses and generators of changes; what reads topics is in the feature pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from streamfti.definitions.events import Event
from streamfti.definitions.sources import KafkaSource
from streamfti.errors import ContractError
from streamfti.testing.naive import GoneRow, PlacedEvent

__all__ = ["ChangeTable"]


class ChangeTable:
    """The rows that are there, by key.

    Args:
        source: of changes; whether it has before images decides what its table says of a change.
    """

    def __init__(self, source: KafkaSource) -> None:
        self._source = source
        self._rows: dict[tuple[object, ...], Event] = {}

    def upsert(self, row: Event, partition: int, offset: int) -> list[PlacedEvent]:
        """Insert or replace a row; return what the topic then says at one offset."""
        values = row.values()
        key = tuple(values[name] for name in self._source.row_key)
        former = self._rows.get(key)
        self._rows[key] = row
        is_so = PlacedEvent(row, partition, offset)
        if former is None or not self._source.before_images:
            return [is_so]
        was_so = self._at(former, values[self._source.schema.event_time])
        return [PlacedEvent(was_so, partition, offset, -1), is_so]

    def delete(self, key: Mapping[str, object], at: datetime, partition: int, offset: int) -> list[PlacedEvent]:
        """Delete a row; return what the topic then says at one offset.

        Raises:
            ContractError: if there is no such row to take back, where there are before images.
        """
        former = self._rows.pop(tuple(key[name] for name in self._source.row_key), None)
        if not self._source.before_images:
            return [PlacedEvent(GoneRow(self._source.schema, key, at), partition, offset, -2)]
        if former is None:
            msg = f"a row of {self._source.name!r} must be there to be deleted, got the key {dict(key)!r}"
            raise ContractError(msg)
        return [PlacedEvent(self._at(former, at), partition, offset, -2)]

    def named(self, key: Sequence[object]) -> dict[str, object]:
        """Return the values of a key, which come in the order of its fields, by name.

        Raises:
            ContractError: if they are not as many, or one is of another type.
        """
        fields = [self._source.schema.field(name) for name in self._source.row_key]
        if [type(value) for value in key] != [field.type.dtype.python for field in fields]:
            wanted = ", ".join(f"{field.name} ({field.type})" for field in fields)
            msg = f"the key of a row of {self._source.name!r} must be {wanted}, got {tuple(key)!r}"
            raise ContractError(msg)
        return dict(zip(self._source.row_key, key, strict=True))

    def _at(self, row: Event, at: datetime) -> Event:
        return self._source.event(**{**row.values(), self._source.schema.event_time: at})

    def __contains__(self, key: tuple[object, ...]) -> bool:
        return key in self._rows
