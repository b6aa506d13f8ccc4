"""What the online store says that its values mean, and since when: read and compared with definitions."""

from __future__ import annotations

import json
from collections.abc import Iterable

from streamfti.definitions.fingerprint import group_fingerprint
from streamfti.definitions.groups import FeatureGroup
from streamfti.errors import FingerprintMismatch
from streamfti.stores.online.keys import meta_key
from streamfti.stores.online.redis_store import OnlineReader

__all__ = ["check_stored_meaning", "registered_at_us"]


def check_stored_meaning(groups: Iterable[FeatureGroup], online: OnlineReader) -> None:
    """Check that what is stored of each group was written by the same definition; nothing stored is well.

    Raises:
        FingerprintMismatch: if a group is stored with another meaning.
        StoreError: if the store cannot be read.
    """
    groups = tuple(groups)
    for group, meta in zip(groups, online.read([meta_key(group) for group in groups]), strict=True):
        own = group_fingerprint(group)
        stored = own if meta is None else json.loads(meta)["fingerprint"]
        if stored != own:
            msg = (
                f"feature group {group.name!r} version {group.version} must be read by the definition that wrote it: "
                f"the online store holds fingerprint {stored}, the definition has {own}"
            )
            raise FingerprintMismatch(msg, hint=f"set version={group.version + 1} for the changed group")


def registered_at_us(online: OnlineReader, group: FeatureGroup) -> int | None:
    """Return since when the group version is there, by the store's clock; None where that is not written down.

    Raises:
        StoreError: if the store cannot be read.
    """
    (meta,) = online.read([meta_key(group)])
    found = {} if meta is None else json.loads(meta)
    return found.get("registered_at_us")
