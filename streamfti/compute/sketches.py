"""Sketches: distinct counts, quantiles and the most frequent values in bounded memory. The only user of `datasketches`.

Loaded when a definition first needs it (`aggregators.aggregator`). A state is the sketch's own serialised form, which
Apache DataSketches keeps readable across versions and languages; where the sketch's value does not depend on the order
of events, neither do these bytes.

This is not columnar: each event costs a call of the library, and each tile of a batch a sketch made, read, merged and
written. Merging batches of 20,000 events into records took, in one run over two windows and against `count` and `sum`
together, 1.3 to 3.3 times as long for one sketch where a batch has a thousand events of an entity, 7 to 14 times where
it has twenty, and 17 times where it has one or two; that is 65,000 events a core's second. Reading folds the sketches
of a window's tiles, some 15 to 40 microseconds each once they are full.
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import datasketches
import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from streamfti.compute.accumulators import EventColumns, State
from streamfti.compute.aggregators import Aggregator, Result, Times
from streamfti.compute.serialized import SerializedAccumulator, objects, valid_runs
from streamfti.compute.unscaled import nearest_float64
from streamfti.definitions.aggregations import Aggregation
from streamfti.definitions.dtypes import DType
from streamfti.definitions.expressions import Expression

__all__ = ["DistinctSketch", "FrequentSketch", "QuantileSketch"]

AnyArray = NDArray[Any]

_HLL = datasketches.tgt_hll_type.HLL_8
_ALL_ITEMS = datasketches.frequent_items_error_type.NO_FALSE_NEGATIVES


@dataclass(frozen=True)
class _Sketch(SerializedAccumulator):
    """A sketch of the values of an operand."""

    operand: Expression

    @override
    def add(self, events: EventColumns, starts: NDArray[np.int64]) -> State:
        places, begin, end = valid_runs(events, self.operand, starts)
        prepared = self._prepared(events.fields[self.operand.name].values[places])
        runs = zip(begin.tolist(), end.tolist(), strict=True)
        return {self.name: objects([self._of(prepared[first:stop]) if first < stop else b"" for first, stop in runs])}

    def _prepared(self, values: AnyArray) -> Any:  # noqa: ANN401  # whatever sketches take, in slices
        """Return the values of all runs as the sketch takes them."""
        return values

    @abstractmethod
    def _of(self, values: Any) -> bytes:  # noqa: ANN401  # a slice of what was prepared
        """Return the state of some values, at least one."""


@dataclass(frozen=True)
class DistinctSketch(_Sketch):
    """HyperLogLog: the number of distinct values. Two values are one if they are equal; a value hashes by its type.

    The state is a function of the set of values alone. What the library keeps beside the registers for the estimate of
    a single stream depends on order, so it is blanked and marked as such: the estimate is the one of merged sketches.
    """

    lg_k: int = 11
    dtypes: ClassVar[frozenset[DType]] = frozenset(
        {DType.INT64, DType.FLOAT64, DType.BOOL, DType.DECIMAL, DType.STRING}
    )

    @property
    @override
    def name(self) -> str:
        return f"distinct_{self.lg_k}({self.operand.name})"

    @override
    def _prepared(self, values: AnyArray) -> list[int] | list[float] | list[str]:
        if values.dtype == np.object_:
            return [f"={text}" for text in values.tolist()]  # the library passes empty strings over
        found: list[int] | list[float] = (values + 0).tolist()  # -0.0 becomes 0.0
        return found

    @override
    def _of(self, values: Sequence[int | float | str]) -> bytes:
        sketch = datasketches.hll_sketch(self.lg_k, _HLL)
        for value in values:
            sketch.update(value)
        return _without_order(sketch.serialize_compact())

    @override
    def fold(self, states: Sequence[bytes]) -> bytes:
        union = datasketches.hll_union(self.lg_k)
        for state in states:
            union.update(datasketches.hll_sketch.deserialize(state))
        return _without_order(union.get_result(_HLL).serialize_compact())


def _without_order(state: bytes) -> bytes:
    """Return a HyperLogLog sketch without what depends on the order in which it came about.

    By the published binary format: byte 7 has the mode (0 a list, 1 a set, 2 registers) in its lower two bits. Lists
    and sets hold coupons of 4 bytes behind 8 and 12 bytes. Of registers, bit 4 of byte 5 says that the estimate of a
    single stream, the double at byte 8, is not to be used.
    """
    mode = state[7] & 3
    if mode == 2:
        return state[:5] + bytes([state[5] | 16]) + state[6:8] + bytes(8) + state[16:]
    start = 8 if mode == 0 else 12
    return state[:start] + np.sort(np.frombuffer(state, "<u4", offset=start)).tobytes()


@dataclass(frozen=True)
class QuantileSketch(_Sketch):
    """KLL: quantiles of numbers. Exact and canonical while there are at most k values; then it compacts at random."""

    k: int = 200

    @property
    @override
    def name(self) -> str:
        return f"quantiles_{self.k}({self.operand.name})"

    @override
    def _prepared(self, values: AnyArray) -> NDArray[np.float64]:
        return values.astype(np.float64) + 0.0  # -0.0 becomes 0.0

    @override
    def _of(self, values: NDArray[np.float64]) -> bytes:
        sketch = datasketches.kll_doubles_sketch(self.k)
        sketch.update(np.sort(values))
        return _sorted_while_exact(sketch)

    @override
    def fold(self, states: Sequence[bytes]) -> bytes:
        sketch = datasketches.kll_doubles_sketch.deserialize(states[0])
        for state in states[1:]:
            sketch.merge(datasketches.kll_doubles_sketch.deserialize(state))
        return _sorted_while_exact(sketch)


def _sorted_while_exact(sketch: datasketches.kll_doubles_sketch) -> bytes:
    """Return a KLL sketch whose values, while it holds all of them, stand in their order: they end its bytes."""
    state: bytes = sketch.serialize()
    if sketch.is_estimation_mode() or sketch.n < 2:
        return state
    start = len(state) - 8 * sketch.n
    return state[:start] + np.sort(np.frombuffer(state, "<f8", offset=start)).tobytes()


@dataclass(frozen=True)
class FrequentSketch(_Sketch):
    """Misra-Gries: the most frequent values. Exact and canonical while they are at most 3/4 of the map's size."""

    map_size: int = 256
    dtypes: ClassVar[frozenset[DType]] = frozenset({DType.INT64, DType.BOOL, DType.STRING})

    @property
    @override
    def name(self) -> str:
        return f"frequent_{self.map_size}({self.operand.name})"

    @override
    def _prepared(self, values: AnyArray) -> list[str]:
        return list(map(str, values.tolist()))

    @override
    def _of(self, values: Sequence[str]) -> bytes:
        return self._counted(Counter(values))

    def _counted(self, counts: dict[str, int]) -> bytes:
        sketch = datasketches.frequent_strings_sketch(int(math.log2(self.map_size)))
        for text, n in sorted(counts.items()):
            sketch.update(text, n)
        state: bytes = sketch.serialize()
        return state

    @override
    def fold(self, states: Sequence[bytes]) -> bytes:
        sketch = datasketches.frequent_strings_sketch.deserialize(states[0])
        for state in states[1:]:
            sketch.merge(datasketches.frequent_strings_sketch.deserialize(state))
        items = sketch.get_frequent_items(_ALL_ITEMS, 0)
        if all(lowest == highest for _, _, lowest, highest in items):
            return self._counted({text: n for text, n, _, _ in items})
        merged: bytes = sketch.serialize()
        return merged


class _Distinct(Aggregator):
    kind = "approx_distinct"

    def __init__(self, aggregation: Aggregation) -> None:
        super().__init__(aggregation)
        self._sketch = DistinctSketch(self.operand, int(aggregation.parameter("lg_k")))

    @property
    @override
    def accumulators(self) -> tuple[SerializedAccumulator, ...]:
        return (self._sketch,)

    @override
    def result(self, state: State, query_time_us: Times) -> Result:
        column = state[self._sketch.name]
        counts = [
            round(datasketches.hll_sketch.deserialize(one).get_estimate()) if one else 0
            for one in column.ravel().tolist()
        ]
        return np.array(counts, np.int64).reshape(column.shape), np.ones(column.shape, np.bool_)

    @override
    def accepts(self, operands: AnyArray, value: float | str | None) -> bool:
        if value is None or isinstance(value, str):
            return False
        exact = len(set(operands.tolist()))
        return abs(value - exact) <= 5 * 1.04 / math.sqrt(2**self._sketch.lg_k) * exact


class _Quantile(Aggregator):
    kind = "quantiles"
    depends_on_order = True

    def __init__(self, aggregation: Aggregation) -> None:
        super().__init__(aggregation)
        self._sketch = QuantileSketch(self.operand, int(aggregation.parameter("k")))
        self._rank = float(aggregation.parameter("rank"))

    @property
    @override
    def accumulators(self) -> tuple[SerializedAccumulator, ...]:
        return (self._sketch,)

    @override
    def result(self, state: State, query_time_us: Times) -> Result:
        column = state[self._sketch.name]
        found = np.array([self._quantile(one) if one else 0.0 for one in column.ravel().tolist()], np.float64)
        return self._scaled(found).reshape(column.shape), np.asarray(column != b"", np.bool_)

    def _quantile(self, state: bytes) -> float:
        value: float = datasketches.kll_doubles_sketch.deserialize(state).get_quantile(self._rank, inclusive=True)
        return value

    def _scaled(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values as features have them: those of decimals are unscaled integers here, up to 2**53 exactly."""
        if self.operand.type.dtype is not DType.DECIMAL:
            return values
        return nearest_float64(values.astype(np.int64), self.operand.type.scale)

    @override
    def accepts(self, operands: AnyArray, value: float | str | None) -> bool:
        if not isinstance(value, float) or not len(operands):
            return False
        ranked = self._scaled(operands.astype(np.float64))
        n = len(ranked)
        error = 3 * datasketches.kll_doubles_sketch.get_normalized_rank_error(self._sketch.k, as_pmf=False)
        below, up_to = float((ranked < value).sum()) / n, float((ranked <= value).sum()) / n
        return below - error <= self._rank <= up_to + error and below < up_to


class _MostFrequent(Aggregator):
    kind = "top_k"
    depends_on_order = True

    def __init__(self, aggregation: Aggregation) -> None:
        super().__init__(aggregation)
        self._sketch = FrequentSketch(self.operand, int(aggregation.parameter("map_size")))
        self._place = int(aggregation.output) - 1
        self._is_text = self.operand.type.dtype is DType.STRING

    @property
    @override
    def accumulators(self) -> tuple[SerializedAccumulator, ...]:
        return (self._sketch,)

    @override
    def result(self, state: State, query_time_us: Times) -> Result:
        column = state[self._sketch.name]
        ranked = (_ranked(one, is_text=self._is_text) for one in column.ravel().tolist())
        found = [values[self._place : self._place + 1] for values in ranked]
        present = np.array([bool(one) for one in found], np.bool_).reshape(column.shape)
        nothing: list[int | str] = ["" if self._is_text else 0]
        values = objects([(one or nothing)[0] for one in found]).reshape(column.shape)
        return values if self._is_text else values.astype(np.int64), present

    @override
    def accepts(self, operands: AnyArray, value: float | str | None) -> bool:
        counts: Counter[Any] = Counter(operands.tolist())
        if len(counts) <= self._place:
            return False
        error = datasketches.frequent_strings_sketch.get_epsilon_for_lg_size(int(math.log2(self._sketch.map_size)))
        wanted = sorted(counts.values(), reverse=True)[self._place] - error * len(operands)
        return bool(wanted <= 0 if value is None else counts[value] >= wanted)


@functools.lru_cache(maxsize=64)  # the k features of one window ask for the same states one after the other
def _ranked(state: bytes, *, is_text: bool) -> Sequence[int | str]:
    """Return the values of a sketch by how often they occur, equally frequent ones by value."""
    if not state:
        return ()
    items = datasketches.frequent_strings_sketch.deserialize(state).get_frequent_items(_ALL_ITEMS, 0)
    counted = [(-n, text if is_text else int(text)) for text, n, _, _ in items]
    return tuple(value for _, value in sorted(counted))
