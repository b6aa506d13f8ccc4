"""A harness for unit tests of features: events in, values out, under a clock of the test's own. No server, no topic.

The online side writes and reads the bytes of the online store; the offline side computes the same features from
history. Only storage and transport are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamfti.clock import ManualClock, from_us, to_us
from streamfti.compute.entity_keys import encode_key
from streamfti.compute.event_columns import fields_read
from streamfti.compute.joins import MEMBERS
from streamfti.compute.on_demand import OnDemandPlan
from streamfti.compute.point_in_time import point_in_time
from streamfti.compute.returned_values import AnyColumn
from streamfti.compute.transformations import stream_events
from streamfti.compute.values import FeatureColumn
from streamfti.definitions.aggregations import Feature
from streamfti.definitions.dtypes import DType
from streamfti.definitions.durations import Duration, duration_us
from streamfti.definitions.events import Event, Field
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.request_features import RequestFeature
from streamfti.definitions.services import FeatureService
from streamfti.definitions.sources import KafkaSource
from streamfti.definitions.streams import EnrichedStream, JoinedStream, Stream
from streamfti.errors import ContractError, DefinitionError, ServingError, StreamFTIError, TrainingError, did_you_mean
from streamfti.testing.change_tables import ChangeTable
from streamfti.testing.event_frames import event_frame, frame_schema
from streamfti.testing.feature_values import FeatureValues, Value, first_row
from streamfti.testing.json_events import json_event
from streamfti.testing.naive import Placed, PlacedEvent
from streamfti.testing.naive_enrichment import naive_enriched
from streamfti.testing.naive_joins import naive_pairs
from streamfti.testing.online_table import OnlineTable
from streamfti.testing.skew import differences

__all__ = ["DeadLetter", "FeatureValues", "Harness"]

_SHOWN_DIFFERENCES = 10


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that was not applied, and why."""

    event: Event | str
    """The event, or the JSON text that is none."""
    reason: str


class Harness:
    """Runs the features of a service, or of groups, over pushed events, as of a virtual now.

        h = Harness(CardSpend, now="2026-01-01T12:00Z")
        h.push(Payment(card_id="c1", amount=10, at=h.now - timedelta(minutes=4)))
        h.push(Payment(card_id="c1", amount=5, at=h.now - timedelta(minutes=50)))  # late, and still counted
        assert h.online(card_id="c1").spend_1h == h.offline(card_id="c1").spend_1h == 15
        h.advance("2h")
        assert h.online(card_id="c1").spend_1h is None

    Args:
        features: a feature service, a feature group, or several groups.
        now: where the clock starts: an aware datetime, or one in ISO 8601 with its offset (`"2026-01-01T12:00Z"`).

    Attributes:
        dead_letters: the events that were refused so far, in order.

    Raises:
        DefinitionError: if there is no group, two groups share a name, or two sources a topic.
        ValueError: if `now` has no time zone or cannot be read.
    """

    def __init__(
        self, features: FeatureService | FeatureGroup | type | Iterable[FeatureGroup | type], *, now: datetime | str
    ) -> None:
        self._features = _features_by_group(features)
        self._computed = _Computed(features if isinstance(features, FeatureService) else None)
        self._tables = [OnlineTable(group) for group, _ in self._features]
        self._sources = _sources(group for group, _ in self._features)
        self._history = {name: [frame_schema(s.schema).to_frame()] for name, s in self._sources.items()}
        self._placed: dict[str, list[PlacedEvent]] = {name: [] for name in self._sources}
        self._taken_us: dict[str, list[int]] = {name: [] for name in self._sources}
        self._n_batches = 0
        self._next_offset = dict.fromkeys(self._sources, 0)
        self._rows = {name: ChangeTable(s) for name, s in self._sources.items() if s.changes is not None}
        self._clock = ManualClock(datetime.fromisoformat(now) if isinstance(now, str) else now)
        self.dead_letters: list[DeadLetter] = []

    @property
    def now(self) -> datetime:
        """The harness's time, aware, UTC."""
        return from_us(self._clock.now_us())

    @property
    def too_late(self) -> int:
        """How many events came after their tile had been overwritten, over all groups; they count in no window."""
        return sum(table.too_late for table in self._tables)

    def advance(self, by: Duration) -> None:
        """Move the clock forward, by `"5m"` or a `timedelta`.

        Raises:
            DefinitionError: if the duration cannot be read or is not positive.
        """
        self._clock.advance(from_us(duration_us(by, subject="a step of the clock")) - from_us(0))

    def push(self, *events: Event, source: KafkaSource | None = None) -> tuple[DeadLetter, ...]:
        """Apply events as one batch, in any order of event time, taken by the broker now.

        An event further ahead of now than its source's `max_future_skew` is not applied: it becomes a dead letter. Of a
        source of changes, each is a row as it is from then on; what it was before is known here.

        Args:
            events: instances of event classes that the features' sources carry. JSON is for `push_json`.
            source: the topic they come from; needed only if two sources carry the same class.

        Returns:
            The dead letters of this batch, empty if all is well.

        Raises:
            ContractError: if no source of the features carries such an event.
            DefinitionError: if several do and `source` does not say which.
        """
        accepted: dict[str, list[PlacedEvent]] = {}
        refused: list[DeadLetter] = []
        for event in events:
            origin = self._source_of(event, source)
            offset = self._next_offset[origin.name]
            self._next_offset[origin.name] += 1
            letter = _refusal(event, origin, self._clock.now_us())
            if letter is None:
                rows = self._rows.get(origin.name)
                placed = [PlacedEvent(event, 0, offset)] if rows is None else rows.upsert(event, 0, offset)
                accepted.setdefault(origin.name, []).extend(placed)
            else:
                refused.append(letter)
        for name, of_source in accepted.items():
            self._apply(name, of_source)
        self.dead_letters += refused
        return tuple(refused)

    def delete(self, source: KafkaSource, *key: str | int, at: datetime | None = None) -> None:
        """Delete a row of a source of changes, as its database does: `h.delete(customers, "c1")`.

        Args:
            source: whose row.
            key: the values of the source's key, in order.
            at: when it was deleted, aware; by default now.

        Raises:
            ContractError: if the features have no such source, the key is none of it, or, where the source has before
                images, there is no such row.
            ValueError: if `at` has no time zone.
        """
        rows = self._rows.get(source.name)
        if rows is None or self._sources[source.name] != source:
            known = ", ".join(self._rows) or "none"
            msg = f"a deleted row must be of a source of changes of the features ({known}), got {source.name!r}"
            raise ContractError(msg)
        when = self.now if at is None else from_us(to_us(at))
        placed = rows.delete(rows.named(key), when, 0, self._next_offset[source.name])
        self._next_offset[source.name] += 1
        self._apply(source.name, placed)

    def push_json(self, *texts: str, source: KafkaSource | None = None) -> tuple[DeadLetter, ...]:
        """Apply events that come as JSON objects, read just as from a topic of JSON.

        What is no event of the source becomes a dead letter, whose `event` is the text.

        Args:
            texts: one object each.
            source: the topic they come from; needed if the features have several.

        Returns:
            The dead letters of this batch: first the texts that cannot be read, then the events that are refused.

        Raises:
            DefinitionError: if the features have several sources and `source` does not say which.
        """
        if source is None and len(self._sources) != 1:
            msg = f"JSON must be pushed to one source, got the sources {sorted(self._sources)}"
            raise DefinitionError(msg, hint="push_json(text, source=...)")
        origin = next(iter(self._sources.values())) if source is None else source
        read = [(text, json_event(origin.event, text)) for text in texts]
        unreadable = tuple(DeadLetter(text, found) for text, found in read if isinstance(found, str))
        self.dead_letters += unreadable
        return unreadable + self.push(*(found for _, found in read if isinstance(found, Event)), source=origin)

    def restart(self) -> None:
        """Let the online side die and start again: from its stored bytes alone, with all that was pushed sent again.

        What it has applied is dropped by the offsets that are stored with the bytes, as by the pipeline: no value
        changes.
        """
        self._tables = [table.restarted() for table in self._tables]
        for name, frames in self._history.items():
            for frame in frames:
                self._apply_frame(name, frame)

    def _apply(self, source: str, events: list[PlacedEvent]) -> None:
        self._n_batches += 1
        taken_us = self._clock.now_us() + self._n_batches  # one batch is taken before the next, also at one time
        frame = event_frame(self._sources[source].schema, events, ingest_time_us=taken_us)
        self._history[source].append(frame)
        self._placed[source] += events
        self._taken_us[source] += [taken_us] * len(events)
        self._apply_frame(source, frame)

    def _apply_frame(self, source: str, frame: pl.DataFrame) -> None:
        for table in self._tables:
            origin = table.group.stream.origin
            if isinstance(origin, JoinedStream | EnrichedStream):
                self._apply_made(table, origin, source, frame)
            elif table.group.source.name == source:
                table.apply_new(frame)

    def _apply_made(
        self, table: OnlineTable, origin: JoinedStream | EnrichedStream, source: str, frame: pl.DataFrame
    ) -> None:
        """Apply what a batch of a source makes with all that came before it, unless that was done."""
        names = [one.name for one in origin.sources]
        if source not in names or frame.is_empty():
            return
        first, end = frame["_offset"][0], frame["_offset"][-1] + 1
        if table.advance(origin.lane(self._sources[source], 0), end):
            made = self._frame_of(origin)
            sides = (origin.left, origin.right) if isinstance(origin, JoinedStream) else (origin.base,)
            offsets = [o for side, (_, o) in zip(sides, MEMBERS, strict=False) if side.source.name == source]
            is_new = (
                pl.any_horizontal(pl.col(offset) >= first for offset in offsets) if offsets else pl.lit(value=False)
            )
            table.apply(made.filter(is_new))

    def _frame_of(self, origin: Stream) -> pl.DataFrame:
        """Return all events of a source, all pairs of a join, or all events of an enrichment."""
        return stream_events(origin, (field.name for field in origin.schema.fields), self._read)

    def _naive_of(self, origin: Stream) -> Sequence[Placed]:
        """Return the same for the naive evaluator."""
        if isinstance(origin, JoinedStream):
            return list(naive_pairs(origin, *(self._placed[side.source.name] for side in (origin.left, origin.right))))
        if isinstance(origin, EnrichedStream):
            sides = ((self._placed[name], self._taken_us[name]) for name in (source.name for source in origin.sources))
            return list(naive_enriched(origin, *(list(zip(*side, strict=True)) for side in sides)))
        return self._placed[origin.source.name]

    def _read(self, source: KafkaSource, columns: Collection[str], earlier_us: int | None) -> pl.DataFrame:
        """Return all events of a source."""
        del columns, earlier_us
        return pl.concat(self._history[source.name])

    def _source_of(self, event: Event, source: KafkaSource | None) -> KafkaSource:
        carrying = [s for s in self._sources.values() if s.event is type(event)]
        if source is not None:
            carrying = [s for s in carrying if s.name == source.name]
        if not carrying:
            names = ", ".join(sorted({s.event.__name__ for s in self._sources.values()}))
            msg = f"a pushed event must be one that the features are computed from ({names}), got {event!r}"
            raise ContractError(msg)
        if len(carrying) > 1:
            msg = f"{type(event).__name__} is carried by the sources {[s.name for s in carrying]}: one must be named"
            raise DefinitionError(msg, hint="push(event, source=...)")
        return carrying[0]

    def online(self, **given: Value) -> FeatureValues:
        """Return what serving would answer now, by its own clock.

        Everything that was pushed counts at once, also an event (up to `max_future_skew`) ahead of now. There,
        and only there, it may differ from `offline()`, which counts it once now has passed it.

        Args:
            given: the fields of the entity keys, and the service's request features. Where a field of a key is None
                or left out there is no entity: the features of its groups are missing. Where a request feature is
                left out, the on-demand features that need it are.

        Raises:
            ContractError: if a field belongs to no entity key and is no request feature, or has another type.
            ServingError: if the function of an on-demand feature fails.
        """
        key = self._entity_key(given)
        now_us = np.array([self._clock.now_us()], np.int64)
        columns: dict[str, FeatureColumn] = {}
        for table, (group, features) in zip(self._tables, self._features, strict=True):
            columns |= table.read(features, [_encoded(group, key)], now_us)
        return first_row(self._computed.added(columns, given, now_us, ServingError))

    def offline(self, *, at: datetime | None = None, **given: Value) -> FeatureValues:
        """Return what a training set holds at a time, by default now: computed from history, point in time.

        Args:
            at: the query time, aware; any time. An event at exactly that time does not count.
            given: as in `online`.

        Raises:
            ContractError: if a field belongs to no entity key and is no request feature, or has another type.
            TrainingError: if the function of an on-demand feature fails.
            ValueError: if `at` has no time zone.
        """
        key = self._entity_key(given)
        at_us = np.array([self._clock.now_us() if at is None else to_us(at)], np.int64)
        columns: dict[str, FeatureColumn] = {}
        for group, features in self._features:
            columns |= self._point_in_time(group, features, key, at_us)
        return first_row(self._computed.added(columns, given, at_us, TrainingError))

    def vector(self, **given: Value) -> dict[str, Value]:
        """Return what a model of the service gets now, by qualified name, in the order of the service's inputs.

        These are the values of `online()` and the request features; what is missing or left out is None.

        Args:
            given: as in `online`.

        Raises:
            DefinitionError: if the harness was not made of a feature service.
            ContractError: as `online`.
            ServingError: as `online`.
        """
        if self._computed.service is None:
            msg = "vector() must be asked of a harness of a feature service, got one of feature groups"
            raise DefinitionError(msg, hint="Harness(service, now=...)")
        values = {**given, **self.online(**given)}
        return {i.qualified_name: values.get(i.qualified_name) for i in self._computed.service.inputs}

    def assert_no_skew(self) -> None:
        """Check every stored feature of every entity seen: online, offline and the naive evaluator give one value now.

        The naive evaluator computes from the definition alone, in plain loops: use it on hundreds of events, not on
        millions. It does not know aggregations of your own; of these, online and offline are compared. While an event
        is ahead of now, online and offline may differ, and each is compared with the naive evaluator. Sketches may be
        off by their stated errors.

        Raises:
            AssertionError: if values differ; it says which, of whom, and what each side says.
        """
        now_us = self._clock.now_us()
        found = [
            line
            for table, (group, features) in zip(self._tables, self._features, strict=True)
            for line in differences(
                table, features, self._frame_of(group.stream.origin), self._naive_of(group.stream.origin), now_us
            )
        ]
        if found:
            shown = "\n".join(f"  {line}" for line in found[:_SHOWN_DIFFERENCES])
            more = f"\n  and {len(found) - _SHOWN_DIFFERENCES} more" if len(found) > _SHOWN_DIFFERENCES else ""
            msg = f"{len(found)} values differ at {self.now.isoformat()}:\n{shown}{more}"
            raise AssertionError(msg)

    def _point_in_time(
        self,
        group: FeatureGroup,
        features: tuple[Feature, ...],
        key: Mapping[str, Value],
        at_us: NDArray[np.int64],
    ) -> dict[str, FeatureColumn]:
        events = stream_events(group.stream, fields_read(group), self._read)
        columns = frame_schema(group.stream.schema)
        keys = pl.DataFrame(
            {name: [key[name]] for name in group.entity}, schema={name: columns[name] for name in group.entity}
        )
        return point_in_time(group, features, events, keys, at_us)

    def _entity_key(self, given: Mapping[str, Value]) -> dict[str, Value]:
        fields = {field.name: field for group, _ in self._features for field in group.entity_fields}
        requested = self._computed.request_features
        for name, value in given.items():
            if name in fields:
                _check_key_type(fields[name], value)
            elif name in requested:
                _check_request_type(requested[name], value)
            else:
                what = "a field of an entity key" + (" or a request feature" if requested else "")
                msg = f"{name!r} is not {what}"
                raise ContractError(msg, hint=did_you_mean(name, [*fields, *requested]))
        return {name: given.get(name) for name in fields}


class _Computed:
    """The on-demand features of a service, if there is one, of one row."""

    def __init__(self, service: FeatureService | None) -> None:
        self.service = service
        self.request_features = {f.name: f for f in service.request_features} if service is not None else {}
        self._on_demand = () if service is None else service.on_demand
        self._names = [] if service is None else [i.qualified_name for i in service.inputs]

    def added(
        self,
        stored: Mapping[str, FeatureColumn],
        given: Mapping[str, Value],
        at_us: NDArray[np.int64],
        failure: type[StreamFTIError],
    ) -> dict[str, FeatureColumn]:
        """Return stored and on-demand features, those of the service in its order."""
        if not self._on_demand:
            return dict(stored)
        columns = {name: column.model_column() for name, column in stored.items()}
        columns |= {n: _request_column(f, given[n]) for n, f in self.request_features.items() if n in given}
        found = {**stored, **OnDemandPlan(self._on_demand, failure).evaluate(columns, at_us).features}
        return {name: found[name] for name in self._names if name in found}


def _request_column(feature: RequestFeature, value: Value) -> AnyColumn:
    if feature.dtype is DType.STRING:
        return np.array([value], np.object_)
    return np.array([np.nan if value is None else value], np.float64)


def _features_by_group(
    features: FeatureService | FeatureGroup | type | Iterable[FeatureGroup | type],
) -> list[tuple[FeatureGroup, tuple[Feature, ...]]]:
    if isinstance(features, FeatureService):
        found = [(group, features.features_of(group)) for group in features.groups]
    else:
        # To a type checker a decorated class stays a class, so `type` stands in the signature; only groups pass.
        given = [features] if isinstance(features, FeatureGroup | type) else list(features)
        found = [(group, group.features) for group in given if isinstance(group, FeatureGroup)]
        if len(found) < len(given):
            msg = f"a harness must be given feature groups, got {given!r}"
            raise DefinitionError(msg, hint="is @fti.feature_group(...) missing?")
    names = [group.name for group, _ in found]
    if not (found or (isinstance(features, FeatureService) and features.on_demand)) or len(set(names)) < len(names):
        msg = f"a harness must be given feature groups of different names, got {names}"
        raise DefinitionError(msg)
    return found


def _sources(groups: Iterable[FeatureGroup]) -> dict[str, KafkaSource]:
    sources: dict[str, KafkaSource] = {}
    for source in (source for group in groups for source in group.stream.sources):
        if sources.setdefault(source.name, source) != source:
            msg = f"two different sources are named {source.name!r}; names must be unique"
            raise DefinitionError(msg)
    return sources


def _refusal(event: Event, source: KafkaSource, ingest_time_us: int) -> DeadLetter | None:
    at_us = to_us(event.values()[source.schema.event_time])
    if at_us <= ingest_time_us + source.max_future_skew_us:
        return None
    ahead_us = at_us - ingest_time_us
    reason = (
        f"{source.schema.name}.{source.schema.event_time} must be at most {source.max_future_skew_us} us ahead of the "
        f"broker's time, got {ahead_us} us"
    )
    return DeadLetter(event, reason)


def _check_key_type(field: Field, value: Value) -> None:
    if value is not None and type(value) is not field.type.dtype.python:
        msg = f"entity key {field} must be {field.type.dtype.value}, got {value!r}"
        raise ContractError(msg)


def _check_request_type(feature: RequestFeature, value: Value) -> None:
    fitting = {int, float} if feature.dtype is DType.FLOAT64 else {feature.dtype.python}
    if value is not None and type(value) not in fitting:
        msg = f"request feature {feature.name!r} must be {feature.dtype.value}, got {value!r}"
        raise ContractError(msg)


def _encoded(group: FeatureGroup, key: Mapping[str, Value]) -> str | None:
    values: list[Any] = [value for name in group.entity if (value := key[name]) is not None]
    return encode_key(values) if len(values) == len(group.entity) else None
