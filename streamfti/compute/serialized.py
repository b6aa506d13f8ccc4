"""Accumulators whose state has no fixed width: a string of bytes for each entity and tile. numpy only.

Strings and sketches have such state. It is its own stored form, and lives beside the record (`side_records`). What
works on it is a Python loop over states, where the accumulators of fixed width are one call of numpy for all of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from streamfti.compute.accumulators import Accumulator, EventColumns, State
from streamfti.definitions.expressions import Expression

__all__ = ["SerializedAccumulator", "objects", "valid_runs"]

AnyArray = NDArray[Any]


def objects(values: Sequence[object]) -> AnyArray:
    """Return object[n] of n values, whatever they are."""
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array


def valid_runs(
    events: EventColumns, operand: Expression, starts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the places of the events whose operand is not null, and where each run begins and ends among these."""
    valid = events.fields[operand.name].valid
    places = np.arange(len(events)) if valid is None else np.flatnonzero(valid)
    ends = np.append(starts[1:], len(events))
    return places, np.searchsorted(places, starts), np.searchsorted(places, ends)


@dataclass(frozen=True)
class SerializedAccumulator(Accumulator):
    """An accumulator with one column of `bytes`; `b""` is the state of no events.

    Subclasses say how events are added and how states are folded; the rest follows from that.
    """

    @abstractmethod
    def fold(self, states: Sequence[bytes]) -> bytes:
        """Return the state of all together, of at least two states, none of which is that of no events."""

    def together(self, states: Iterable[bytes]) -> bytes:
        """Return the state of all together, of any number of states."""
        found = [state for state in states if state]
        if len(found) > 1:
            return self.fold(found)
        return found[0] if found else b""

    @property
    @override
    def columns(self) -> Mapping[str, np.dtype[Any]]:
        return {self.name: np.dtype(np.object_)}

    @override
    def zero(self, n: int) -> State:
        return {self.name: objects([b""] * n)}

    @override
    def merge(self, left: State, right: State) -> State:
        one, other = left[self.name], right[self.name]
        pairs = zip(one.ravel().tolist(), other.ravel().tolist(), strict=True)
        return {self.name: objects([self.together(pair) for pair in pairs]).reshape(one.shape)}

    @override
    def reduce(self, state: State, mask: NDArray[np.bool_]) -> State:
        column = state[self.name]
        folded = np.empty(column.shape[:-1], np.object_)
        for place in np.ndindex(folded.shape):
            folded[place] = self.together(column[place][mask[place]].tolist())
        return {self.name: folded}
