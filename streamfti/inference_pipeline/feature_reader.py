"""From the fields of a request to feature vectors: one atomic read of the online store, one pass of numpy.

Not here: any maths of features (`compute.window_reader`), any judgement of fields (`request_contract`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfti.clock import from_us
from streamfti.compute.entity_keys import encode_key
from streamfti.compute.layout import RecordLayout
from streamfti.compute.values import FeatureMatrix
from streamfti.compute.window_reader import WindowReader
from streamfti.definitions.aggregations import Feature
from streamfti.definitions.fingerprint import group_fingerprint
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.services import FeatureService
from streamfti.errors import FingerprintMismatch, InvalidRequest
from streamfti.inference_pipeline.request_contract import QueryTime
from streamfti.inference_pipeline.tables import GroupProgress, InputTable
from streamfti.stores.online.keys import meta_key, progress_key, record_prefix
from streamfti.stores.online.progress import Progress
from streamfti.stores.online.redis_store import OnlineReader

__all__ = ["FeatureReader", "ReadPlan", "StoredFeatures", "check_stored_meaning"]

_FIRST_PARTITIONS = 32  # a key that is not there costs the store about a microsecond


@dataclass(frozen=True, slots=True)
class StoredFeatures:
    """The stored features of all rows of a request, from one atomic read.

    Attributes:
        query_time_us: the query time.
        matrix: one row for each row of the request.
        progress: per group; empty if it was not asked for.
    """

    query_time_us: int
    matrix: FeatureMatrix
    progress: tuple[GroupProgress, ...]


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """How the stored features of a service are read. Compiled once, used by every request.

    Attributes:
        order: qualified names of the stored features, in the order of the service.
        groups: the groups to read, in order.
        key_prefixes: what the keys of the records of each group begin with.
        windows: makes features of the records.
    """

    order: tuple[str, ...]
    groups: tuple[FeatureGroup, ...]
    key_prefixes: tuple[bytes, ...]
    windows: WindowReader

    @classmethod
    def of(cls, service: FeatureService) -> ReadPlan:
        """Compile the plan of a service."""
        return cls(
            order=tuple(item.qualified_name for item in service.inputs if isinstance(item, Feature)),
            groups=service.groups,
            key_prefixes=tuple(record_prefix(group) for group in service.groups),
            windows=WindowReader([(RecordLayout.of(g), service.features_of(g)) for g in service.groups]),
        )

    def record_keys(self, table: InputTable) -> list[bytes | None]:
        """Return the keys of n * n_groups records, row by row; None where a null in the key means no entity."""
        by_group = [
            _record_keys(prefix, list(zip(*(table.columns[name].values for name in group.entity), strict=True)))
            for group, prefix in zip(self.groups, self.key_prefixes, strict=True)
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
        self._online = online
        self._progress_keys = self._keys_of(_FIRST_PARTITIONS)
        self.order = self._plan.order
        self.columns = self._plan.windows.columns

    def read(self, table: InputTable, query_time: QueryTime, *, with_progress: bool = False) -> StoredFeatures:
        """Return the stored features of all rows.

        Args:
            table: holds the entity key fields; a row with a null in a group's key has its features MISSING.
            query_time: an explicit one must be later than the newest event applied for each entity, as an older
                value can no longer be told from what is stored.
            with_progress: whether to read what had been applied.

        Raises:
            InvalidRequest: if an explicit query time is too early for an entity.
            StoreError: if the store cannot be read.
        """
        keys = self._plan.record_keys(table)
        records, progress = self._fetch(keys, with_progress=with_progress)
        windows = self._plan.windows
        rows = windows.load(records, table.n_rows)
        if query_time.explicit:
            self._refuse_the_past(table, windows.newest_event_time_us(rows), query_time.us)
        has_entity = None
        if None in keys:
            has_entity = np.array([key is not None for key in keys]).reshape(table.n_rows, -1)
        matrix = windows.read(rows, np.array([query_time.us]), has_entity)
        return StoredFeatures(query_time.us, matrix, progress)

    def _fetch(
        self, keys: Sequence[bytes | None], *, with_progress: bool
    ) -> tuple[list[bytes | None], tuple[GroupProgress, ...]]:
        """Read the records of keys, each once, and if asked for the progress of each group, in one MGET.

        How many partitions a source has is not known here. The keys of the first 32 are read; whenever one of the
        upper half is there, twice as many are, from then on. So every partition is found, unless events have only
        come from some beyond the 32nd and from none in between.
        """
        progress_keys = self._progress_keys if with_progress else ()
        distinct = [key for key in dict.fromkeys(keys) if key is not None]
        found = self._online.read([*distinct, *progress_keys])
        stored = dict(zip(distinct, found, strict=False))
        records = [None if key is None else stored[key] for key in keys]
        if not progress_keys:
            return records, ()
        n_partitions = len(progress_keys) // len(self._plan.groups)
        progress = tuple(_progress(self._plan.groups, found[len(distinct) :], n_partitions))
        if any(2 * partition >= n_partitions for group in progress for partition in group.partitions):
            if len(progress_keys) == len(self._progress_keys):
                self._progress_keys = self._keys_of(2 * n_partitions)
            return self._fetch(keys, with_progress=True)
        return records, progress

    def _keys_of(self, n_partitions: int) -> tuple[bytes, ...]:
        return tuple(progress_key(group, i) for group in self._plan.groups for i in range(n_partitions))

    def _refuse_the_past(self, table: InputTable, newest_us: NDArray[np.int64], as_of_us: int) -> None:
        late = np.argwhere((newest_us != 0) & (newest_us >= as_of_us))
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


def _progress(
    groups: Iterable[FeatureGroup], found: Sequence[bytes | None], n_partitions: int
) -> Iterator[GroupProgress]:
    for start, group in zip(range(0, len(found), n_partitions), groups, strict=True):
        stored = enumerate(found[start : start + n_partitions])
        partitions = {partition: Progress.load(value) for partition, value in stored if value is not None}
        yield GroupProgress(group.name, group.version, partitions)


def check_stored_meaning(groups: Iterable[FeatureGroup], online: OnlineReader) -> None:
    """Check that what is stored of each group was written by the same definition; nothing stored is well.

    Raises:
        FingerprintMismatch: if a group is stored with another meaning.
        StoreError: if the store cannot be read.
    """
    groups = tuple(groups)
    for group, meta in zip(groups, online.read([meta_key(group) for group in groups]), strict=True):
        own = group_fingerprint(group)
        stored = own if meta is None else json.loads(meta)["fingerprint"]
        if stored != own:
            msg = (
                f"feature group {group.name!r} version {group.version} must be read by the definition that wrote it: "
                f"the online store holds fingerprint {stored}, the definition has {own}"
            )
            raise FingerprintMismatch(msg, hint=f"set version={group.version + 1} for the changed group")
