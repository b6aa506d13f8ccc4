"""From the fields of a request to feature vectors: one atomic read of the online store, one pass of numpy.

Not here: any maths of features (`compute.records`), any judgement of fields (`request_contract`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamfti.clock import from_us
from streamfti.compute.entity_keys import encode_key
from streamfti.compute.layout import RecordLayout
from streamfti.compute.records import load_records, newest_event_time_us, read_features
from streamfti.compute.values import FeatureColumn
from streamfti.definitions.aggregations import Feature
from streamfti.definitions.fingerprint import group_fingerprint
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.services import FeatureService
from streamfti.errors import FingerprintMismatch, InvalidRequest
from streamfti.inference_pipeline.request_contract import QueryTime
from streamfti.inference_pipeline.tables import FeatureVectors, GroupProgress, InputTable
from streamfti.stores.online.keys import meta_key, progress_key, record_key
from streamfti.stores.online.progress import Progress
from streamfti.stores.online.redis_store import OnlineReader

__all__ = ["FeatureReader", "ReadPlan", "check_stored_meaning"]

_FIRST_PARTITIONS = 32  # a key that is not there costs the store about a microsecond


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """What is read of one group."""

    group: FeatureGroup
    features: tuple[Feature, ...]
    layout: RecordLayout

    def entities(self, table: InputTable) -> Entities:
        """Find the distinct entities of the rows; a key with a null names none."""
        keys = zip(*(table.columns[name].values for name in self.group.entity), strict=True)
        place: dict[str | None, int] = {}
        rows = [place.setdefault(None if None in key else encode_key(key), len(place)) for key in keys]
        return Entities(tuple(place), np.array(rows, np.int64))


@dataclass(frozen=True, slots=True)
class Entities:
    """The distinct entities of a request's rows in one group.

    Attributes:
        keys: the entity keys, each once; None stands for no entity.
        rows: int64[n_rows], the place of each row's entity in `keys`.
    """

    keys: tuple[str | None, ...]
    rows: NDArray[np.int64]

    @property
    def stored(self) -> tuple[str, ...]:
        """The keys that have a record to look for."""
        return tuple(key for key in self.keys if key is not None)


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """How the stored features of a service are read. Compiled once, used by every request."""

    order: tuple[str, ...]
    """Qualified names of the stored features, in the order of the service."""
    groups: tuple[GroupPlan, ...]

    @classmethod
    def of(cls, service: FeatureService) -> ReadPlan:
        """Compile the plan of a service."""
        order = tuple(item.qualified_name for item in service.inputs if isinstance(item, Feature))
        groups = tuple(GroupPlan(g, service.features_of(g), RecordLayout.of(g)) for g in service.groups)
        return cls(order, groups)


class FeatureReader:
    """Reads the stored features of one service. Safe to use from many threads.

    Every request is one MGET whatever the number of groups and rows, so all of its values, and the progress beside
    them, are of one moment of the store.
    """

    def __init__(self, service: FeatureService, online: OnlineReader) -> None:
        self._plan = ReadPlan.of(service)
        self._online = online
        self._n_partitions = _FIRST_PARTITIONS

    def read(self, table: InputTable, query_time: QueryTime, *, with_progress: bool = False) -> FeatureVectors:
        """Return the stored features of all rows, in the order of the service.

        Args:
            table: holds the entity key fields; a row with a null in a group's key has its features MISSING.
            query_time: an explicit one must be later than the newest event applied for each entity, as an older
                value can no longer be told from what is stored.
            with_progress: whether to read what had been applied.

        Raises:
            InvalidRequest: if an explicit query time is too early for an entity.
            StoreError: if the store cannot be read.
        """
        entities = [plan.entities(table) for plan in self._plan.groups]
        records, progress = self._fetch(entities, with_progress=with_progress)
        columns: dict[str, FeatureColumn] = {}
        for plan, found, stored in zip(self._plan.groups, entities, records, strict=True):
            columns |= _group_columns(plan, found, stored, query_time)
        return FeatureVectors(query_time.us, {name: columns[name] for name in self._plan.order}, progress)

    def _fetch(
        self, entities: Sequence[Entities], *, with_progress: bool
    ) -> tuple[list[list[bytes | None]], tuple[GroupProgress, ...]]:
        """Read the records of each group's entities and, if asked for, the progress of each group, in one MGET.

        How many partitions a source has is not known here. The keys of the first 32 are read; whenever one of the
        upper half is there, twice as many are, from then on. So every partition is found, unless events have only
        come from some beyond the 32nd and from none in between.
        """
        n_partitions = self._n_partitions if with_progress else 0
        plans = self._plan.groups
        keys = [record_key(p.group, key) for p, e in zip(plans, entities, strict=True) for key in e.stored]
        keys += [progress_key(p.group, partition) for p in plans for partition in range(n_partitions)]
        found = iter(self._online.read(keys))
        records = [_next_records(e, found) for e in entities]
        progress = tuple(_next_progress(p.group, n_partitions, found) for p in plans) if with_progress else ()
        if any(2 * partition >= n_partitions for group in progress for partition in group.partitions):
            self._n_partitions = max(self._n_partitions, 2 * n_partitions)
            return self._fetch(entities, with_progress=with_progress)
        return records, progress


def _next_records(entities: Entities, found: Iterator[bytes | None]) -> list[bytes | None]:
    return [None if key is None else next(found) for key in entities.keys]


def _next_progress(group: FeatureGroup, n_partitions: int, found: Iterator[bytes | None]) -> GroupProgress:
    stored = {partition: next(found) for partition in range(n_partitions)}
    partitions = {partition: Progress.load(value) for partition, value in stored.items() if value is not None}
    return GroupProgress(group.name, group.version, partitions)


def _group_columns(
    plan: GroupPlan, entities: Entities, stored: list[bytes | None], query_time: QueryTime
) -> dict[str, FeatureColumn]:
    """Compute each distinct entity once and give every row its own."""
    records = load_records(plan.layout, stored)
    if query_time.explicit:
        _refuse_the_past(plan.group, entities, newest_event_time_us(records), query_time.us)
    at_us = np.full(len(stored), query_time.us, np.int64)
    has_entity = np.array([key is not None for key in entities.keys])
    columns = read_features(plan.layout, plan.features, records, at_us, has_entity)
    return {n: FeatureColumn(c.values[entities.rows], c.status[entities.rows]) for n, c in columns.items()}


def _refuse_the_past(group: FeatureGroup, entities: Entities, newest_us: NDArray[np.int64], as_of_us: int) -> None:
    late = np.flatnonzero((newest_us != 0) & (newest_us >= as_of_us))
    if len(late):
        newest = from_us(int(newest_us[late[0]]))
        msg = (
            f"as_of must be later than the newest event applied for entity {entities.keys[late[0]]!r} of feature "
            f"group {group.name!r}, which is at {newest.isoformat()}, got {from_us(as_of_us).isoformat()}"
        )
        raise InvalidRequest(msg, hint="leave as_of out for the values as of now; the past is in the offline log")


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
