"""The laws of accumulators, each a function that yields pairs of states which must agree. No hypothesis in here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfti.compute.accumulators import Accumulator, EventColumns, State
from streamfti.compute.layout import Ring
from streamfti.testing.law_cases import N_PARTS, BrokenLaw, Case, gathered, raise_first, unchanged

__all__ = ["ACCUMULATOR_LAWS", "check_accumulator"]

_UNCHANGED = "no argument is changed"

Pairs = Iterator[tuple[State, State]]


class _Watched:
    """An accumulator whose arguments are looked at after each call."""

    def __init__(self, accumulator: Accumulator) -> None:
        self.accumulator = accumulator
        self.columns = accumulator.columns

    def zero(self, n: int) -> State:
        return self.accumulator.zero(n)

    def add(self, events: EventColumns, starts: Sequence[int]) -> State:
        if not len(events):
            return self.zero(1)
        return self._call(self.accumulator.add, events, np.array(starts, np.int64))

    def merge(self, left: State, right: State) -> State:
        return self._call(self.accumulator.merge, left, right)

    def merged(self, states: Sequence[State]) -> State:
        return functools.reduce(self.merge, states, self.zero(1))

    def reduce(self, state: State, mask: NDArray[np.bool_]) -> State:
        return self._call(self.accumulator.reduce, state, mask)

    def _call(self, call: Callable[..., State], *arguments: Any) -> State:  # noqa: ANN401
        return unchanged(_UNCHANGED, self.accumulator.name, call, *arguments)


@dataclass(frozen=True)
class _Trial:
    """An accumulator and its states of one case.

    Attributes:
        twin: one that is `alike`, over another operand: the same with other names.
        bulk: all events at once.
        parts: states of the events of each part; some are of no event at all.
    """

    it: _Watched
    twin: Accumulator
    case: Case
    bulk: State
    parts: Sequence[State]

    @classmethod
    def of(cls, accumulator: Accumulator, twin: Accumulator, case: Case) -> _Trial:
        it = _Watched(accumulator)
        parts = [it.add(case.columns(case.part(i)), [0]) for i in range(N_PARTS)]
        return cls(it, twin, case, it.add(case.columns(), [0]), parts)

    @property
    def mask(self) -> NDArray[np.bool_]:
        return np.array([self.case.mask], np.bool_)

    @property
    def stacked(self) -> State:
        """The states of the parts as slots: `[1, N_PARTS]`."""
        return {name: np.stack([p[name] for p in self.parts], axis=-1) for name in self.it.columns}


def _commutative(t: _Trial) -> Pairs:
    a, b, c = t.parts
    for one, other in ((a, b), (b, c)):
        yield t.it.merge(one, other), t.it.merge(other, one)


def _associative(t: _Trial) -> Pairs:
    a, b, c = t.parts
    yield t.it.merge(t.it.merge(a, b), c), t.it.merge(a, t.it.merge(b, c))


def _identity(t: _Trial) -> Pairs:
    zero = t.it.zero(1)
    yield t.it.merge(zero, t.bulk), t.bulk
    yield t.it.merge(t.bulk, zero), t.bulk
    yield t.it.merge(zero, zero), zero


def _runs_are_the_whole(t: _Trial) -> Pairs:
    runs = t.it.add(t.case.columns(), t.case.starts)
    yield t.it.merged([_row(runs, i) for i in range(len(t.case.starts))]), t.bulk


def _parts_are_the_whole(t: _Trial) -> Pairs:
    yield t.it.merged(t.parts), t.bulk


def _reduce_folds_merge(t: _Trial) -> Pairs:
    for mask in (t.mask, ~t.mask, np.ones_like(t.mask)):
        chosen = [part for part, inside in zip(t.parts, mask[0], strict=True) if inside]
        yield t.it.reduce(t.stacked, mask), t.it.merged(chosen)


def _reduce_of_nothing(t: _Trial) -> Pairs:
    yield t.it.reduce(t.stacked, np.zeros_like(t.mask)), t.it.zero(1)


def _reduce_does_not_look_behind_the_mask(t: _Trial) -> Pairs:
    """Slots that were never written hold zero bytes, not the identity."""
    unwritten = {name: np.where(t.mask, column, _unwritten(column)) for name, column in t.stacked.items()}
    yield t.it.reduce(unwritten, t.mask), t.it.reduce(t.stacked, t.mask)


def _unwritten(column: NDArray[Any]) -> NDArray[Any]:
    return np.full(column.shape, b"" if column.dtype == np.object_ else 0, column.dtype)


def _alike(t: _Trial) -> Pairs:
    """The read path reduces windows of all that are alike in one call of one of them: states `[n, k, n_slots]`."""
    if t.twin.alike != t.it.accumulator.alike:
        law = "accumulators that differ in their operand's name alone are alike"
        raise BrokenLaw(law, t.it.accumulator.name, f"{t.it.accumulator.alike} != {t.twin.alike}")
    stack = {name: np.stack([column, column], axis=1) for name, column in t.stacked.items()}
    together = t.it.reduce(stack, np.stack([t.mask, ~t.mask], axis=1))
    renamed = dict(zip(t.twin.columns, t.stacked.values(), strict=True))
    alone = t.twin.reduce(renamed, ~t.mask)
    yield _row(together, slice(None), 0), t.it.reduce(t.stacked, t.mask)
    yield _row(together, slice(None), 1), dict(zip(t.it.columns, alone.values(), strict=True))


def _rows(t: _Trial) -> Pairs:
    a, b, c = t.parts
    ahead, behind = _concatenated([a, b, c]), _concatenated([b, c, a])
    merged = t.it.merge(ahead, behind)
    for i, (one, other) in enumerate(((a, b), (b, c), (c, a))):
        yield _row(merged, i), t.it.merge(one, other)
    slots = {name: np.stack([ahead[name], behind[name]], axis=-1) for name in t.it.columns}
    mask = np.stack([t.mask[0], ~t.mask[0]], axis=-1)
    reduced = t.it.reduce(slots, mask)
    for i in range(N_PARTS):
        yield _row(reduced, i), t.it.reduce({name: column[[i]] for name, column in slots.items()}, mask[[i]])


def _slot(t: _Trial) -> Pairs:
    if any(dtype == np.object_ for dtype in t.it.columns.values()):
        return  # of variable size: it is bytes already
    ring = Ring(1, 1, {t.it.accumulator.name: t.it.accumulator}, 0)
    slot = np.zeros(1, ring.slot_dtype)
    for name, column in t.bulk.items():
        slot[name] = column
    loaded = np.frombuffer(slot.tobytes(), ring.slot_dtype)
    yield {name: loaded[name] for name in t.it.columns}, t.bulk


def _nulls(t: _Trial) -> Pairs:
    if t.case.operand is None or _counts_events(t):
        return
    there = [i for i, value in enumerate(t.case.values) if value is not None]
    if t.it.accumulator.passes_over_nulls:
        yield t.bulk, t.it.add(t.case.columns(there), [0])
    beneath = next((value for value in t.case.values if value is not None), 0)
    yield t.bulk, t.it.add(t.case.columns(beneath_nulls=beneath), [0])


def _counts_events(t: _Trial) -> bool:
    """Whether it is of the events, whatever their operand is: then it does not bear the operand's name."""
    return t.twin == t.it.accumulator


ACCUMULATOR_LAWS: Mapping[str, Callable[[_Trial], Pairs]] = {
    "merge is commutative": _commutative,
    "merge is associative": _associative,
    "zero is the identity of merge": _identity,
    "add of a run is the merge of its runs": _runs_are_the_whole,
    "add of all events is the merge of any parts": _parts_are_the_whole,
    "reduce folds merge over the mask": _reduce_folds_merge,
    "reduce of an empty mask is zero": _reduce_of_nothing,
    "reduce does not look behind the mask": _reduce_does_not_look_behind_the_mask,
    "one reduces a stack of all that are alike": _alike,
    "rows do not touch each other": _rows,
    "a state survives its slot in the store": _slot,
    "nulls take no part, whatever stands beneath them": _nulls,
}
"""By their names; and of every call: no argument is changed, and a state has just the columns that are promised."""


def check_accumulator(accumulator: Accumulator, twin: Accumulator, case: Case) -> None:
    """Check all laws on one case.

    Where a value is not finite, which no event is, the states that must agree need only show it alike.

    Args:
        accumulator: what is under test.
        twin: the same over another operand of the same type.
        case: the case.

    Raises:
        BrokenLaw: if a law does not hold.
    """
    for n in (0, 2):
        _check_columns(accumulator, accumulator.zero(n), n)
    broken: list[BrokenLaw] = []
    with np.errstate(invalid="warn" if case.is_finite else "ignore"):
        trial = _Trial.of(accumulator, twin, case)
        for law, pairs in ACCUMULATOR_LAWS.items():
            with gathered(broken):
                for one, other in pairs(trial):
                    _check_pair(law, accumulator, one, other, case)
    raise_first(broken)


def _check_pair(law: str, accumulator: Accumulator, one: State, other: State, case: Case) -> None:
    _check_columns(accumulator, one)
    _check_columns(accumulator, other)
    does_agree = accumulator.agree(one, other, case.accumulated()) if case.is_finite else _show_alike(one, other)
    if not does_agree:
        raise BrokenLaw(law, accumulator.name, f"one:   {_told(one)}\nother: {_told(other)}")


def _check_columns(accumulator: Accumulator, state: State, n: int = 1) -> None:
    found = {name: (column.dtype, column.shape) for name, column in state.items()}
    promised = {name: (dtype, (n,)) for name, dtype in accumulator.columns.items()}
    if found != promised or list(found) != list(promised):
        law = "a state has just the columns that are promised, in their order, one value a row"
        raise BrokenLaw(law, accumulator.name, f"promised: {promised}\nfound:    {found}")


def _show_alike(one: State, other: State) -> bool:
    return all(
        np.array_equal(np.isfinite(column), np.isfinite(other[name]))
        for name, column in one.items()
        if column.dtype.kind == "f"
    )


def _row(state: State, *at: int | slice) -> State:
    """Return one row of a state, as a state of one row."""
    return {name: np.atleast_1d(np.asarray(column[at], column.dtype)) for name, column in state.items()}


def _concatenated(states: Sequence[State]) -> State:
    return {name: np.concatenate([state[name] for state in states]) for name in states[0]}


def _told(state: State) -> dict[str, list[Any]]:
    return {name: column.tolist() for name, column in state.items()}
