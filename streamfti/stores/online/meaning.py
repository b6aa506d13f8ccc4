"""What the online store says that its values are, and since when: written down, read, compared with definitions.

One JSON object for each group version:

    fingerprint        of the meaning of the group
    meaning            that meaning in words: `definitions.fingerprint.group_meaning`
    state              what is stored: `compute.stored_state`; only a change of this needs a new version
    registered_at_us   since when the group version is there, by the store's clock
    is_filling         whether a `materialize` has begun and not ended

Of what earlier releases wrote, only the fingerprint is there; such a group is the same if all of its meaning is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from streamfti.definitions.fingerprint import group_fingerprint, group_meaning
from streamfti.definitions.groups import FeatureGroup
from streamfti.errors import ContractError, CorruptRecord, FingerprintMismatch
from streamfti.stores.online.keys import meta_key
from streamfti.stores.online.redis_store import OnlineReader, SingleKeys

__all__ = [
    "StoredMeaning",
    "begin_filling",
    "check_stored_meaning",
    "end_filling",
    "read_meanings",
    "register_group",
]

State = Mapping[str, object]
"""What `compute.stored_state` says of a group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMeaning:
    """What is written down of one group version."""

    fingerprint: str
    meaning: Mapping[str, Any] | None = None
    state: Mapping[str, Any] | None = None
    registered_at_us: int | None = None
    is_filling: bool = False

    @classmethod
    def of(cls, group: FeatureGroup, state: State) -> StoredMeaning:
        """Return what must be written down of a group."""
        return cls(fingerprint=group_fingerprint(group), meaning=_plain(group_meaning(group)), state=_plain(state))

    @classmethod
    def load(cls, group: FeatureGroup, content: bytes) -> StoredMeaning:
        """Read what was written.

        Raises:
            CorruptRecord: if it is not that.
        """
        try:
            values = json.loads(content)
            known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
            return cls(**{**known, "fingerprint": str(values["fingerprint"])})
        except (ValueError, KeyError, TypeError) as exc:
            msg = f"the online store must say what {group.name!r} version {group.version} means, got {content[:40]!r}"
            raise CorruptRecord(msg) from exc

    def dump(self) -> bytes:
        """Return its JSON."""
        return json.dumps(asdict(self)).encode()

    def stores_as(self, other: StoredMeaning) -> bool:
        """Return whether what is stored is the same, whatever features are read from it."""
        if self.state is None:
            return self.fingerprint == other.fingerprint
        return self.state == other.state


def _plain(document: Mapping[str, object]) -> Mapping[str, Any]:
    """Return a document as JSON gives it back."""
    plain: Mapping[str, Any] = json.loads(json.dumps(document))
    return plain


def register_group(url: str, group: FeatureGroup, state: State) -> bool:
    """Write down what a group version means and how it is stored; return whether it was new.

    A meaning that has changed while the stored state has not is written anew.

    Raises:
        FingerprintMismatch: if the same name and version are stored in another form.
        ContractError: if a `materialize` of the group has begun and not ended.
        StoreError: if the store cannot be used.
    """
    is_new, stored = _register(url, group, state)
    _refuse_half_filled(group, stored)
    return is_new


def _register(url: str, group: FeatureGroup, state: State) -> tuple[bool, StoredMeaning]:
    own, key = StoredMeaning.of(group, state), meta_key(group)
    with SingleKeys(url) as keys:
        own = replace(own, registered_at_us=keys.now_us())
        if keys.set_new(key, own.dump()):
            return True, own
        stored = StoredMeaning.load(group, keys.get(key) or b"{}")
        if not stored.stores_as(own):
            msg = (
                f"feature group {group.name!r} version {group.version} must keep its meaning: the online store holds "
                f"fingerprint {stored.fingerprint[:12]}, the definition has {own.fingerprint[:12]}"
            )
            raise FingerprintMismatch(msg, hint=_hint(group))
        if (stored.fingerprint, stored.state) != (own.fingerprint, own.state):
            stored = replace(stored, fingerprint=own.fingerprint, meaning=own.meaning, state=own.state)
            keys.set(key, stored.dump())
    return False, stored


def _hint(group: FeatureGroup) -> str:
    return f"set version={group.version + 1} for the changed group; `streamfti plan` says what has changed"


def _refuse_half_filled(group: FeatureGroup, stored: StoredMeaning) -> None:
    if stored.is_filling:
        msg = f"feature group {group.name!r} version {group.version} must be whole, but filling it has not ended"
        hint = f"let `materialize` end; if it died: `streamfti materialize DEFINITIONS --group {group.name}"
        raise ContractError(msg, hint=f"{hint} --force-rebuild`")


def begin_filling(url: str, group: FeatureGroup, state: State) -> None:
    """Write down what a group version means, and that filling it has begun: nobody reads or writes it until the end.

    Raises:
        FingerprintMismatch: if the same name and version are stored in another form.
        StoreError: if the store cannot be used.
    """
    _, stored = _register(url, group, state)
    _set_filling(url, group, stored, is_filling=True)


def end_filling(url: str, group: FeatureGroup, state: State) -> None:
    """Write down that a group is whole.

    Raises:
        FingerprintMismatch: if the group has come to be stored in another form meanwhile.
        StoreError: if the store cannot be used.
    """
    _, stored = _register(url, group, state)
    _set_filling(url, group, stored, is_filling=False)


def _set_filling(url: str, group: FeatureGroup, stored: StoredMeaning, *, is_filling: bool) -> None:
    with SingleKeys(url) as keys:
        keys.set(meta_key(group), replace(stored, is_filling=is_filling).dump())


def read_meanings(online: OnlineReader, groups: Iterable[FeatureGroup]) -> list[StoredMeaning | None]:
    """Return what is written down of group versions, in their order; None where there is nothing.

    Raises:
        CorruptRecord: if what is written is not that.
        StoreError: if the store cannot be read.
    """
    groups = tuple(groups)
    found = online.read([meta_key(group) for group in groups])
    return [None if meta is None else StoredMeaning.load(g, meta) for g, meta in zip(groups, found, strict=True)]


def check_stored_meaning(groups: Iterable[tuple[FeatureGroup, State]], online: OnlineReader) -> None:
    """Check that what is stored of each group can be read by its definition; nothing stored is well.

    Args:
        groups: each with how its definition stores it.
        online: the store.

    Raises:
        FingerprintMismatch: if a group is stored in another form.
        ContractError: if a `materialize` of a group has begun and not ended.
        StoreError: if the store cannot be read.
    """
    groups = tuple(groups)
    for (group, state), stored in zip(groups, read_meanings(online, [group for group, _ in groups]), strict=True):
        if stored is None:
            continue
        own = StoredMeaning.of(group, state)
        if not stored.stores_as(own):
            msg = (
                f"feature group {group.name!r} version {group.version} must be read by the definition that wrote it: "
                f"the online store holds fingerprint {stored.fingerprint}, the definition has {own.fingerprint}"
            )
            raise FingerprintMismatch(msg, hint=_hint(group))
        _refuse_half_filled(group, stored)
