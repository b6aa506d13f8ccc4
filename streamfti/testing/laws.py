"""The laws of aggregations as a test of yours: whatever obeys them has the same value online, offline and backfilled.

    from streamfti.testing.laws import laws_of

    test_geometric_mean = laws_of(fti.aggregate(GeometricMean, Payment.amount))

Tiles are merged in any order, split anywhere, stored and read back; an aggregation whose partial states depend on
that is skew. Needs the packages hypothesis and pytest; nothing else of StreamFTI imports this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from streamfti.compute.accumulators import Accumulator
from streamfti.compute.aggregators import Aggregator, aggregator
from streamfti.definitions.aggregations import Aggregation, AggregationSet, WindowedAggregation
from streamfti.definitions.expressions import Expression, Field
from streamfti.testing.accumulator_laws import ACCUMULATOR_LAWS, check_accumulator
from streamfti.testing.aggregator_laws import AGGREGATOR_LAWS, Expected, check_aggregator
from streamfti.testing.law_cases import BrokenLaw, Case, cases

__all__ = ["ACCUMULATOR_LAWS", "AGGREGATOR_LAWS", "BrokenLaw", "Case", "Expected", "laws_of"]


@dataclass(frozen=True, repr=False)
class _Subject:
    """What is held to the laws: an aggregator, or, with a place, one of its accumulators."""

    aggregation: Aggregation
    place: int | None = None

    @property
    def tested(self) -> Aggregator:
        return aggregator(self.aggregation)

    @property
    def twin(self) -> Aggregator:
        """The same over another operand, in all but its name."""
        operand = self.aggregation.operand
        other = None if operand is None else Field("Twin", "twin", operand.type)
        return aggregator(replace(self.aggregation, operand=other))

    @property
    def accumulator(self) -> Accumulator | None:
        return None if self.place is None else self.tested.accumulators[self.place]

    @override
    def __repr__(self) -> str:
        return str(self.aggregation if self.accumulator is None else self.accumulator.name)

    def check(self, case: Case, expected: Expected | None) -> None:
        try:
            if self.place is not None:
                check_accumulator(self.tested.accumulators[self.place], self.twin.accumulators[self.place], case)
            elif case.is_finite:
                check_aggregator(self.tested, self.twin, case, expected)
        except BrokenLaw as broken:
            broken.add_note(f"with the events of {case}")
            raise


def laws_of(
    *aggregations: AggregationSet | WindowedAggregation,
    values: st.SearchStrategy[Any] | None = None,
    expected: Expected | None = None,
) -> Callable[..., None]:
    """Return a pytest test that holds aggregations, and each accumulator that they stand on, to all laws.

    It fails with a `BrokenLaw`: the smallest example that was found, the law that it breaks, and those that others
    break. How many examples are tried is up to the settings of hypothesis.

        geometric_mean = fti.aggregate(GeometricMean, Payment.amount)
        test_geometric_mean = laws_of(geometric_mean, values=st.floats(0.01, 1e6), expected=statistics.geometric_mean)

    Args:
        aggregations: what is tested, as in a feature group, with windows or without. Over an operand that may be null,
            nulls come too.
        values: what the operand's values may be, as accumulators see them: booleans as 0 and 1, decimals unscaled;
            by default whatever its type can hold, and floats that are not finite.
        expected: what the value must be, if that can be said: of the values in their order, without nulls.
    """
    subjects = list(_subjects(a for found in aggregations for a in found.aggregations))

    @pytest.mark.parametrize("subject", subjects, ids=repr)
    def holds_all_laws(subject: _Subject) -> None:
        broken: set[str] = set()

        @settings(report_multiple_bugs=False, database=None)  # the database would take all subjects for one test
        @given(case=cases(subject.aggregation.operand, values))
        def try_all(case: Case) -> None:
            try:
                subject.check(case, expected)
            except BrokenLaw as error:
                broken.update(error.laws)
                raise

        try:
            try_all()
        except BrokenLaw as error:
            error.add_note(f"laws that some example breaks: {sorted(broken)}")
            raise

    test: Callable[..., None] = holds_all_laws
    return test


def _subjects(aggregations: Iterable[Aggregation]) -> Iterator[_Subject]:
    """Iterate over aggregations and their accumulators; each of these once for each operand."""
    seen: set[tuple[str, Expression | None]] = set()
    for aggregation in aggregations:
        yield _Subject(aggregation)
        for place, accumulator in enumerate(aggregator(aggregation).accumulators):
            key = accumulator.name, aggregation.operand
            if key not in seen:
                seen.add(key)
                yield _Subject(aggregation, place)
