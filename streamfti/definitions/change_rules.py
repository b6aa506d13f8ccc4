"""What may be computed over the changes of a table's rows, and why the rest may not. Specifications only.

A change takes back what a row was and adds what it is. Counts, sums and means of exact numbers can follow that; a
minimum cannot, since what was taken back may have been it, and the one before it is not kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from streamfti.definitions.aggregations import Feature
from streamfti.definitions.dtypes import DType
from streamfti.definitions.sources import KafkaSource
from streamfti.definitions.steps import Apply, Where
from streamfti.definitions.streams import Stream
from streamfti.errors import DefinitionError

__all__ = ["LATEST", "NET", "features_over_changes"]

LATEST = "latest"
"""The kind of attributes: it knows of rows that are gone, and needs no former states."""

NET = ("net", 1)
"""The parameter of a sum of what changed within a window: of nothing it is 0, where a sum of values is missing."""


def features_over_changes(
    group: str, stream: Stream, entity: tuple[str, ...], features: Iterable[Feature]
) -> tuple[Feature, ...]:
    """Return the features of a group as they are taken over a stream of changes; all as they are over events.

    Raises:
        DefinitionError: if one of them cannot follow changes: the message says why, and what can.
    """
    source = stream.source
    if source.changes is None:
        return tuple(features)
    _check_steps(group, stream)
    for feature in features:
        if feature.aggregation.kind == LATEST:
            _check_latest(group, stream, entity, feature)
        else:
            _check_signed(source, feature)
    return tuple(_as_net(feature) for feature in features)


def _check_steps(group: str, stream: Stream) -> None:
    if not stream.source.before_images and any(isinstance(step, Apply) for step in stream.steps):
        msg = (
            f"feature group {group!r} must not apply a function to the changes of source {stream.source.name!r}: of a "
            "row that is gone only the key is known, and the function would be asked for the rest"
        )
        raise DefinitionError(msg, hint="derive() leaves null what is made of null")


def _check_latest(group: str, stream: Stream, entity: tuple[str, ...], feature: Feature) -> None:
    source = stream.source
    for step in stream.steps:
        if isinstance(step, Where):
            msg = (
                f"feature group {group!r} must read all changes of source {source.name!r}, as {feature.name!r} is an "
                f"attribute of its rows, got {step}: a row that comes to be left out would stay as it was before"
            )
            raise DefinitionError(msg, hint="fti.latest(fti.when(condition, field)) is missing where it does not hold")
    if sorted(entity) != sorted(source.row_key):
        msg = (
            f"the entity of feature group {group!r} must be the key of source {source.name!r}, {source.row_key!r}, as "
            f"{feature.name!r} is an attribute of its rows, got {entity!r}"
        )
        raise DefinitionError(msg, hint="a key of several rows has no latest one: one of them may be gone, not all")


def _check_signed(source: KafkaSource, feature: Feature) -> None:
    aggregation = feature.aggregation
    subject = f"feature {feature.qualified_name!r} over the changes of source {source.name!r}"
    other = "fti.latest() of a field, or a source whose messages are events, each of which stays true"
    if not aggregation.invertible:
        msg = (
            f"{subject} must be of a kind that can take a row's former state back (count, sum, mean), got "
            f"{aggregation.kind}: its state does not say what it would be without one of its values"
        )
        raise DefinitionError(msg, hint=other)
    if not source.before_images:
        msg = f"{subject} must know the former state of each row to take it back from a {aggregation.kind}"
        hint = "KafkaSource(..., changes='debezium', before_images=True), or " + other
        raise DefinitionError(msg, hint=hint)
    operand = aggregation.operand
    if aggregation.kind != "count" and operand is not None and operand.type.dtype is DType.FLOAT64:
        msg = (
            f"{subject} must be of integers or decimals, got {operand}, which is {operand.type}: floats that were "
            "added and taken back leave what rounding left of them"
        )
        raise DefinitionError(msg, hint="declare the field as fti.Decimal(p, s)")
    if aggregation.kind == "mean" and not feature.window.is_lifetime:
        msg = f"{subject} must be over the lifetime, as changes have no mean, got {feature.window.label}"
        raise DefinitionError(msg, hint=".lifetime() is of the rows that are there at the query time")
    if _is_net_sum(feature) and feature.default is not None:
        msg = f"{subject} must have no default, as the sum of no changes is 0, got {feature.default!r}"
        raise DefinitionError(msg)


def _is_net_sum(feature: Feature) -> bool:
    return feature.aggregation.kind == "sum" and not feature.window.is_lifetime


def _as_net(feature: Feature) -> Feature:
    if not _is_net_sum(feature):
        return feature
    aggregation = feature.aggregation
    return replace(feature, aggregation=replace(aggregation, parameters=(*aggregation.parameters, NET)))
