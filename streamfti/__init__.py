"""StreamFTI: streaming-first features, training and inference for real-time AI.

A feature is a pure function of one entity's past events. Three kinds of pipeline move its values between three
stores, and a model may read only what the same definition wrote.

This module re-exports what a definition file needs and loads no third-party package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamfti.definitions.aggregation_kinds import (
    aggregate,
    count,
    first,
    last,
    last_n,
    latest,
    max,  # noqa: A004  # users write fti.max
    mean,
    min,  # noqa: A004
    stddev,
    sum,  # noqa: A004
    time_since_last,
    variance,
)
from streamfti.definitions.approximations import approx_distinct, quantiles, top_k
from streamfti.definitions.batch_functions import batch_function
from streamfti.definitions.catalog import Catalog, load_catalog
from streamfti.definitions.decimals import Decimal
from streamfti.definitions.events import Event, EventTime
from streamfti.definitions.expressions import when
from streamfti.definitions.groups import FeatureGroup, feature_group
from streamfti.definitions.models import Model, label, model
from streamfti.definitions.on_demand import OnDemandFeature, on_demand, query_time
from streamfti.definitions.request_features import Request, request
from streamfti.definitions.services import FeatureService
from streamfti.definitions.sources import KafkaSource
from streamfti.errors import StreamFTIError

if TYPE_CHECKING:
    from streamfti.compute.returned_values import Column
    from streamfti.training_pipeline.training_set import TrainingSet

__all__ = [
    "Catalog",
    "Column",
    "Decimal",
    "Event",
    "EventTime",
    "FeatureGroup",
    "FeatureService",
    "KafkaSource",
    "Model",
    "OnDemandFeature",
    "Request",
    "StreamFTIError",
    "TrainingSet",
    "aggregate",
    "approx_distinct",
    "batch_function",
    "count",
    "feature_group",
    "first",
    "label",
    "last",
    "last_n",
    "latest",
    "load_catalog",
    "max",
    "mean",
    "min",
    "model",
    "on_demand",
    "quantiles",
    "query_time",
    "request",
    "stddev",
    "sum",
    "time_since_last",
    "top_k",
    "variance",
    "when",
]


def __getattr__(name: str) -> object:
    """Load `Column` and `TrainingSet` when they are asked for: they need numpy, which definitions do not."""
    if name == "Column":
        from streamfti.compute.returned_values import Column  # noqa: PLC0415

        return Column
    if name == "TrainingSet":
        from streamfti.training_pipeline.training_set import TrainingSet  # noqa: PLC0415

        return TrainingSet
    msg = f"module 'streamfti' has no attribute {name!r}"
    raise AttributeError(msg)
