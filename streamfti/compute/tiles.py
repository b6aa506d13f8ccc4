"""From a batch of events to tiles: partial aggregates of one entity over one hop. numpy only.

One sort by (entity, event time, position) serves every ring: within an entity, tiles of any hop are then runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfti.compute.accumulators import EventColumns, State
from streamfti.compute.layout import Ring

__all__ = ["Tiles", "build_tiles"]


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles of one hop.

    Attributes:
        rows: int64[n], the entity (or record) of each.
        ends_us: int64[n], the excluded end of the tile.
        n_events: int64[n].
        state: the partial aggregates by column name, each [n].
    """

    rows: NDArray[np.int64]
    ends_us: NDArray[np.int64]
    n_events: NDArray[np.int64]
    state: State


def build_tiles(events: EventColumns, ring: Ring) -> Tiles:
    """Return the tiles of a batch for one ring, at most one for each (entity, slot).

    If a batch spans more event time than the ring, the older of two tiles for one slot is folded away here: it
    has left every window of the newer one.
    """
    tile = events.event_time_us // ring.hop_us
    starts = _run_starts(events.entity, tile)
    rows, index = events.entity[starts], tile[starts]
    n_events = np.diff(starts, append=len(events))
    state: dict[str, NDArray[Any]] = {}
    for accumulator in chain(ring.accumulators.values(), ring.serialized.values()):
        state |= accumulator.add(events, starts)
    tiles = Tiles(rows, (index + 1) * ring.hop_us, n_events, state)
    if len(index) and int(index.max() - index.min()) >= ring.n_slots:
        return _newest_per_slot(tiles, index % ring.n_slots)
    return tiles


def _run_starts(entity: NDArray[np.int64], tile: NDArray[np.int64]) -> NDArray[np.int64]:
    changes = (entity[1:] != entity[:-1]) | (tile[1:] != tile[:-1])
    return np.concatenate([np.zeros(1, np.int64), np.flatnonzero(changes) + 1])


def _newest_per_slot(tiles: Tiles, slot: NDArray[np.int64]) -> Tiles:
    order = np.lexsort((tiles.ends_us, slot, tiles.rows))
    rows, slot = tiles.rows[order], slot[order]
    is_last = np.append((rows[1:] != rows[:-1]) | (slot[1:] != slot[:-1]), True)  # a value, not a flag
    keep = np.sort(order[is_last])
    return Tiles(
        tiles.rows[keep],
        tiles.ends_us[keep],
        tiles.n_events[keep],
        {name: column[keep] for name, column in tiles.state.items()},
    )
