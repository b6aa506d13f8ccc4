"""What is stored of a group, apart from what its features mean: whose events, in which rings, in which columns.

A window or a feature that is read from tiles which are there anyway changes the meaning of the group and nothing that
is stored. It is accepted under the same version, by a pipeline that goes on and by a server.
"""

from __future__ import annotations

import json

from streamfti.compute.event_columns import operands_of
from streamfti.compute.layout import RecordLayout
from streamfti.definitions.fingerprint import group_meaning
from streamfti.definitions.groups import FeatureGroup

__all__ = ["stored_state"]

_READ_ONLY = {"features", "max_future_skew_us"}
"""What of a group's meaning is looked at by readers, or stands in the number of slots."""


def stored_state(group: FeatureGroup) -> dict[str, object]:
    """Return what the stored bytes of a group are, as plain JSON values.

    Two definitions with the same state write the same bytes for the same events.
    """
    layout = RecordLayout.of(group)
    identity = {name: value for name, value in group_meaning(group).items() if name not in _READ_ONLY}
    return {
        **identity,
        "operands": {name: str(operand.type) for name, operand in sorted(operands_of(group.features).items())},
        "parameters": _parameters(group),
        "rings": [
            {
                "hop_us": ring.hop_us,
                "slots": ring.n_slots,
                "columns": [[name, a.columns[name].str] for a in ring.accumulators.values() for name in a.columns],
            }
            for ring in layout.rings
        ],
        "record_bytes": layout.record_bytes,
    }


def _parameters(group: FeatureGroup) -> dict[str, list[object]]:
    """Return, by kind, the parameters that its aggregations are given: they may decide what is added up."""
    found: dict[str, set[str]] = {}
    for feature in group.features:
        if feature.aggregation.parameters:
            found.setdefault(feature.aggregation.kind, set()).add(json.dumps(feature.aggregation.parameters))
    return {kind: [json.loads(text) for text in sorted(texts)] for kind, texts in sorted(found.items())}
