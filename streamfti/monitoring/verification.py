"""A whole verification: ask the online store or read what was served, wait for the log, compare, add up.

Both ways go through files of served vectors: what was drawn is asked first, all of it, so that the log, which may be
half a minute behind a running feature pipeline, is waited for once.

A profile of a million probes of the payments example (one core): a third of the time is asking, most of it drawing and
writing; of the rest, half is indexing the events of the probed entities, and a fifth merging windows. Records are read
once for all probes of an entity, which is why asking is not more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import polars as pl

from streamfti.clock import Clock
from streamfti.compute.event_columns import fields_read
from streamfti.compute.transformations import SourceReader, stream_events
from streamfti.definitions.aggregations import Feature
from streamfti.definitions.catalog import Catalog
from streamfti.definitions.fingerprint import group_fingerprint, service_fingerprint
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.sources import KafkaSource
from streamfti.errors import ContractError
from streamfti.monitoring.online_reads import ask_online
from streamfti.monitoring.probes import draw_probes
from streamfti.monitoring.report import Report, RowWriter
from streamfti.monitoring.served_vectors import ServedFeatures, VectorFile, VectorWriter, vector_files
from streamfti.monitoring.verify import verify_group
from streamfti.stores.offline.commits import LogFile
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.offline.snapshot import LogSnapshot
from streamfti.stores.online.meaning import read_meanings
from streamfti.stores.online.redis_store import OnlineReader

__all__ = ["Stores", "ask_drawn", "verify_vectors"]

_POLL_S = 0.2
_PROBES_AT_ONCE = 200_000
_LOG_ROWS_AT_ONCE = 1_000_000

OnProgress = Callable[[str, int], None]
"""Called with what is being done and how many probes are done."""


@dataclass(frozen=True, slots=True)
class Stores:
    """What a verification reads.

    Attributes:
        log: the offline log.
        online: the online store.
        clock: the time.
    """

    log: OfflineLog
    online: OnlineReader
    clock: Clock


def ask_drawn(
    asked: Sequence[tuple[FeatureGroup, Sequence[Feature]]],
    folder: Path,
    stores: Stores,
    *,
    n: int,
    seed: int,
    on_progress: OnProgress,
) -> None:
    """Draw probes, ask the online store, and write what it answers to a file for each group.

    Args:
        asked: the groups, and the features of each.
        folder: where the files go.
        stores: the stores.
        n: how many probes in all, spread evenly over the groups.
        seed: the same one draws the same probes from the same log.
        on_progress: told how far it is.

    Raises:
        StoreError: if a store cannot be read.
        CorruptRecord: if a record is longer than its definition says.
    """
    for number, (group, features) in enumerate(asked):
        share = n // len(asked) + (number < n % len(asked))
        needed = [*group.entity, group.stream.schema.event_time]
        known = stream_events(group.stream, needed, _reader(stores.log, {}))
        probes = draw_probes(group, features, known, share, np.random.default_rng([seed, number]))
        del known
        with VectorWriter(folder / f"{group.name}.parquet", group, features, group_fingerprint(group)) as writer:
            for served in ask_online(group, features, probes, stores.online, stores.clock):
                writer.write(served)
                on_progress(f"asking {group.name}", len(served))


def verify_vectors(
    catalog: Catalog,
    path: Path,
    stores: Stores,
    *,
    log_wait_s: float,
    rows: RowWriter | None = None,
    on_progress: OnProgress,
) -> Report:
    """Compare files of served vectors with the log.

    Memory: some 200,000 reads, and the events of their entities as far back as their windows reach.

    Args:
        catalog: the definitions.
        path: a file of served vectors, or a folder of such files.
        stores: the stores; of the online one, only since when each group is there.
        log_wait_s: how long to wait for the log to hold what had been applied.
        rows: where to write each value.
        on_progress: told how far it is.

    Raises:
        ContractError: if a file is none of served vectors, or of a group that is not defined.
        DefinitionError: if a file is of a group that is not defined.
        StoreError: if a store cannot be read.
    """
    report = Report()
    for file in vector_files(path):
        group = catalog.group(file.group_name)
        features = file.features_of(group)
        if not features:
            msg = f"{file.path} must have features of {group.name!r}, got none that is defined"
            raise ContractError(msg)
        snapshots = _awaited(file, group, stores, log_wait_s)
        log_positions = _lane_positions(group, snapshots)
        (stored,) = read_meanings(stores.online, [group])
        since_us = None if stored is None else stored.registered_at_us
        for served in file.read(group, _fingerprints(catalog, group), _PROBES_AT_ONCE):
            events = _events_of(group, served, stores.log, snapshots)
            found = verify_group(group, features, events, served, log_positions=log_positions, stored_since_us=since_us)
            report.add(found)
            if rows is not None:
                rows.write(group, found)
            on_progress(f"recomputing {group.name}", len(served))
    return report


def _fingerprints(catalog: Catalog, group: FeatureGroup) -> frozenset[str]:
    """Return under which fingerprints the values of a group mean what the definitions say."""
    services = [service for service in catalog.services.values() if group in service.groups]
    return frozenset([group_fingerprint(group), *map(service_fingerprint, services)])


Snapshots = Mapping[KafkaSource, LogSnapshot]


def _awaited(file: VectorFile, group: FeatureGroup, stores: Stores, log_wait_s: float) -> Snapshots:
    """Return the logs of a group's sources, once they hold all that had been applied; after the time-out, as they are.

    The log of one source may be further than that of another: what had not been applied is left out by its position.
    """
    highest = file.highest_applied()
    deadline = stores.clock.monotonic() + log_wait_s
    while True:
        snapshots = {source: stores.log.snapshot(source) for source in group.stream.sources}
        positions = _lane_positions(group, snapshots)
        reached = all(positions.get(lane, 0) >= offset for lane, offset in highest.items())
        if reached or stores.clock.monotonic() >= deadline:
            return snapshots
        time.sleep(_POLL_S)


def _lane_positions(group: FeatureGroup, snapshots: Snapshots) -> dict[int, int]:
    return {
        group.stream.lane(source, partition): offset
        for source, snapshot in snapshots.items()
        for partition, offset in snapshot.positions.items()
    }


def _events_of(group: FeatureGroup, served: ServedFeatures, log: OfflineLog, snapshots: Snapshots) -> pl.DataFrame:
    """Return the events of the group's stream that are of the entities of some reads, as its features need them.

    Those of a source come some at a time; pairs of two are made at once, as either log may hold the other's partner.
    """
    needed, entities = fields_read(group), served.keys.unique().drop_nulls()
    parts = [snapshots]
    if isinstance(group.stream.origin, KafkaSource):
        parts = [{group.source: part} for part in _parts(snapshots[group.source])] or parts
    return pl.concat(
        stream_events(group.stream, needed, _reader(log, part)).join(entities, on=list(group.entity), how="semi")
        for part in parts
    )


def _reader(log: OfflineLog, snapshots: Snapshots) -> SourceReader:
    """Return what reads sources from the log, whole: from a snapshot, or as it is now."""

    def read(source: KafkaSource, columns: Collection[str], earlier_us: int | None) -> pl.DataFrame:
        del earlier_us  # all of it is read
        return log.read(source, snapshots.get(source), columns=columns)

    return read


def _parts(snapshot: LogSnapshot) -> Iterator[LogSnapshot]:
    """Cut a snapshot into parts of some rows, so that not all of the log is in memory."""
    total = 0
    numbered: list[tuple[int, LogFile]] = []
    for file in snapshot.files:
        numbered.append((total // _LOG_ROWS_AT_ONCE, file))
        total += file.rows
    for _, files in groupby(numbered, key=lambda pair: pair[0]):
        yield replace(snapshot, files=tuple(file for _, file in files))
