"""Point-in-time features from history: what the online store would have answered at each query time.

Every window is a run of its entity's sorted events: from the first with `event_time >= floor(q - W, h)` to the last
with `event_time < q`. The state of a run comes from a segment tree whose only operation is the accumulator's own
`merge`: O(log n) merges a query, vectorised over all queries, exact wherever `merge` is, and without the
cancellation of prefix sums. State of any length goes another way: `serialized_history`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamfti.compute.accumulators import Accumulator, EventColumns, State
from streamfti.compute.aggregators import Aggregator, Result, aggregator
from streamfti.compute.event_columns import event_columns, operands_of
from streamfti.compute.serialized import SerializedAccumulator, objects
from streamfti.compute.serialized_history import serialized_states
from streamfti.compute.values import NO_EVENT, FeatureColumn, feature_column
from streamfti.definitions.aggregations import Feature
from streamfti.definitions.dtypes import DType
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.windows import Window

__all__ = ["EventIndex", "point_in_time"]

AnyArray = NDArray[Any]
_ENTITY = "_entity"


def point_in_time(
    group: FeatureGroup,
    features: Sequence[Feature],
    events: pl.DataFrame,
    keys: pl.DataFrame,
    query_time_us: NDArray[np.int64],
    *,
    head_us: NDArray[np.int64] | None = None,
    also_by: Sequence[str] = (),
) -> dict[str, FeatureColumn]:
    """Return features of n entities as of n query times, by qualified name, in the order of the queries.

    Args:
        group: the features' group.
        features: which of them.
        events: the events of the group's stream (`transformed`), in any order; all that the windows may hold.
        keys: n rows with the columns of the entity key. Where one is null there is no entity: all missing.
        query_time_us: int64[n]; an event at exactly the query time does not count.
        head_us: int64[n], where the windows end instead, while their tails still follow the query times: what a
            read without `as_of` sees, to which every applied event counts at once.
        also_by: columns of both frames that make entities of one key different ones, such as which read of it is
            meant.
    """
    index = EventIndex.of(group, events, keys, features, also_by)
    age_us = index.age_us(query_time_us, head_us)
    windows: dict[Window, tuple[AnyArray, AnyArray]] = {}
    states: dict[tuple[Window, str], State] = {}
    trees: dict[str, _MergeTree] = {}
    results = _serialized_results(features, index, query_time_us, head_us)
    columns: dict[str, FeatureColumn] = {}
    for feature in features:
        if feature.qualified_name in results:
            found = results[feature.qualified_name]
            columns[feature.qualified_name] = feature_column(feature, *found, age_us, index.has_entity)
            continue
        kind = aggregator(feature.aggregation)
        state: dict[str, AnyArray] = {}
        for accumulator in kind.accumulators:
            key = (feature.window, accumulator.name)
            if key not in states:
                if feature.window not in windows:
                    windows[feature.window] = index.runs(feature.window, query_time_us, head_us)
                if accumulator.name not in trees:
                    trees[accumulator.name] = _MergeTree(accumulator, index.events)
                states[key] = trees[accumulator.name].query(*windows[feature.window])
            state |= states[key]
        values, present = kind.result(state, query_time_us)
        columns[feature.qualified_name] = feature_column(feature, values, present, age_us, index.has_entity)
    return columns


def _serialized_results(
    features: Sequence[Feature],
    index: EventIndex,
    query_time_us: NDArray[np.int64],
    head_us: NDArray[np.int64] | None,
) -> dict[str, Result]:
    """Return the values of the features that are made of state of any length, by qualified name."""
    by_window: dict[Window, list[tuple[Feature, Aggregator, list[SerializedAccumulator]]]] = {}
    for feature in features:
        kind = aggregator(feature.aggregation)
        serialized = [a for a in kind.accumulators if isinstance(a, SerializedAccumulator)]
        if serialized:
            by_window.setdefault(feature.window, []).append((feature, kind, serialized))
    results = {f.qualified_name: _no_results(f, len(query_time_us)) for of in by_window.values() for f, *_ in of}
    for window, members in by_window.items():
        accumulators = list({a.name: a for _, _, serialized in members for a in serialized}.values())
        runs = index.runs(window, query_time_us, head_us)
        for queries, state in serialized_states(accumulators, index.events, window.hop_us, *runs):
            for feature, kind, _ in members:
                values, present = results[feature.qualified_name]
                values[queries], present[queries] = kind.result(state, query_time_us[queries])
    return results


def _no_results(feature: Feature, n: int) -> Result:
    if feature.dtype is DType.STRING:
        return objects([""] * n), np.zeros(n, np.bool_)
    return np.zeros(n, np.float64 if feature.dtype is DType.FLOAT64 else np.int64), np.zeros(n, np.bool_)


class EventIndex:
    """The events of the queried entities, sorted, and where each query's entity stands among them.

    Attributes:
        events: sorted by (entity, event time, position).
        entity: int64[n_queries], the entity of each query; -1 where there is none.
    """

    def __init__(self, events: EventColumns, entity: NDArray[np.int64]) -> None:
        self.events = events
        self.entity = entity
        self._times_us = np.unique(events.event_time_us)
        self._slots = len(self._times_us) + 1
        ranks = np.searchsorted(self._times_us, events.event_time_us)
        self._order = events.entity * self._slots + ranks

    @classmethod
    def of(
        cls,
        group: FeatureGroup,
        events: pl.DataFrame,
        keys: pl.DataFrame,
        features: Iterable[Feature] = (),
        also_by: Sequence[str] = (),
    ) -> EventIndex:
        """Number the entities of the queries and keep only their events, with the operands of some features.

        `also_by` as in `point_in_time`.
        """
        names = [*group.entity, *also_by]
        wanted = keys.select(names)
        numbered = wanted.unique(maintain_order=True).drop_nulls().with_row_index(_ENTITY)
        entity = wanted.join(numbered, on=names, how="left", maintain_order="left")[_ENTITY]
        own = events.join(numbered, on=names, how="inner")
        operands = operands_of(features).values()
        numbers = own[_ENTITY].to_numpy().astype(np.int64)
        sorted_events = event_columns(own, group.stream.schema, operands, numbers)
        return cls(sorted_events, entity.cast(pl.Int64).fill_null(-1).to_numpy())

    @property
    def has_entity(self) -> NDArray[np.bool_]:
        """bool[n_queries]."""
        return np.asarray(self.entity >= 0)

    def first_not_before(self, time_us: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return int64[n_queries]: the place of each entity's first event at or after a time.

        Event times are ranked first, so that (entity, rank) fits one integer whatever the span of time.
        """
        rank = np.searchsorted(self._times_us, time_us, side="left")
        return np.searchsorted(self._order, self.entity * self._slots + rank, side="left")

    def age_us(self, query_time_us: NDArray[np.int64], head_us: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Return int64[n_queries]: how old the newest event of each entity is; `NO_EVENT` where it has none."""
        before = self.first_not_before(query_time_us if head_us is None else head_us)
        if not len(self.events):
            return np.full(len(before), NO_EVENT)
        at = np.maximum(before - 1, 0)
        found = (before > 0) & (self.events.entity[at] == self.entity)
        return np.where(found, query_time_us - self.events.event_time_us[at], NO_EVENT)

    def runs(
        self, window: Window, query_time_us: NDArray[np.int64], head_us: NDArray[np.int64] | None = None
    ) -> tuple[AnyArray, AnyArray]:
        """Return where each query's window begins (included) and ends (excluded) among the events."""
        tail = query_time_us - window.length_us
        tail -= tail % window.hop_us
        return self.first_not_before(tail), self.first_not_before(query_time_us if head_us is None else head_us)


class _MergeTree:
    """A segment tree over the states of single events, bottom-up, kept as one array a level."""

    def __init__(self, accumulator: Accumulator, events: EventColumns) -> None:
        self._accumulator = accumulator
        self._levels: list[State] = []
        n = len(events)
        if n:
            self._levels.append(accumulator.add(events, np.arange(n)))
            while n > 1:
                self._levels.append(self._parents(self._levels[-1], n))
                n = (n + 1) // 2

    def _parents(self, level: State, n: int) -> State:
        left = {name: column[0::2] for name, column in level.items()}
        right = {name: column[1::2] for name, column in level.items()}
        if n % 2:
            alone = self._accumulator.zero(1)
            right = {name: np.concatenate([column, alone[name]]) for name, column in right.items()}
        return self._accumulator.merge(left, right)

    def query(self, start: NDArray[np.int64], stop: NDArray[np.int64]) -> State:
        """Return the merged states of the runs `[start, stop)`, each of events in their order."""
        low, high = start.copy(), np.maximum(start, stop)
        left = {k: v.copy() for k, v in self._accumulator.zero(len(low)).items()}
        right = {k: v.copy() for k, v in left.items()}
        for level in self._levels:
            self._take(left, np.flatnonzero((low < high) & (low % 2 == 1)), low, level, before=True)
            low += low % 2
            self._take(right, np.flatnonzero((low < high) & (high % 2 == 1)), high - 1, level, before=False)
            low, high = low // 2, high // 2
            if not (low < high).any():
                break
        return self._accumulator.merge(left, right)

    def _take(
        self,
        state: dict[str, AnyArray],
        queries: NDArray[np.int64],
        node: NDArray[np.int64],
        level: State,
        *,
        before: bool,
    ) -> None:
        """Merge a node into the states of some queries, in place; `before`: the node comes after the state."""
        if not len(queries):
            return
        own = {name: column[queries] for name, column in state.items()}
        taken = {name: column[node[queries]] for name, column in level.items()}
        merged = self._accumulator.merge(own, taken) if before else self._accumulator.merge(taken, own)
        for name, column in merged.items():
            state[name][queries] = column
