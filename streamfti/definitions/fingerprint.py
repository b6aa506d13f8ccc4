"""Fingerprints: hashes of what changes a value's meaning, and of nothing else.

Renaming a Python module or rewriting a docstring changes no fingerprint; another hop, default or field type does.
A model carries the fingerprint of its feature service; a server refuses to serve it with another.
"""

from __future__ import annotations

import hashlib
import json

from streamfti.definitions.aggregations import Feature
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.services import FeatureService

__all__ = ["group_fingerprint", "group_meaning", "service_fingerprint", "service_meaning"]

Meaning = dict[str, object]


def _feature_meaning(feature: Feature) -> Meaning:
    field = feature.aggregation.field
    return {
        "name": feature.name,
        "aggregation": feature.aggregation.kind,
        "field": None if field is None else [field.name, str(field.type)],
        "length_us": feature.window.length_us,
        "hop_us": feature.window.hop_us,
        "default": feature.default,
    }


def _group_identity(group: FeatureGroup) -> Meaning:
    return {
        "group": group.name,
        "version": group.version,
        "source": group.source.name,
        "event_time": group.source.schema.event_time,
        "entity": [[f.name, str(f.type)] for f in group.entity_fields],
        "max_future_skew_us": group.source.max_future_skew_us,
    }


def group_meaning(group: FeatureGroup) -> Meaning:
    """Return what the values of a group mean, as plain JSON values."""
    return {**_group_identity(group), "features": [_feature_meaning(f) for f in group.features]}


def service_meaning(service: FeatureService) -> Meaning:
    """Return what the inputs of a service mean, in order, as plain JSON values.

    Only the features that it uses: a new feature in a group does not disturb the models on the others.
    """
    groups = {group.name: _group_identity(group) for group in service.groups}
    inputs: list[Meaning] = []
    for item in service.inputs:
        if isinstance(item, Feature):
            inputs.append({"of": groups[item.group], **_feature_meaning(item)})
        else:
            inputs.append({"request": item.name, "dtype": item.dtype.value})
    return {"service": service.name, "inputs": inputs}


def _digest(meaning: Meaning) -> str:
    canonical = json.dumps(meaning, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def group_fingerprint(group: FeatureGroup) -> str:
    """Return the sha256 (hex) of a group's meaning."""
    return _digest(group_meaning(group))


def service_fingerprint(service: FeatureService) -> str:
    """Return the sha256 (hex) of a feature service's meaning."""
    return _digest(service_meaning(service))
