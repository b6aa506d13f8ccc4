"""Point-in-time states of any length: the part of `point_in_time` for strings and sketches. numpy only.

A segment tree over such states would hold each of them some twenty times over. Instead the events are walked through
once, in their order, cut at the hops and where a window ends: whole tiles are kept while their entity lasts, and the
state of the tile that a query stands in grows from query to query. So each query folds the tiles of its window, as
serving does, and of the state of all queries only some thousands are in memory at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfti.compute.accumulators import EventColumns, State
from streamfti.compute.serialized import SerializedAccumulator, objects

__all__ = ["serialized_states"]

AnyArray = NDArray[Any]

_QUERIES_AT_ONCE = 4_096
_RUNS_AT_ONCE = 4_096


def serialized_states(
    accumulators: Sequence[SerializedAccumulator],
    events: EventColumns,
    hop_us: int,
    start: NDArray[np.int64],
    stop: NDArray[np.int64],
) -> Iterator[tuple[NDArray[np.int64], State]]:
    """Iterate over the states of windows, some at a time.

    Args:
        accumulators: what is computed.
        events: sorted by (entity, event time, position).
        hop_us: the hop of the windows.
        start: int64[n_queries]: where each window begins among the events: with the first event of a tile.
        stop: int64[n_queries]: where it ends (excluded), within the events of one entity.

    Yields:
        Which queries, and their states; every query once.
    """
    walks = [_Walk.of(accumulator, events, hop_us, start, stop) for accumulator in accumulators]
    for parts in zip(*(walk.states() for walk in walks), strict=True):
        yield parts[0][0], {a.name: states for a, (_, states) in zip(accumulators, parts, strict=True)}


@dataclass(frozen=True, slots=True)
class _Walk:
    """One accumulator on its way through the events.

    Attributes:
        accumulator: what is computed.
        events: what it is computed of.
        cuts: int64[n_runs], ascending from 0: where the events are cut into runs.
        tile_of_run: int64[n_runs], the number of the tile, over all entities, that each run is in.
        entity_of_tile: int64[n_tiles].
        queries: int64[n_queries], the queries in the order of their ends.
        first_tile: int64[n_queries], by query, the first tile of its window.
        start: as given.
        stop: as given.
    """

    accumulator: SerializedAccumulator
    events: EventColumns
    cuts: NDArray[np.int64]
    tile_of_run: NDArray[np.int64]
    entity_of_tile: NDArray[np.int64]
    queries: NDArray[np.int64]
    first_tile: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        accumulator: SerializedAccumulator,
        events: EventColumns,
        hop_us: int,
        start: NDArray[np.int64],
        stop: NDArray[np.int64],
    ) -> _Walk:
        n, tile = len(events), events.event_time_us // hop_us
        begins = np.ones(n, np.bool_)
        begins[1:] = (events.entity[1:] != events.entity[:-1]) | (tile[1:] != tile[:-1])
        tile_starts = np.flatnonzero(begins)
        cuts = np.union1d(tile_starts, stop[(start < stop) & (stop < n)])
        return cls(
            accumulator,
            events,
            cuts,
            np.searchsorted(tile_starts, cuts, side="right") - 1,
            events.entity[tile_starts],
            np.argsort(stop, kind="stable"),
            np.searchsorted(tile_starts, start, side="right") - 1,
            start,
            stop,
        )

    def states(self) -> Iterator[tuple[NDArray[np.int64], AnyArray]]:
        """Iterate over queries and their states."""
        found: list[bytes] = []
        done = 0
        for state in self._by_end():
            found.append(state)
            if len(found) == _QUERIES_AT_ONCE:
                yield self.queries[done : done + len(found)], objects(found)
                done += len(found)
                found = []
        if found:
            yield self.queries[done:], objects(found)

    def _by_end(self) -> Iterator[bytes]:
        """Iterate over the states of all queries in the order of their ends."""
        ends: list[int] = self.stop[self.queries].tolist()
        asked: list[tuple[int, bool]] = list(
            zip(
                self.first_tile[self.queries].tolist(),
                (self.start < self.stop)[self.queries].tolist(),
                strict=True,
            )
        )
        next_query = 0
        tiles: dict[int, bytes] = {}
        open_tile, running = -1, b""
        for cut, tile, added in self._runs():
            if tile != open_tile:
                tiles[open_tile], running = running, b""
            while next_query < len(ends) and ends[next_query] <= cut:
                yield self._answer(asked[next_query], tiles, tile, running)
                next_query += 1
            if tile != open_tile and (open_tile < 0 or self._is_new_entity(open_tile, tile)):
                tiles = {}
            open_tile, running = tile, self.accumulator.together((running, added))
        tiles[open_tile] = running
        for query in asked[next_query:]:
            yield self._answer(query, tiles, open_tile + 1, b"")

    def _is_new_entity(self, one: int, other: int) -> bool:
        return bool(self.entity_of_tile[one] != self.entity_of_tile[other])

    def _answer(self, query: tuple[int, bool], tiles: Mapping[int, bytes], tile: int, running: bytes) -> bytes:
        """Return the state of the whole tiles from a window's first one on, and of what there is of another."""
        first_tile, has_events = query
        if not has_events:
            return b""
        return self.accumulator.together([*(tiles[i] for i in range(first_tile, tile)), running])

    def _runs(self) -> Iterator[tuple[int, int, bytes]]:
        """Iterate over the runs: where each begins, its tile, and the state of its events."""
        n_runs = len(self.cuts)
        for first in range(0, n_runs, _RUNS_AT_ONCE):
            cuts = self.cuts[first : first + _RUNS_AT_ONCE]
            stop = int(self.cuts[first + len(cuts)]) if first + len(cuts) < n_runs else len(self.events)
            begin = int(cuts[0])
            state = self.accumulator.add(self.events.between(begin, stop), cuts - begin)[self.accumulator.name]
            tiles = self.tile_of_run[first : first + len(cuts)]
            yield from zip(cuts.tolist(), tiles.tolist(), state.tolist(), strict=True)
