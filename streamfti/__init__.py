"""StreamFTI: streaming-first features, training and inference for real-time AI.

A feature is a pure function of one entity's past events. Three kinds of pipeline move its values between three
stores, and a model may read only what the same definition wrote.

This module re-exports what a definition file needs and loads no third-party package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamfti.definitions.aggregations import count, last, max, mean, min, sum  # noqa: A004  # users write fti.sum
from streamfti.definitions.catalog import Catalog, load_catalog
from streamfti.definitions.decimals import Decimal
from streamfti.definitions.events import Event, EventTime
from streamfti.definitions.expressions import when
from streamfti.definitions.groups import FeatureGroup, feature_group
from streamfti.definitions.models import Model, label, model
from streamfti.definitions.services import FeatureService, request
from streamfti.definitions.sources import KafkaSource
from streamfti.errors import StreamFTIError

if TYPE_CHECKING:
    from streamfti.training_pipeline.training_set import TrainingSet

__all__ = [
    "Catalog",
    "Decimal",
    "Event",
    "EventTime",
    "FeatureGroup",
    "FeatureService",
    "KafkaSource",
    "Model",
    "StreamFTIError",
    "TrainingSet",
    "count",
    "feature_group",
    "label",
    "last",
    "load_catalog",
    "max",
    "mean",
    "min",
    "model",
    "request",
    "sum",
    "when",
]


def __getattr__(name: str) -> object:
    """Load `TrainingSet` when it is asked for: it needs numpy, which definitions do not."""
    if name == "TrainingSet":
        from streamfti.training_pipeline.training_set import TrainingSet  # noqa: PLC0415

        return TrainingSet
    msg = f"module 'streamfti' has no attribute {name!r}"
    raise AttributeError(msg)
