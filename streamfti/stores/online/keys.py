"""Redis keys. Injective, versioned, and frozen by golden tests: changing one orphans what is stored.

    fti:{<group>.<version>.<shard>}:e:<entity key>     the record of one entity
    fti:{<group>.<version>.<shard>}:s:<entity key>     its side record: state of any length
    fti:{<group>.<version>.<shard>}:p:<lane>           how far the group has applied one source partition
    fti:{<group>.<version>.<shard>}:meta               what the group means: fingerprint and layout

A lane is the number of a partition, or that among the partitions of all sources, if the group has several: see
`Stream.lane`. The braces are a hash tag: on a Redis Cluster all keys of a shard live in one slot, so that tiles and
progress can be written in one transaction. There is one shard, 0.
"""

from __future__ import annotations

from streamfti.definitions.groups import FeatureGroup

__all__ = ["meta_key", "progress_key", "progress_prefix", "record_key", "record_prefix", "side_key", "side_prefix"]

_SHARD = 0


def _prefix(group: FeatureGroup) -> str:
    return f"fti:{{{group.name}.{group.version}.{_SHARD}}}:"


def record_prefix(group: FeatureGroup) -> bytes:
    """Return what the keys of all records of a group begin with."""
    return f"{_prefix(group)}e:".encode()


def record_key(group: FeatureGroup, entity_key: str) -> bytes:
    """Return the key of an entity's record; `entity_key` as `compute.entity_keys.encode_key` writes it."""
    return record_prefix(group) + entity_key.encode()


def side_prefix(group: FeatureGroup) -> bytes:
    """Return what the keys of all side records of a group begin with."""
    return f"{_prefix(group)}s:".encode()


def side_key(group: FeatureGroup, entity_key: str) -> bytes:
    """Return the key of an entity's side record; `entity_key` as `compute.entity_keys.encode_key` writes it."""
    return side_prefix(group) + entity_key.encode()


def progress_prefix(group: FeatureGroup) -> bytes:
    """Return what the keys of a group's progress begin with."""
    return f"{_prefix(group)}p:".encode()


def progress_key(group: FeatureGroup, lane: int) -> bytes:
    """Return the key of a group's progress in one partition of its source's topic, or in one lane of several."""
    return progress_prefix(group) + str(lane).encode()


def meta_key(group: FeatureGroup) -> bytes:
    """Return the key that says what the stored values of a group mean."""
    return f"{_prefix(group)}meta".encode()
