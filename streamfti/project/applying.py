"""Making what a definition file stands for: topics, schemas, the meaning of groups. Doing it again changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from streamfti.compute.stored_state import stored_state
from streamfti.definitions.catalog import Catalog
from streamfti.definitions.groups import FeatureGroup
from streamfti.errors import FingerprintMismatch
from streamfti.feature_pipeline.encoding import wire_schema
from streamfti.project.plan import build_plan
from streamfti.project.topics import Topic, Topics
from streamfti.stores.online.meaning import StoredMeaning, read_meanings, register_group
from streamfti.stores.online.redis_store import OnlineReader
from streamfti.stores.schemas.port import SchemaRegistry

__all__ = ["Applied", "apply_catalog", "previous_meanings", "stored_meanings"]


@dataclass(frozen=True, slots=True)
class Applied:
    """One thing that is there now."""

    kind: str
    name: str
    detail: str
    is_new: bool


def stored_meanings(redis_url: str, groups: Iterable[FeatureGroup]) -> dict[str, StoredMeaning | None]:
    """Return, by group name, what the online store says of this version; None where it holds none.

    Raises:
        CorruptRecord: if what it says is damaged.
        StoreError: if the store cannot be used.
    """
    groups = tuple(groups)
    reader = OnlineReader(redis_url)
    try:
        return dict(zip((group.name for group in groups), read_meanings(reader, groups), strict=True))
    finally:
        reader.close()


def previous_meanings(redis_url: str, groups: Iterable[FeatureGroup]) -> dict[str, StoredMeaning | None]:
    """Return, by group name, what the online store says of the version before; None where there is none.

    Raises:
        CorruptRecord: if what it says is damaged.
        StoreError: if the store cannot be used.
    """
    older = [replace(group, version=group.version - 1) for group in groups if group.version > 1]
    return stored_meanings(redis_url, older)


def apply_catalog(
    catalog: Catalog,
    topics: Topics,
    schemas: SchemaRegistry,
    *,
    redis_url: str,
    partitions: int,
    topic_config: Mapping[str, str],
) -> list[Applied]:
    """Create what is missing, and return everything with whether it is new.

    In this order, so that a refusal leaves as little behind as possible:

    1. See that no group is stored in another form under the same version.
    2. Create the topics of the sources and of their dead letters, and wait until they can be used.
    3. Register the schemas of the events, each in the format of its source.
    4. Write down what the groups mean in the online store.

    A death in between leaves less than all of it; doing it again completes it.

    Args:
        catalog: the definitions.
        topics: the cluster.
        schemas: the schema registry.
        redis_url: the online store.
        partitions: of a new source topic. A new topic of dead letters has one.
        topic_config: of new source topics, as Kafka names it.

    Raises:
        FingerprintMismatch: if a group is stored in another form under the same version.
        ContractError: if a `materialize` of a group has begun and not ended, or the schema registry refuses a schema.
        SourceError: if the broker does not answer or refuses.
        StoreError: if a store cannot be used.
    """
    _refuse_changed(catalog, redis_url)  # 1.
    done = _apply_topics(catalog, topics, partitions, topic_config)  # 2.
    done += _apply_schemas(catalog, schemas)  # 3.
    for group in catalog.groups.values():  # 4.
        is_new = register_group(redis_url, group, stored_state(group))
        done.append(Applied("group", group.name, f"version {group.version}", is_new))
    return done


def _refuse_changed(catalog: Catalog, redis_url: str) -> None:
    stored = stored_meanings(redis_url, catalog.groups.values())
    changed = build_plan(catalog, partitions=None, stored=stored).changed
    if changed:
        group = changed[0]
        msg = (
            f"feature group {group.name!r} version {group.version} must keep its meaning: the online store holds "
            f"fingerprint {str(group.stored_fingerprint)[:12]}, the definition has {group.fingerprint[:12]}"
        )
        raise FingerprintMismatch(msg, hint=f"set version={group.version + 1} for the changed group")


def _apply_topics(catalog: Catalog, topics: Topics, partitions: int, config: Mapping[str, str]) -> list[Applied]:
    wanted: list[Topic] = []
    for source in catalog.sources.values():
        wanted += [Topic(source.topic, partitions, config), Topic(source.dead_letter_topic, 1, {})]
    there = topics.partitions()
    topics.create([topic for topic in wanted if topic.name not in there])
    return [_applied_topic(topic, there) for topic in wanted]


def _applied_topic(topic: Topic, there: Mapping[str, int]) -> Applied:
    partitions = there.get(topic.name, topic.partitions)
    return Applied("topic", topic.name, f"partitions: {partitions}", topic.name not in there)


def _apply_schemas(catalog: Catalog, schemas: SchemaRegistry) -> list[Applied]:
    known = schemas.subjects()
    done: list[Applied] = []
    for source in catalog.sources.values():
        schema_id = schemas.register(source.topic, wire_schema(source), source.format)
        is_new = schema_id not in known.get(source.topic, ())
        done.append(Applied("schema", source.topic, f"{source.format}, id {schema_id}", is_new))
    return done
