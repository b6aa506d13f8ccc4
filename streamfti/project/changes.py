"""What has changed of a feature group since the online store wrote it down, in words. No I/O.

Meanings and states are the JSON documents of `definitions.fingerprint` and `compute.stored_state`, also as earlier
releases wrote them: what they do not have is not compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from streamfti.definitions.durations import SECOND_US, duration_label

__all__ = ["meaning_changes", "state_changes"]

Document = Mapping[str, Any]

_NAMES = {
    "length_us": "window",
    "hop_us": "hop",
    "max_future_skew_us": "max_future_skew",
    "expires_after_us": "expires_after",
}
_NOT_COMPARED = {"features", "group", "version", "stored_form", "rings", "record_bytes"}


def meaning_changes(old: Document, new: Document) -> list[str]:
    """Return what a reader of the group finds changed, one line each: features, and what all of them are of."""
    return [*_features(_by_name(old), _by_name(new)), *_fields(old, new, "")]


def state_changes(old: Document, new: Document) -> list[str]:
    """Return why what is stored cannot go on being used, one line each; none if it can."""
    found = [*_fields(old, new, ""), *_rings(_by_hop(old), _by_hop(new))]
    if not found and old != new:
        found.append("it comes to be stored in another form")
    return found


def _by_name(meaning: Document) -> dict[str, Document]:
    return {feature["name"]: feature for feature in meaning.get("features", ())}


def _features(old: Mapping[str, Document], new: Mapping[str, Document]) -> Iterator[str]:
    for name in old:
        if name not in new:
            yield f"feature {name} removed"
    for name, feature in new.items():
        if name not in old:
            yield f"feature {name} added"
        else:
            yield from _fields(old[name], feature, f"feature {name}: ")


def _fields(old: Document, new: Document, prefix: str) -> Iterator[str]:
    for name in [*new, *(name for name in old if name not in new)]:
        if name not in _NOT_COMPARED and old.get(name) != new.get(name):
            yield f"{prefix}{_NAMES.get(name, name)} {_said(name, old.get(name))} -> {_said(name, new.get(name))}"


def _said(name: str, value: object) -> str:
    if isinstance(value, int) and name.endswith("_us"):
        return _duration(value)
    return "none" if value is None else _text(value)


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_text(item)}" for key, item in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_text, value)) or "none"
    return str(value)


def _duration(us: int) -> str:
    return f"{us} us" if us % SECOND_US else duration_label(timedelta(microseconds=us))


def _by_hop(state: Document) -> dict[int, Document]:
    return {ring["hop_us"]: ring for ring in state.get("rings", ())}


def _rings(old: Mapping[int, Document], new: Mapping[int, Document]) -> Iterator[str]:
    for hop_us in sorted({*old, *new}):
        tiles = f"tiles of {_duration(hop_us)}"
        if hop_us not in new:
            yield f"{tiles} are no longer needed"
        elif hop_us not in old:
            yield f"{tiles} are not stored yet"
        else:
            yield from _ring(tiles, old[hop_us], new[hop_us])


def _ring(tiles: str, old: Document, new: Document) -> Iterator[str]:
    if old["slots"] != new["slots"]:
        yield f"{tiles}: {new['slots']} must be kept, not {old['slots']}"
    before, after = ([name for name, _ in ring["columns"]] for ring in (old, new))
    for name in after:
        if name not in before:
            yield f"{tiles} do not hold {name} yet"
    for name in before:
        if name not in after:
            yield f"{tiles} need not hold {name} any longer"
    if set(before) == set(after) and old["columns"] != new["columns"]:
        yield f"{tiles} hold their columns in another order or type"
