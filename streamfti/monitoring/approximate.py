"""Whether an approximate value is within its stated error of what the log says: exact values judge it, no sketch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamfti.compute.aggregators import aggregator
from streamfti.compute.point_in_time import EventIndex
from streamfti.compute.values import FeatureColumn, Status
from streamfti.definitions.aggregations import Feature
from streamfti.definitions.groups import FeatureGroup

__all__ = ["within_error"]

_EVERYTHING = np.iinfo(np.int64).max


def within_error(
    group: FeatureGroup,
    feature: Feature,
    events: pl.DataFrame,
    keys: pl.DataFrame,
    query_time_us: NDArray[np.int64],
    served: FeatureColumn,
    *,
    head_us: NDArray[np.int64] | None = None,
    also_by: Sequence[str] = (),
) -> NDArray[np.bool_]:
    """Return bool[n]: where a value is one that the sketch of a feature may give; nowhere if it has none.

    Args:
        group: the feature's group.
        feature: the feature.
        events: event frame of the group's stream.
        keys: n rows of the keys.
        query_time_us: int64[n].
        served: the n values.
        head_us: int64[n], where the windows end; by default every event counts, whenever it happened.
        also_by: as in `point_in_time`.
    """
    found = np.zeros(len(query_time_us), np.bool_)
    kind = aggregator(feature.aggregation)
    if feature.aggregation.operand is None or events.is_empty():
        return found
    index = EventIndex.of(group, events, keys, [feature], also_by)
    ends_us = np.full(len(found), _EVERYTHING) if head_us is None else head_us
    starts, stops = index.runs(feature.window, query_time_us, ends_us)
    operands = index.events.fields[kind.operand.name]
    for row, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        run = operands.between(start, stop)
        values = run.values if run.valid is None else run.values[run.valid]
        found[row] = served.status[row] != Status.EXPIRED and kind.accepts(values, _value(served, row))
    return found


def _value(served: FeatureColumn, row: int) -> Any:  # noqa: ANN401  # an int, a float or a str
    return served.values[row : row + 1].tolist()[0] if served.status[row] == Status.PRESENT else None
