"""Fingerprints: hashes of what changes a value's meaning, and of nothing else.

Renaming a Python module or rewriting a docstring changes no fingerprint; another hop, default or field type does, and
so does another line in the function of an on-demand feature.
A model carries the fingerprint of its feature service; a server refuses to serve it with another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from streamfti.definitions.aggregations import Feature
from streamfti.definitions.expressions import Expression, Field
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.on_demand import OnDemandFeature, OnDemandInput
from streamfti.definitions.request_features import RequestFeature
from streamfti.definitions.services import FeatureService
from streamfti.definitions.streams import EnrichedStream, JoinedStream

__all__ = ["group_fingerprint", "group_meaning", "service_fingerprint", "service_meaning"]

Meaning = dict[str, object]


def _feature_meaning(feature: Feature) -> Meaning:
    aggregation = feature.aggregation
    operand = aggregation.operand
    meaning: Meaning = {
        "name": feature.name,
        "aggregation": aggregation.kind,
        "field": _operand_meaning(operand),
        "length_us": feature.window.length_us,
        "hop_us": feature.window.hop_us,
        "default": feature.default,
    }
    optional = {
        "parameters": [list(parameter) for parameter in aggregation.parameters],
        "output": aggregation.output,
        "expires_after_us": feature.expires_after_us,
    }
    return meaning | {name: value for name, value in optional.items() if value}


def _operand_meaning(operand: Expression | None) -> list[object] | None:
    if operand is None:
        return None
    return [operand.name, str(operand.type)] if isinstance(operand, Field) else operand.document()


def _group_identity(group: FeatureGroup) -> Meaning:
    source, origin = group.source, group.stream.origin
    identity: Meaning = {
        "group": group.name,
        "version": group.version,
        "source": source.name,
        "event_time": group.stream.schema.event_time,
        "entity": [[f.name, str(f.type)] for f in group.entity_fields],
        "max_future_skew_us": group.max_future_skew_us,
    }
    if isinstance(origin, JoinedStream):
        identity["joined"] = origin.document()
    if isinstance(origin, EnrichedStream):
        identity["enriched"] = origin.document()
    if group.stream.steps:
        identity["steps"] = [step.document() for step in group.stream.steps]
    if source.changes is not None:
        identity["changes"] = [source.changes, *source.row_key, source.before_images]
    return identity


_STORED_FORM = 2
"""Raised when the same definition comes to be stored in another form: what is stored by the old one is not read."""


def group_meaning(group: FeatureGroup) -> Meaning:
    """Return what the values of a group mean, as plain JSON values."""
    return {
        **_group_identity(group),
        "stored_form": _STORED_FORM,
        "features": [_feature_meaning(f) for f in group.features],
    }


def service_meaning(service: FeatureService) -> Meaning:
    """Return what the inputs of a service mean, in order, as plain JSON values.

    Only the features that it uses: a new feature in a group does not disturb the models on the others.
    """
    groups = {group.name: _group_identity(group) for group in service.groups}
    meaning: Meaning = {"service": service.name, "inputs": [_input_meaning(item, groups) for item in service.inputs]}
    if service.on_demand:
        meaning["on_demand"] = {f.name: _on_demand_meaning(f, groups) for f in service.on_demand}
    return meaning


def _input_meaning(item: OnDemandInput, groups: Mapping[str, Meaning]) -> Meaning:
    if isinstance(item, Feature):
        return {"of": groups[item.group], **_feature_meaning(item)}
    if isinstance(item, RequestFeature):
        return {"request": item.name, "dtype": item.dtype.value}
    if isinstance(item, OnDemandFeature):
        return {"on_demand": item.name}
    return {"query_time": "s"}


def _on_demand_meaning(feature: OnDemandFeature, groups: Mapping[str, Meaning]) -> Meaning:
    return {
        "dtype": feature.dtype.value,
        "default": feature.default,
        "function": feature.meaning,
        "inputs": [[parameter, _input_meaning(item, groups)] for parameter, item in feature.inputs],
    }


def _digest(meaning: Meaning) -> str:
    canonical = json.dumps(meaning, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def group_fingerprint(group: FeatureGroup) -> str:
    """Return the sha256 (hex) of a group's meaning."""
    return _digest(group_meaning(group))


def service_fingerprint(service: FeatureService) -> str:
    """Return the sha256 (hex) of a feature service's meaning."""
    return _digest(service_meaning(service))
