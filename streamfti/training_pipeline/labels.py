"""Labels: joins what came true to the moments that a model predicts at, by key, within the bound of the definition."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamfti.compute.expressions import evaluate
from streamfti.definitions.models import Label, Model

__all__ = ["LabelledSpine", "join_labels"]


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSpine:
    """The spine events that have a label, in their order."""

    frame: pl.DataFrame
    """Event frame of the spine source."""
    event_time_us: NDArray[np.int64]
    label: pl.Series
    """Boolean or number; never null."""
    label_time_us: NDArray[np.int64]
    dropped_without_label: int
    """Mature spine events for which no label event came within the bound, or one whose value is null."""
    dropped_immature: int
    """Spine events whose bound had not passed yet when knowledge ends."""


def join_labels(model: Model, spine: pl.DataFrame, outcomes: pl.DataFrame, known_until_us: int) -> LabelledSpine:
    """Give each mature spine event the earliest label event of its key in `[event time, event time + within)`.

    A spine event is mature if its whole bound lies before the end of knowledge, whether or not its label is there
    already: to keep the early labels of an unfinished bound would favour what comes true fast.

    Args:
        model: names the spine and the label.
        spine: event frame of the spine source, sorted by event time.
        outcomes: event frame of the label source, sorted by (event time, partition, offset).
        known_until_us: label events before this time are all in `outcomes`.
    """
    at = spine[model.spine.schema.event_time].to_physical().rename("_at")
    mature = at + model.label.within_us <= known_until_us
    left = pl.DataFrame({"_key": spine[model.label.on], "_at": at}).filter(mature)
    joined = left.join_asof(
        _outcomes(model.label, outcomes),
        left_on="_at",
        right_on="_label_time",
        by="_key",
        strategy="forward",
        coalesce=False,
        check_sortedness=False,  # both sides come sorted; polars cannot check it within keys and warns
    )
    found = (joined["_label_time"] - joined["_at"] < model.label.within_us) & joined["_label"].is_not_null()
    found = found.fill_null(value=False)
    kept = joined.filter(found)
    return LabelledSpine(
        frame=spine.filter(mature).filter(found),
        event_time_us=kept["_at"].to_numpy(),
        label=kept["_label"],
        label_time_us=kept["_label_time"].to_numpy(),
        dropped_without_label=len(joined) - len(kept),
        dropped_immature=len(spine) - len(joined),
    )


def _outcomes(label: Label, outcomes: pl.DataFrame) -> pl.DataFrame:
    """Return key, time and value of the label events; of one key at one time, the first."""
    columns = {
        "_key": outcomes[label.on],
        "_label_time": outcomes[label.source.schema.event_time].to_physical(),
        "_label": evaluate(label.value, outcomes),
    }
    return pl.DataFrame(columns).drop_nulls("_key").unique(["_key", "_label_time"], keep="first", maintain_order=True)
