"""Asking the online store for drawn probes, as a server would: one atomic MGET, one pass of numpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamfti.clock import Clock
from streamfti.compute.layout import RecordLayout
from streamfti.compute.values import FeatureColumn
from streamfti.compute.window_reader import WindowReader
from streamfti.definitions.aggregations import Feature
from streamfti.definitions.groups import FeatureGroup
from streamfti.monitoring.probes import Probes
from streamfti.monitoring.served_vectors import ServedFeatures
from streamfti.stores.online.keys import record_prefix, side_prefix
from streamfti.stores.online.record_reader import RecordReader
from streamfti.stores.online.redis_store import OnlineReader

__all__ = ["ask_online"]

_READ_BYTES = 4 << 20  # of one MGET: it must not hold up servers
_SIDE_BYTES = 16 << 10  # what a side record is taken to be: its true size is known when it has been read
_ROWS = 20_000  # of one answer


def ask_online(
    group: FeatureGroup, features: Sequence[Feature], probes: Probes, online: OnlineReader, clock: Clock
) -> Iterator[ServedFeatures]:
    """Iterate over the answers to probes, in their order, some entities at a time.

    The records of those entities and the progress of the group are of one moment of the store, and each query time is
    after the newest event that the record had then.

    Args:
        group: the group.
        features: which of its features, at least one.
        probes: of the group.
        online: the store.
        clock: says when the reads were made.

    Raises:
        StoreError: if the store cannot be read.
        CorruptRecord: if a record is longer than its definition says.
    """
    layout = RecordLayout.of(group)
    windows, reader = WindowReader([(layout, features)]), RecordReader([group], online)
    prefixes = [record_prefix(group), *(side_prefix(group) for _ in windows.side_parts)]
    entity_bytes = layout.record_bytes + _SIDE_BYTES * len(windows.side_parts)
    for part in probes.chunks(max(1, _READ_BYTES // entity_bytes), _ROWS):
        texts, row = _distinct(part.texts)
        found, (progress,) = reader.read_with_progress([p + text.encode() for p in prefixes for text in texts])
        read_at_us = clock.now_us()
        rows = windows.load([*found[: len(texts)], None], len(texts) + 1)  # the last one is nobody's
        side = [*found[len(texts) :], None] if windows.side_parts else []
        at_us = part.query_time_us(windows.newest_event_time_us(rows)[row, 0])
        has_entity = row < len(texts)
        own_side = [side[i] for i in row.tolist()] if side else []
        matrix = windows.read(rows[row], at_us, has_entity[:, np.newaxis], own_side).by_name()
        yield ServedFeatures(
            part.keys,
            at_us,
            {name: FeatureColumn(column.values.copy(), column.status.copy()) for name, column in matrix.items()},
            {p: np.full(len(part), of.next_offset, np.int64) for p, of in progress.items()},
            np.full(len(part), read_at_us, np.int64),
        )


def _distinct(texts: pl.Series) -> tuple[list[str], NDArray[np.int64]]:
    """Return the distinct texts, and int64[n], the place of each row's among them; a null's is behind the last."""
    distinct = texts.drop_nulls().unique(maintain_order=True)
    places = pl.DataFrame({"text": distinct}).with_row_index("place")
    row = pl.DataFrame({"text": texts}).join(places, on="text", how="left", maintain_order="left")["place"]
    return distinct.to_list(), row.cast(pl.Int64).fill_null(len(distinct)).to_numpy()
