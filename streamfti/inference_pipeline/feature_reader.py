"""From the fields of a request to feature vectors: one atomic read of the online store, one pass of numpy.

Not here: any maths of features (`compute.window_reader`), any judgement of fields (`request_contract`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfti.clock import from_us
from streamfti.compute.entity_keys import encode_key
from streamfti.compute.layout import RecordLayout
from streamfti.compute.returned_values import AnyColumn
from streamfti.compute.values import FeatureMatrix
from streamfti.compute.window_reader import WindowReader
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.services import FeatureService
from streamfti.errors import InvalidRequest
from streamfti.inference_pipeline.request_contract import QueryTime
from streamfti.inference_pipeline.tables import GroupProgress, InputTable
from streamfti.stores.online.keys import record_prefix, side_prefix
from streamfti.stores.online.progress import Progress
from streamfti.stores.online.record_reader import RecordReader
from streamfti.stores.online.redis_store import OnlineReader

__all__ = ["FeatureReader", "ReadPlan", "StoredFeatures"]


@dataclass(frozen=True, slots=True)
class StoredFeatures:
    """The stored features of all rows of a request, from one atomic read.

    Attributes:
        query_time_us: the query time.
        matrix: one row for each row of the request.
        progress: per group; may be empty if it was not asked for.
    """

    query_time_us: int
    matrix: FeatureMatrix
    progress: tuple[GroupProgress, ...]

    @property
    def stale_groups(self) -> tuple[str, ...]:
        """The names of the groups that were not as fresh as their `max_staleness` says."""
        return tuple(group.group for group in self.progress if group.is_stale)

    def model_columns(self) -> dict[str, AnyColumn]:
        """Return them by qualified name: float64[n], NaN where there is no value; strings as object[n], None there."""
        return self.matrix.model_columns()


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """How the stored features of a service are read. Compiled once, used by every request.

    Attributes:
        groups: the groups to read, in order.
        key_prefixes: what the keys of the records of each group begin with.
        side_prefixes: likewise, of the side records.
        windows: makes features of the records.
    """

    groups: tuple[FeatureGroup, ...]
    key_prefixes: tuple[bytes, ...]
    side_prefixes: tuple[bytes, ...]
    windows: WindowReader

    @classmethod
    def of(cls, service: FeatureService) -> ReadPlan:
        """Compile the plan of a service."""
        return cls(
            groups=service.groups,
            key_prefixes=tuple(record_prefix(group) for group in service.groups),
            side_prefixes=tuple(side_prefix(group) for group in service.groups),
            windows=WindowReader([(RecordLayout.of(g), service.features_of(g)) for g in service.groups]),
        )

    def record_keys(self, table: InputTable) -> list[bytes | None]:
        """Return the keys of n * n_groups records, row by row; None where a null in the key means no entity."""
        return self._keys(table, range(len(self.groups)), self.key_prefixes)

    def side_keys(self, table: InputTable) -> list[bytes | None]:
        """Return likewise the keys of the side records, of those groups alone whose features need them."""
        return self._keys(table, self.windows.side_parts, self.side_prefixes)

    def _keys(self, table: InputTable, parts: Iterable[int], prefixes: Sequence[bytes]) -> list[bytes | None]:
        by_group = [
            _record_keys(
                prefixes[part],
                list(zip(*(table.columns[name].values for name in self.groups[part].entity), strict=True)),
            )
            for part in parts
        ]
        return [key for row in zip(*by_group, strict=True) for key in row]


def _record_keys(prefix: bytes, entities: Sequence[tuple[Any, ...]]) -> list[bytes | None]:
    """Write each distinct entity key once; one with a null names no entity."""
    written = {e: None if None in e else prefix + encode_key(e).encode() for e in dict.fromkeys(entities)}
    return [written[entity] for entity in entities]


class FeatureReader:
    """Reads the stored features of one service. Safe to use from many threads.

    Every request is one MGET whatever the number of groups and rows, so all of its values, and the progress beside
    them, are of one moment of the store. A service without stored features reads nothing.
    """

    def __init__(self, service: FeatureService, online: OnlineReader) -> None:
        self._plan = ReadPlan.of(service)
        self._is_watched = any(group.max_staleness_us is not None for group in service.groups)
        self._records = RecordReader(self._plan.groups, online)
        self.columns = self._plan.windows.columns

    def read(self, table: InputTable, query_time: QueryTime, *, with_progress: bool = False) -> StoredFeatures:
        """Return the stored features of all rows.

        Args:
            table: holds the entity key fields; a row with a null in a group's key has its features MISSING.
            query_time: an explicit one must be later than the newest event applied for each entity, as an older
                value can no longer be told from what is stored.
            with_progress: whether to read what had been applied. It is read as well if a group has a
                `max_staleness`.

        Raises:
            InvalidRequest: if an explicit query time is too early for an entity.
            StoreError: if the store cannot be read.
        """
        keys = self._plan.record_keys(table)
        windows = self._plan.windows
        side_keys = self._plan.side_keys(table) if windows.side_parts else []
        found, progress = self._fetch([*keys, *side_keys], query_time, with_progress=with_progress or self._is_watched)
        rows = windows.load(found[: len(keys)], table.n_rows)
        if query_time.explicit:
            self._refuse_the_past(table, windows.newest_event_time_us(rows), query_time.us)
        has_entity = None
        if None in keys:
            has_entity = np.array([key is not None for key in keys]).reshape(table.n_rows, -1)
        matrix = windows.read(rows, np.array([query_time.us]), has_entity, found[len(keys) :])
        return StoredFeatures(query_time.us, matrix, progress)

    def _fetch(
        self, keys: Sequence[bytes | None], query_time: QueryTime, *, with_progress: bool
    ) -> tuple[list[bytes | None], tuple[GroupProgress, ...]]:
        """Read the records of keys, each once, and if asked for the progress of each group, in one MGET."""
        distinct = [key for key in dict.fromkeys(keys) if key is not None]
        by_group: Sequence[Mapping[int, Progress]] = ()
        if with_progress:
            found, by_group = self._records.read_with_progress(distinct)
        else:
            found = self._records.read(distinct)
        stored = dict(zip(distinct, found, strict=True))
        pairs = zip(self._plan.groups, by_group, strict=False)  # of none, where it was not asked for
        progress = tuple(GroupProgress.of(group, partitions, query_time.asked_at_us) for group, partitions in pairs)
        return [None if key is None else stored[key] for key in keys], progress

    def _refuse_the_past(self, table: InputTable, newest_us: NDArray[np.int64], as_of_us: int) -> None:
        late = np.argwhere((newest_us >= 0) & (newest_us >= as_of_us))
        if len(late):
            row, place = late[0].tolist()
            group = self._plan.groups[place]
            entity = encode_key([table.columns[name].values[row] for name in group.entity])
            newest = from_us(int(newest_us[row, place]))
            msg = (
                f"as_of must be later than the newest event applied for entity {entity!r} of feature group "
                f"{group.name!r}, which is at {newest.isoformat()}, got {from_us(as_of_us).isoformat()}"
            )
            raise InvalidRequest(msg, hint="leave as_of out for the values as of now; the past is in the offline log")
