"""Accumulators that keep strings by the order of their events: the first, the last, the last n.

A string is kept behind 16 bytes that sort as (event time, position) does, so that of two states the last is the
greater one.
"""

from __future__ import annotations

import struct
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from streamfti.compute.accumulators import Change, EventColumns, State
from streamfti.compute.serialized import SerializedAccumulator, objects, valid_runs
from streamfti.definitions.dtypes import DType
from streamfti.definitions.expressions import Expression

__all__ = ["FirstText", "LastNText", "LastText", "LatestText"]

AnyArray = NDArray[Any]

_ORDER_BYTES = 16
_LENGTH = struct.Struct("<I")
_THERE, _NOT = b"\x01", b"\x00"


def _orders(events: EventColumns, at: NDArray[np.int64]) -> list[bytes]:
    """Return for each of some events the 16 bytes by which it sorts."""
    pairs = np.stack([events.event_time_us[at], events.position[at]], axis=1)
    data = (pairs.view(np.uint64) ^ np.uint64(1 << 63)).astype(">u8").tobytes()
    return [data[i : i + _ORDER_BYTES] for i in range(0, len(data), _ORDER_BYTES)]


@dataclass(frozen=True)
class _EdgeText(SerializedAccumulator):
    """One string."""

    operand: Expression
    dtypes: ClassVar[frozenset[DType]] = frozenset({DType.STRING})

    @property
    @override
    def name(self) -> str:
        return f"{type(self).__name__.removesuffix('Text').lower()}({self.operand.name})"

    @abstractmethod
    def _edge(self, ranges: tuple[NDArray[np.int64], NDArray[np.int64]]) -> NDArray[np.int64]:
        """Return of ranges that are not empty, by their begins and ends, where the value of each is."""

    @override
    def add(self, events: EventColumns, starts: NDArray[np.int64]) -> State:
        places, begin, end = valid_runs(events, self.operand, starts)
        there = np.flatnonzero(begin < end)
        at = places[self._edge((begin[there], end[there]))]
        texts = events.fields[self.operand.name].values[at].tolist()
        states = objects([b""] * len(starts))
        states[there] = objects([o + text.encode() for o, text in zip(_orders(events, at), texts, strict=True)])
        return {self.name: states}

    def texts(self, state: State) -> tuple[AnyArray, NDArray[np.bool_]]:
        """Return the strings, object[...], empty where there is none, and where there is one."""
        column = state[self.name]
        found = [one[_ORDER_BYTES:].decode() for one in column.ravel().tolist()]
        return objects(found).reshape(column.shape), np.asarray(column != b"", np.bool_)


@dataclass(frozen=True)
class LastText(_EdgeText):
    """The string with the highest event time; ties go to the highest partition, then offset."""

    def _edge(self, ranges: tuple[NDArray[np.int64], NDArray[np.int64]]) -> NDArray[np.int64]:
        return ranges[1] - 1

    @override
    def fold(self, states: Sequence[bytes]) -> bytes:
        return max(states)


@dataclass(frozen=True)
class LatestText(LastText):
    """What the newest event says, also if that is nothing: behind its order, 1 and the string, or 0."""

    passes_over_nulls: ClassVar[bool] = False

    @override
    def add(self, events: EventColumns, starts: NDArray[np.int64]) -> State:
        column = events.fields[self.operand.name]
        index = np.arange(len(events))
        there = np.ones(len(events), np.bool_) if column.valid is None else column.valid
        if events.change is not None:
            index = np.where(events.change == Change.WAS, -1, index)
            there = there & (events.change == Change.IS)
        edge = np.maximum.reduceat(index, starts)
        found = np.flatnonzero(edge >= 0)
        at = edge[found]
        said = zip(_orders(events, at), there[at].tolist(), column.values[at].tolist(), strict=True)
        states = objects([b""] * len(starts))
        states[found] = objects([order + (_THERE + text.encode() if is_so else _NOT) for order, is_so, text in said])
        return {self.name: states}

    @override
    def texts(self, state: State) -> tuple[AnyArray, NDArray[np.bool_]]:
        column = state[self.name]
        said = [one[_ORDER_BYTES:] for one in column.ravel().tolist()]
        present = np.array([one[:1] == _THERE for one in said], np.bool_)
        return objects([one[1:].decode() for one in said]).reshape(column.shape), present.reshape(column.shape)


@dataclass(frozen=True)
class FirstText(_EdgeText):
    """The string with the lowest event time; ties go to the lowest partition, then offset."""

    def _edge(self, ranges: tuple[NDArray[np.int64], NDArray[np.int64]]) -> NDArray[np.int64]:
        return ranges[0]

    @override
    def fold(self, states: Sequence[bytes]) -> bytes:
        return min(states)


@dataclass(frozen=True)
class LastNText(SerializedAccumulator):
    """The last n strings, the newest first: of each its order, its length and its bytes."""

    operand: Expression
    n: int = 3
    dtypes: ClassVar[frozenset[DType]] = frozenset({DType.STRING})

    @property
    @override
    def name(self) -> str:
        return f"last_{self.n}({self.operand.name})"

    @override
    def add(self, events: EventColumns, starts: NDArray[np.int64]) -> State:
        places, begin, end = valid_runs(events, self.operand, starts)
        begin = np.maximum(begin, end - self.n)
        texts = [text.encode() for text in events.fields[self.operand.name].values[places].tolist()]
        orders = _orders(events, places)
        states = [
            b"".join(
                orders[i] + _LENGTH.pack(len(texts[i])) + texts[i] for i in range(int(stop) - 1, int(first) - 1, -1)
            )
            for first, stop in zip(begin, end, strict=True)
        ]
        return {self.name: objects(states)}

    @override
    def fold(self, states: Sequence[bytes]) -> bytes:
        newest_first = sorted((entry for state in states for entry in _entries(state)), reverse=True)
        return b"".join(newest_first[: self.n])

    def texts(self, state: State, place: int) -> tuple[AnyArray, NDArray[np.bool_]]:
        """Return the strings at a place, 0 being the newest: object[...], and where there is one."""
        column = state[self.name]
        found = [list(_entries(one))[place : place + 1] for one in column.ravel().tolist()]
        texts = [entry[0][_ORDER_BYTES + _LENGTH.size :].decode() if entry else "" for entry in found]
        present = np.array([bool(entry) for entry in found], np.bool_)
        return objects(texts).reshape(column.shape), present.reshape(column.shape)


def _entries(state: bytes) -> Iterator[bytes]:
    """Cut a state into its entries."""
    start = 0
    while start < len(state):
        (length,) = _LENGTH.unpack_from(state, start + _ORDER_BYTES)
        stop = start + _ORDER_BYTES + _LENGTH.size + length
        yield state[start:stop]
        start = stop
