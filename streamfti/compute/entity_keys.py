"""The text form of an entity key: part of Redis keys, and what groups events by entity on the stream."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["encode_key"]


def encode_key(values: Sequence[str | int | bool]) -> str:
    """Return the text form of an entity key, injective among keys with the same field types.

    A single field is written as it is; of several, each is preceded by its length in UTF-8 bytes and a colon, so
    that ("ab", "c") and ("a", "bc") differ.

    >>> encode_key(["JFK"]), encode_key(["JFK", "LAX"]), encode_key([7, True])
    ('JFK', '3:JFK3:LAX', '1:74:true')
    """
    texts = [_text(value) for value in values]
    if len(texts) == 1:
        return texts[0]
    return "".join(f"{len(text.encode())}:{text}" for text in texts)


def _text(value: str | int | bool) -> str:  # noqa: FBT001  # a value, not a flag
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
