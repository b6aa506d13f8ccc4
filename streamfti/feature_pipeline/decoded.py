"""What the decoders of all wire formats return: columns of physical values, and a dead letter for each other message.

Physical are the times, int64 microseconds, and the decimals, int64 unscaled: neither is known to fit yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl

from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import EventSchema, Field
from streamfti.definitions.sources import KafkaSource
from streamfti.feature_pipeline.batches import DeadLetter, Message
from streamfti.stores.offline.schema import polars_type

__all__ = [
    "COLUMNAR_FROM",
    "INVALID",
    "MALFORMED",
    "NO_SCHEMA_ID",
    "SCHEMA",
    "Decoded",
    "FormatDecoder",
    "Rejection",
    "physical_type",
    "rows_frame",
    "shown",
    "utf8_texts",
]

COLUMNAR_FROM = 64
"""Fewer messages are decoded one by one: below that, setting a columnar decoder up costs more than it saves."""
NO_SCHEMA_ID = 0
"""The schema id of a message that names none; registries count from 1."""
MALFORMED = "malformed"
"""The reason of a message that is not of its format."""
SCHEMA = "schema"
"""The reason of one whose writer's schema cannot be read as the event's."""
INVALID = "invalid"
"""The reason of one whose value is none of its field."""
_SHOWN_CHARS = 80


@dataclass(frozen=True, slots=True)
class Decoded:
    """Messages that were read, all of one schema id, and their values."""

    schema_id: int
    messages: Sequence[Message]
    frame: pl.DataFrame
    """A row for each message, in order; a column for each field of the event, of its physical type. Of changes, there
    may be several rows of a message, and there is `_change`."""


class FormatDecoder(Protocol):
    """Reads one wire format. Bad data never raises: it becomes dead letters."""

    def decode(self, source: KafkaSource, messages: Sequence[Message], dead: list[DeadLetter]) -> list[Decoded]:
        """Return what could be read, and add a dead letter for each message that could not.

        Raises:
            StoreError: if the schema registry cannot be read.
        """
        ...


class Rejection(Exception):
    """One message is no event of its source: caught within its decoder, which makes it a dead letter."""

    def __init__(self, reason: str, path: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.path = path
        self.detail = detail

    @classmethod
    def of(cls, field: Field, came: object) -> Rejection:
        """A value that is none of its field's type."""
        return cls(INVALID, f"$.{field.name}", f"{field} must be {field.type}, got {shown(came)}")

    def letter(self, message: Message, schema_id: int | None) -> DeadLetter:
        """Return the dead letter of a message."""
        return DeadLetter(message, self.reason, self.detail, schema_id, self.path)


def shown(value: object) -> str:
    """Return a value as a short text on one line."""
    text = value if isinstance(value, str) else repr(value)
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}… ({len(text):,} characters)"


def utf8_texts(column: pl.Series) -> pl.Series:
    """Return a column of bytes as text; null where they are no UTF-8."""
    try:
        return column.cast(pl.String)
    except pl.exceptions.ComputeError:  # all or nothing there
        return pl.Series(column.name, [_text(data) for data in column], pl.String)


def _text(data: bytes | None) -> str | None:
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError:
        return None


def physical_type(field: Field) -> pl.DataType:
    """Return the type of a decoded column."""
    is_integer = field.type.dtype in {DType.DATETIME, DType.DECIMAL}
    return pl.Int64() if is_integer else polars_type(field.type)


def rows_frame(schema: EventSchema, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Return rows of physical values as a frame."""
    return pl.DataFrame({f.name: pl.Series(f.name, [r[f.name] for r in rows], physical_type(f)) for f in schema.fields})
