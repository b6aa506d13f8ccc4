"""From side records to features: the read path of state of any length, a Python loop over entities and tiles. No I/O.

The part of `window_reader` for strings and sketches. Its cost is that of decoding the side record and folding the
states of a window, for each entity: some microseconds a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfti.compute.accumulators import State
from streamfti.compute.aggregators import Aggregator, aggregator
from streamfti.compute.layout import RecordLayout
from streamfti.compute.serialized import SerializedAccumulator, objects
from streamfti.compute.side_records import SideTiles, load_side_record
from streamfti.definitions.aggregations import Feature
from streamfti.definitions.dtypes import DType
from streamfti.definitions.windows import Window

__all__ = ["SideReader", "is_serialized"]

AnyArray = NDArray[Any]


def is_serialized(feature: Feature) -> bool:
    """Return whether a feature is made of state of any length."""
    return any(isinstance(a, SerializedAccumulator) for a in aggregator(feature.aggregation).accumulators)


@dataclass(frozen=True, slots=True)
class _SideFeature:
    """A feature, its column of the matrix, and its ring's number in the layout."""

    column: int
    feature: Feature
    aggregator: Aggregator
    ring: int


class SideReader:
    """Reads the features of one or more groups that are made of side records. Safe to use from many threads.

    Args:
        parts: the layout of each group's records, and the features to read from them.

    Attributes:
        parts: which of the parts need the side record.
    """

    def __init__(self, parts: Sequence[tuple[RecordLayout, Sequence[Feature]]]) -> None:
        self._features: dict[int, list[_SideFeature]] = {}
        self._layouts = [layout for layout, _ in parts]
        column = 0
        for part, (layout, features) in enumerate(parts):
            for feature in features:
                if is_serialized(feature):
                    ring = layout.rings.index(layout.ring_of(feature))
                    found = _SideFeature(column, feature, aggregator(feature.aggregation), ring)
                    self._features.setdefault(part, []).append(found)
                column += 1
        self.parts = tuple(self._features)

    def write(
        self,
        side: Sequence[bytes | None],
        query_time_us: NDArray[np.int64],
        words: NDArray[np.int64],
        present: NDArray[np.bool_],
    ) -> dict[int, AnyArray]:
        """Write the features of n rows into their columns of words, and return those of strings by column.

        Args:
            side: n * len(parts) side records, row by row; None where there is none.
            query_time_us: int64[n], or int64[1] for one time for all rows.
            words: int64[n, k], written to.
            present: bool[n, k], written to.

        Raises:
            CorruptRecord: if a side record is not made as its layout says.
        """
        texts: dict[int, AnyArray] = {}
        at_us = np.broadcast_to(query_time_us, len(words)).tolist()
        for place, part in enumerate(self.parts):
            layout = self._layouts[part]
            tiles = [load_side_record(layout, stored) for stored in side[place :: len(self.parts)]]
            states: dict[tuple[Window, str], AnyArray] = {}
            for wanted in self._features[part]:
                state = _state_of(layout, wanted, tiles, at_us, states)
                values, present[:, wanted.column] = wanted.aggregator.result(state, query_time_us)
                if wanted.feature.dtype is DType.STRING:
                    texts[wanted.column] = values
                else:
                    is_float = wanted.feature.dtype is DType.FLOAT64
                    (words.view(np.float64) if is_float else words)[:, wanted.column] = values
        return texts


def _state_of(
    layout: RecordLayout,
    wanted: _SideFeature,
    tiles: Sequence[SideTiles],
    at_us: Sequence[int],
    known: dict[tuple[Window, str], AnyArray],
) -> State:
    """Return the states of a feature's window in each row; what another feature has needed is known."""
    window, ring = wanted.feature.window, layout.rings[wanted.ring]
    state: dict[str, AnyArray] = {}
    for accumulator in wanted.aggregator.accumulators:
        key = window, accumulator.name
        if key not in known:
            number = list(ring.serialized).index(accumulator.name)
            known[key] = objects(
                [
                    ring.serialized[accumulator.name].together(
                        states[number] for end, states in own.get(wanted.ring, {}).items() if end > window.start_us(q)
                    )
                    for own, q in zip(tiles, at_us, strict=True)
                ]
            )
        state[accumulator.name] = known[key]
    return state
