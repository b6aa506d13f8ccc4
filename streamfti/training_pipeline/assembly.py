"""Builds training sets: spine and labels from the offline log, stored features from history."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import polars as pl
from numpy.typing import NDArray

from streamfti.clock import from_us, to_us
from streamfti.compute.decimals import as_float64
from streamfti.compute.returned_values import AnyColumn
from streamfti.compute.vectorize import InputPlan, model_input
from streamfti.definitions.models import Model
from streamfti.errors import TrainingError
from streamfti.stores.offline.log import OfflineLog
from streamfti.training_pipeline.feature_history import PinnedLog, historical_columns, input_frame
from streamfti.training_pipeline.labels import LabelledSpine, join_labels
from streamfti.training_pipeline.training_set import TrainingSet
from streamfti.training_pipeline.vocabulary import Vocabulary

__all__ = ["Progress", "build_training_set"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many parts of it are finished, and how many there are."""


def build_training_set(
    model: Model,
    log: OfflineLog,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> TrainingSet:
    """Build the rows of a model from the offline log: what serving would have seen at each spine event.

    Every source is pinned to one snapshot of the log, named in `origin`. An event at exactly the time of a spine
    event does not count for its features. The vocabulary is learned from all rows.

    Args:
        model: says the spine, the label and the features.
        log: holds the events of all the sources.
        start: the first event time of the spine; by default the first there is.
        end: where knowledge ends: later events do not exist, and a spine event counts only if the bound of its
            label has passed. By default just after the newest label event.
        seed: handed on to the trainer.
        progress: told of each part.

    Raises:
        TrainingError: if no row is left, or all labels of a binary model are equal (the message counts what was
            left out), or as `historical_columns` does.
    """
    report = progress or _silent
    reader = PinnedLog(log)
    parts = len(model.features.groups) + 1
    report("training set", 0, parts)
    spine, known_until = _labelled_spine(model, reader, start, end)
    _check_labels(model, spine)
    columns = historical_columns(
        model.features,
        spine.frame,
        spine.event_time_us,
        reader,
        end=known_until,
        read=lambda done: report("training set", done, parts),
    )
    origin = _origin(model, spine, reader, start, known_until)
    report("training set", parts, parts)
    plan = InputPlan.of(model.features)
    inputs = model_input(plan, columns)
    return TrainingSet(
        plan=plan,
        inputs=inputs,
        vocabulary=Vocabulary.learn(inputs.categories),
        y=_targets(model, spine),
        event_time_us=spine.event_time_us,
        label_time_us=spine.label_time_us,
        frame=_frame(model, spine, columns),
        origin=origin,
        seed=seed,
    )


def _silent(_stage: str, _done: int, _total: int) -> None:
    """Report to nobody."""


def _labelled_spine(
    model: Model, reader: PinnedLog, start: datetime | None, end: datetime | None
) -> tuple[LabelledSpine, datetime]:
    source = model.label.source
    outcomes = reader.read(source, end=end)
    if outcomes.is_empty():
        msg = f"the log of source {source.name!r} must hold label events for model {model.name!r}, got none"
        raise TrainingError(msg, hint="run the feature pipeline on the topic first, or widen start and end")
    newest_us = int(outcomes[source.schema.event_time].to_physical()[-1])
    known_until = end or from_us(newest_us + 1)
    spine = reader.read(model.spine, start=start, end=known_until)
    return join_labels(model, spine, outcomes, to_us(known_until)), known_until


def _check_labels(model: Model, spine: LabelledSpine) -> None:
    left_out = f"{spine.dropped_immature} immature and {spine.dropped_without_label} without label left out"
    if spine.frame.is_empty():
        msg = f"the training set of model {model.name!r} must have rows, got none ({left_out})"
        raise TrainingError(msg, hint="widen start and end, or check the key and the bound of the label")
    if model.task == "binary" and spine.label.n_unique() < 2:
        msg = f"the labels of model {model.name!r} must be of both classes, got only {spine.label[0]} ({left_out})"
        raise TrainingError(msg, hint="widen start and end, or check the condition of the label")


def _targets(model: Model, spine: LabelledSpine) -> NDArray[Any]:
    return (spine.label.cast(pl.Int64) if model.task == "binary" else as_float64(spine.label)).to_numpy()


def _frame(model: Model, spine: LabelledSpine, columns: dict[str, AnyColumn]) -> pl.DataFrame:
    keys = dict.fromkeys([model.label.on, *model.features.entity_fields])
    return pl.DataFrame(
        {
            **{name: spine.frame[name] for name in keys},
            "_query_time": spine.frame[model.spine.schema.event_time],
            **input_frame(model.features, columns).to_dict(),
            "_label": spine.label,
        }
    )


def _origin(
    model: Model, spine: LabelledSpine, reader: PinnedLog, start: datetime | None, end: datetime
) -> dict[str, Any]:
    label = model.label
    return {
        "spine": model.spine.name,
        "label": str(label.value),
        "label_source": label.source.name,
        "label_on": label.on,
        "label_within_us": label.within_us,
        "start": start.isoformat() if start else None,
        "end": end.isoformat(),
        "rows": len(spine.frame),
        "dropped_without_label": spine.dropped_without_label,
        "dropped_immature": spine.dropped_immature,
        "snapshots": {name: snapshot.id for name, snapshot in sorted(reader.snapshots.items())},
    }
