"""What is stored of a group, apart from what its features mean: whose events, in which rings, in which columns.

A window or a feature that is read from tiles which are there anyway changes the meaning of the group and nothing that
is stored. It is accepted under the same version, by a pipeline that goes on and by a server.
"""

from __future__ import annotations

from streamfti.compute.event_columns import aggregated_fields
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
        "fields": {name: str(field.type) for name, field in sorted(aggregated_fields(group).items())},
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
