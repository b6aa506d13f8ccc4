"""Feature groups: the features of one entity from one source, kept together and versioned together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from streamfti.definitions.aggregations import Feature, WindowedAggregation
from streamfti.definitions.change_rules import features_over_changes
from streamfti.definitions.dtypes import KEY_TYPES
from streamfti.definitions.durations import DAY_US, SECOND_US, Duration, duration_us
from streamfti.definitions.events import Field
from streamfti.definitions.sources import KafkaSource
from streamfti.definitions.streams import Stream
from streamfti.errors import DefinitionError, did_you_mean

__all__ = ["Feature", "FeatureGroup", "feature_group"]

_LEAST_MAX_STALENESS_US = 3 * SECOND_US  # a feature pipeline tells once a second that a group is fresh


@dataclass(frozen=True)
class FeatureGroup:
    """Features of one entity from one source. Build it with the decorator `feature_group`.

    `CardSpend.spend["24h"]` is one of its features, and so is `CardSpend.spend_24h`; type checkers, to which a
    decorated class stays a class, know only the first.
    """

    name: str
    version: int
    stream: Stream
    """What it reads: the events of a source, or what is derived from them."""
    entity: tuple[str, ...]
    """The fields of the stream that together are the entity key; order matters."""
    features: tuple[Feature, ...]
    retention_us: int | None
    """How long an idle entity's record stays in the online store; None: for ever."""
    doc: str = ""
    max_staleness_us: int | None = None
    """How fresh its values are promised to be; no part of what they mean. None: nothing is promised."""

    def __post_init__(self) -> None:
        if self.version < 1:
            msg = f"feature group {self.name!r} must have a version from 1 up, got {self.version!r}"
            raise DefinitionError(msg)
        if not self.features:
            msg = f"feature group {self.name!r} must have at least one feature, got none"
            raise DefinitionError(msg, hint="add a line such as `payments = fti.count().over('1h')`")
        if not self.entity or len(set(self.entity)) < len(self.entity):
            msg = (
                f"feature group {self.name!r} must have an entity of one or more fields, each once, got {self.entity!r}"
            )
            raise DefinitionError(msg)
        for key_field in self.entity_fields:
            if key_field.type.dtype not in KEY_TYPES:
                msg = f"entity key {key_field} must be str, int or bool, got {key_field.type}"
                raise DefinitionError(msg)
        for feature in self.features:
            self._check_field(feature)
        self._check_names()

    def _check_field(self, feature: Feature) -> None:
        operand = feature.aggregation.operand
        for field in () if operand is None else operand.fields:
            if not field.same_as(self.stream.schema.field(field.name)):
                msg = f"feature {feature.qualified_name!r} must use a field of {self.stream.schema.name}, got {field}"
                raise DefinitionError(msg)

    def _check_names(self) -> None:
        names = [f.name for f in self.features]
        for name in names:
            if names.count(name) > 1:
                msg = f"feature group {self.name!r} must not have two features named {name!r}"
                raise DefinitionError(msg)

    @property
    def source(self) -> KafkaSource:
        """Where its events come from: the topic, its log and the progress in it. Of a join, the left one's."""
        return self.stream.source

    @property
    def max_future_skew_us(self) -> int:
        """How far ahead of the broker's time its events may be: the most that one of its sources allows."""
        return max(source.max_future_skew_us for source in self.stream.sources)

    @property
    def entity_fields(self) -> tuple[Field, ...]:
        """The fields of the entity key, in order. A nullable one skips the events in which it is null."""
        return tuple(self.stream.schema.field(name) for name in self.entity)

    def feature(self, name: str) -> Feature:
        """Return the feature of that name.

        Raises:
            DefinitionError: if there is none.
        """
        for feature in self.features:
            if feature.name == name:
                return feature
        msg = f"feature group {self.name!r} has no feature {name!r}"
        raise DefinitionError(msg, hint=did_you_mean(name, [f.name for f in self.features]))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # a feature, or all windows of an attribute
        if name.startswith("_"):
            raise AttributeError(name)
        of_attribute = tuple(f for f in self.features if f.attribute == name)
        if of_attribute and of_attribute[0].name != name:
            return _windowed(of_attribute)
        try:
            return self.feature(name)
        except DefinitionError as exc:
            raise AttributeError(str(exc)) from exc


def feature_group(
    *,
    source: Stream,
    entity: str | tuple[str, ...],
    version: int = 1,
    retention: Duration | None = None,
    max_staleness: Duration | None = None,
) -> Callable[[type], FeatureGroup]:
    """Turn a class whose attributes are windowed aggregations into a `FeatureGroup`.

    Args:
        source: where the events come from: a source, or a stream that was derived from one.
        entity: the field, or the tuple of fields, that identifies the entity; derived ones too. An event in which
            one of them is null belongs to no entity of this group and is passed over by it.
        version: raise it when a change gives stored values another meaning.
        retention: how long an idle entity's record stays in the online store; by default twice the longest
            window (or `expires_after`) and a day, so that a pipeline that is behind does not find its tiles
            expired. With a lifetime feature it stays for ever, and there is none to give.
        max_staleness: how fresh the group must be, at least "3s": where what was in the topic so long ago may not be
            online yet, answers and metrics call it stale. Neither values nor statuses change, nor what a value means.

    Raises:
        DefinitionError: if the group is impossible; the message names the feature and what it must be.
    """

    def build(cls: type) -> FeatureGroup:
        features = tuple(_features(cls))
        retention_us = _retention_us(cls.__name__, features, retention)
        staleness_us = _max_staleness_us(cls.__name__, max_staleness)
        keys = (entity,) if isinstance(entity, str) else entity
        features = features_over_changes(cls.__name__, source, keys, features)
        doc = (cls.__doc__ or "").strip()
        return FeatureGroup(cls.__name__, version, source, keys, features, retention_us, doc, staleness_us)

    return build


def _retention_us(name: str, features: tuple[Feature, ...], retention: Duration | None) -> int | None:
    subject = f"retention of feature group {name!r}"
    if any(f.window.is_lifetime for f in features):
        if retention is not None:
            msg = f"{subject} must not be given, as it has features over the lifetime of an entity, got {retention!r}"
            raise DefinitionError(msg, hint="a lifetime that were forgotten would differ from history")
        return None
    longest_us = max((max(f.window.length_us, f.expires_after_us or 0) for f in features), default=0)
    retention_us = 2 * longest_us + DAY_US if retention is None else duration_us(retention, subject=subject)
    if retention_us < longest_us:
        msg = f"{subject} must be at least its longest window and expires_after, got {retention!r}"
        raise DefinitionError(msg)
    return retention_us


def _max_staleness_us(name: str, max_staleness: Duration | None) -> int | None:
    if max_staleness is None:
        return None
    subject = f"max_staleness of feature group {name!r}"
    staleness_us = duration_us(max_staleness, subject=subject)
    if staleness_us < _LEAST_MAX_STALENESS_US:
        msg = f"{subject} must be at least 3s, got {max_staleness!r}"
        raise DefinitionError(msg, hint="a feature pipeline says once a second that a group is fresh")
    return staleness_us


def _windowed(features: tuple[Feature, ...]) -> WindowedAggregation:
    """Return all windows and outputs of an attribute."""
    first = features[0]
    return WindowedAggregation(
        tuple(dict.fromkeys(f.aggregation for f in features)),
        tuple(dict.fromkeys(f.window for f in features)),
        first.default,
        first.expires_after_us,
        features,
    )


def _features(cls: type) -> list[Feature]:
    found: list[Feature] = []
    for name, value in vars(cls).items():
        if name.startswith("__"):
            continue
        if not isinstance(value, WindowedAggregation):
            msg = f"{cls.__name__}.{name} must be an aggregation over windows, got {value!r}"
            raise DefinitionError(msg, hint="did you forget .over('1h')?")
        found += value.build_features(cls.__name__, name)
    return found
