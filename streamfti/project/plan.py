"""What a definition file stands for, as plain values, and how that compares with what is there.

No I/O, and no words for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from streamfti.compute.layout import RecordLayout
from streamfti.compute.stored_state import stored_state
from streamfti.definitions.aggregations import Feature
from streamfti.definitions.catalog import Catalog
from streamfti.definitions.fingerprint import service_fingerprint
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.models import Model
from streamfti.definitions.on_demand import OnDemandFeature
from streamfti.definitions.services import FeatureService
from streamfti.definitions.sources import KafkaSource, WireFormat
from streamfti.definitions.streams import EnrichedStream, JoinedStream, Stream
from streamfti.feature_pipeline.encoding import wire_schema
from streamfti.project.changes import meaning_changes, state_changes
from streamfti.stores.online.meaning import StoredMeaning

__all__ = [
    "FeaturePlan",
    "GroupPlan",
    "ModelPlan",
    "OnDemandFeaturePlan",
    "Plan",
    "RingPlan",
    "ServicePlan",
    "SourcePlan",
    "build_plan",
]

GroupState = Literal["new", "same", "compatible", "changed", "unknown"]
Need = Literal["nothing", "materialize", "new version", "unknown"]


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """A source and its two topics. Numbers of partitions: 0 where there is no such topic, None where unknown."""

    name: str
    event: str
    fields: dict[str, str]
    event_time: str
    format: WireFormat
    changes: str | None
    """Of a table's rows, how they stand in the topic: `upsert` or `debezium`; None: its messages are events."""
    key: list[str]
    """Of changes, the fields that identify a row."""
    before_images: bool
    schema: dict[str, Any] | str
    """In that format: Avro or JSON Schema, or the text of the .proto file that producers compile."""
    partitions: int | None
    dead_letter_topic: str
    dead_letter_partitions: int | None


@dataclass(frozen=True, slots=True)
class FeaturePlan:
    """A feature of a group."""

    name: str
    aggregation: str
    dtype: str
    window: str
    """As it was written, or `lifetime`, which has neither length nor hop."""
    window_us: int | None
    hop_us: int | None
    default: float | str | None
    expires_after_us: int | None


@dataclass(frozen=True, slots=True)
class RingPlan:
    """The tiles of one hop in an entity's record."""

    hop_us: int | None
    """None: the one tile of a lifetime."""
    slots: int
    slot_bytes: int


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """A feature group, and how it compares with the online store."""

    name: str
    version: int
    source: str
    steps: list[str]
    """What is done to the events of the source, in order."""
    entity: dict[str, str]
    features: list[FeaturePlan]
    rings: list[RingPlan]
    record_bytes: int
    has_side_record: bool
    retention_us: int | None
    max_staleness_us: int | None
    fingerprint: str
    stored_fingerprint: str | None
    state: GroupState
    """`new`: not stored; `compatible`: it means something else, and is read from what is stored all the same;
    `changed`: it cannot be read from what is stored under the same version; `unknown`: not asked."""
    changes: list[str]
    """What has changed since the online store wrote it down; for a new version, since the version before."""
    stored_changes: list[str]
    """Of that, what changes the stored form."""
    needs: Need
    """`materialize`: where the log holds events of its source, before a feature pipeline takes it on; `new version`:
    that, and then `materialize`."""


@dataclass(frozen=True, slots=True)
class OnDemandFeaturePlan:
    """An on-demand feature of a service."""

    name: str
    dtype: str
    inputs: dict[str, str]
    """By parameter of its function: the name of a feature or a request feature, or `query_time`."""
    default: float | str | None


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """A feature service: its inputs by name, in order, and the on-demand features, in the order of evaluation."""

    name: str
    inputs: list[str]
    on_demand: list[OnDemandFeaturePlan]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """A model."""

    name: str
    task: str
    service: str
    spine: str
    label: str
    label_source: str


@dataclass(frozen=True, slots=True)
class Plan:
    """All of it, in the order of definition."""

    sources: list[SourcePlan]
    groups: list[GroupPlan]
    services: list[ServicePlan]
    models: list[ModelPlan]

    @property
    def changed(self) -> list[GroupPlan]:
        """The groups that need a new version."""
        return [group for group in self.groups if group.state == "changed"]

    def document(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)


def build_plan(
    catalog: Catalog,
    *,
    partitions: Mapping[str, int] | None,
    stored: Mapping[str, StoredMeaning | None] | None,
    previous: Mapping[str, StoredMeaning | None] | None = None,
) -> Plan:
    """Say what a catalog stands for.

    Args:
        catalog: the definitions.
        partitions: the number of partitions of every topic that there is; None if that is unknown.
        stored: by group name, what the online store says of this version, None where it holds nothing; None instead
            of the mapping if that is unknown.
        previous: the same of the version before, where there is one.
    """
    return Plan(
        sources=[_source(s, partitions) for s in catalog.sources.values()],
        groups=[_group(g, stored, previous or {}) for g in catalog.groups.values()],
        services=[_service(s) for s in catalog.services.values()],
        models=[_model(m) for m in catalog.models.values()],
    )


def _source(source: KafkaSource, partitions: Mapping[str, int] | None) -> SourcePlan:
    return SourcePlan(
        name=source.name,
        event=source.schema.name,
        fields={f.name: str(f.type) for f in source.schema.fields},
        event_time=source.schema.event_time,
        format=source.format,
        changes=source.changes,
        key=list(source.row_key),
        before_images=source.before_images,
        schema=wire_schema(source),
        partitions=None if partitions is None else partitions.get(source.topic, 0),
        dead_letter_topic=source.dead_letter_topic,
        dead_letter_partitions=None if partitions is None else partitions.get(source.dead_letter_topic, 0),
    )


def _group(
    group: FeatureGroup,
    stored: Mapping[str, StoredMeaning | None] | None,
    previous: Mapping[str, StoredMeaning | None],
) -> GroupPlan:
    layout = RecordLayout.of(group)
    own = StoredMeaning.of(group, stored_state(group))
    found = None if stored is None else stored.get(group.name)
    state = "unknown" if stored is None else _state(own, found)
    base = found or previous.get(group.name)
    return GroupPlan(
        name=group.name,
        version=group.version,
        source=group.source.name,
        steps=_steps(group.stream),
        entity={f.name: f.type.dtype.value for f in group.entity_fields},
        features=[_feature(f) for f in group.features],
        rings=[RingPlan(None if r.is_lifetime else r.hop_us, r.n_slots, r.slot_bytes) for r in layout.rings],
        record_bytes=layout.record_bytes,
        has_side_record=layout.has_side_record,
        retention_us=group.retention_us,
        max_staleness_us=group.max_staleness_us,
        fingerprint=own.fingerprint,
        stored_fingerprint=None if found is None else found.fingerprint,
        state=state,
        changes=_changes(base, own),
        stored_changes=[] if base is None or base.state is None else state_changes(base.state, own.state or {}),
        needs=_NEEDS[state],
    )


_NEEDS: Mapping[GroupState, Need] = {
    "new": "materialize",
    "same": "nothing",
    "compatible": "nothing",
    "changed": "new version",
    "unknown": "unknown",
}


def _changes(base: StoredMeaning | None, own: StoredMeaning) -> list[str]:
    if base is None or base.fingerprint == own.fingerprint:
        return []
    if base.meaning is None:
        return ["what it meant before was not written down, but for its fingerprint"]
    return meaning_changes(base.meaning, own.meaning or {})


def _steps(stream: Stream) -> list[str]:
    origin = stream.origin
    before: list[object] = []
    if isinstance(origin, JoinedStream):
        before = [*origin.left.steps, origin]
    elif isinstance(origin, EnrichedStream):
        before = [*origin.base.steps, origin]
    return [str(step) for step in (*before, *stream.steps)]


def _state(own: StoredMeaning, stored: StoredMeaning | None) -> GroupState:
    if stored is None:
        return "new"
    if stored.fingerprint == own.fingerprint:
        return "same"
    return "compatible" if stored.stores_as(own) else "changed"


def _feature(feature: Feature) -> FeaturePlan:
    return FeaturePlan(
        name=feature.name,
        aggregation=str(feature.aggregation),
        dtype=feature.dtype.value,
        window="lifetime" if feature.window.is_lifetime else feature.window.label,
        window_us=None if feature.window.is_lifetime else feature.window.length_us,
        hop_us=None if feature.window.is_lifetime else feature.window.hop_us,
        default=feature.default,
        expires_after_us=feature.expires_after_us,
    )


def _service(service: FeatureService) -> ServicePlan:
    return ServicePlan(
        name=service.name,
        inputs=[i.qualified_name for i in service.inputs],
        on_demand=[_on_demand(f) for f in service.on_demand],
        fingerprint=service_fingerprint(service),
    )


def _on_demand(feature: OnDemandFeature) -> OnDemandFeaturePlan:
    inputs = {parameter: item.qualified_name for parameter, item in feature.inputs}
    return OnDemandFeaturePlan(feature.name, feature.dtype.value, inputs, feature.default)


def _model(model: Model) -> ModelPlan:
    return ModelPlan(
        name=model.name,
        task=model.task,
        service=model.features.name,
        spine=model.spine.name,
        label=str(model.label.value),
        label_source=model.label.source.name,
    )
