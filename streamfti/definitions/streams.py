"""Streams: the events that a feature group reads. Those of a source, pairs of two, or what steps make of them.

Specifications only; `compute.transformations` is where steps are taken. A stream never changes the offline log, which
holds the events of the source whole.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from streamfti.definitions.batch_functions import BatchFunction
from streamfti.definitions.dtypes import DType, ValueType
from streamfti.definitions.durations import SECOND_US, Duration, duration_us
from streamfti.definitions.events import EventSchema
from streamfti.definitions.expressions import Expression, Field
from streamfti.definitions.steps import Apply, Derive, Step, Where
from streamfti.errors import DefinitionError

if TYPE_CHECKING:
    from streamfti.definitions.sources import KafkaSource

__all__ = [
    "HISTORY_PARTITION",
    "JOINED_AT",
    "DerivedStream",
    "EnrichedStream",
    "JoinedStream",
    "Stream",
    "source_fields",
]

HISTORY_PARTITION = 32_767
"""The partition of a source's log that holds imported history; no topic has so many. Of events at one time, history
counts as the later one, as a higher partition does."""

JOINED_AT = "joined_at"
"""The field that says when both events of a pair had happened: the event time of a joined stream."""

_KEY_TYPES = {DType.STRING, DType.INT64, DType.BOOL}


class Stream:
    """The events that a feature group reads. A `KafkaSource` is one; so is what its methods make of it.

        large = payments.where(Payment.amount_cents >= 10_000).derive(euros=Payment.amount_cents / 100)

        @fti.feature_group(source=large, entity="card_id")
        class LargePayments:
            spent = fti.sum(large["euros"]).over("1h")

    Streams are immutable: each method returns a new one. Steps are taken in their order, for every event by itself.
    """

    __slots__ = ()

    source: KafkaSource
    """Where the events come from: the topic, its log and the progress in it."""
    schema: EventSchema
    """The fields of its events, with those that steps have added."""
    steps: tuple[Step, ...]
    """What is done to the events of its origin, in order."""

    @property
    def origin(self) -> Stream:
        """What its steps begin with: the source itself, or the pairs of a join."""
        return self

    @property
    def sources(self) -> tuple[KafkaSource, ...]:
        """All sources that its events are made of, each once, that of `source` first."""
        return (self.source,)

    def lane(self, source: KafkaSource, partition: int) -> int:
        """Return the number of a partition among those of all its sources; of a single source, the partition's own.

        Progress is kept by it. Those of two sources take turns: 0, 2, 4 of the first, 1, 3, 5 of the second. A source
        is known by its name: definitions that were loaded twice have two of each.
        """
        number = [one.name for one in self.sources].index(source.name)
        return partition + number if partition == HISTORY_PARTITION else partition * len(self.sources) + number

    def place(self, lane: int) -> tuple[KafkaSource, int]:
        """Return the source and the partition that a lane is of."""
        if lane >= HISTORY_PARTITION:
            return self.sources[lane - HISTORY_PARTITION], HISTORY_PARTITION
        return self.sources[lane % len(self.sources)], lane // len(self.sources)

    def where(self, condition: object) -> DerivedStream:
        """Keep the events for which a condition is true; where it is null, the event is left out.

        Raises:
            DefinitionError: if it is no condition of the stream's fields.
        """
        if not isinstance(condition, Expression) or condition.type.dtype is not DType.BOOL:
            is_expression = isinstance(condition, Expression)
            got = f"{condition}, which is {condition.type}" if is_expression else repr(condition)  # type: ignore[attr-defined]  # checked
            msg = f"where() of {self._name} must be given a condition, got {got}"
            raise DefinitionError(msg, hint=f"for example {self.schema.name}.{self.schema.fields[0].name} == ...")
        self._check_fields(condition.fields)
        return DerivedStream(self, Where(condition))

    def derive(self, **fields: object) -> DerivedStream:
        """Add fields, computed by expressions of the fields that there are; null where the expression is.

        Args:
            fields: names and expressions. None of them sees the others: those need another `derive`.

        Raises:
            DefinitionError: if a name is taken or begins with `_`, or a value is no expression of the stream's
                fields.
        """
        if not fields:
            msg = f"derive() of {self._name} must be given one field or more, got none"
            raise DefinitionError(msg, hint="for example derive(euros=Payment.cents / 100)")
        added: list[Field] = []
        for name, value in fields.items():
            if not isinstance(value, Expression):
                msg = f"derive({name}=...) of {self._name} must be given an expression of its fields, got {value!r}"
                raise DefinitionError(msg)
            self._check_fields(value.fields)
            self._check_new(name)
            added.append(Field(self.schema.name, name, value.type, _digest(value.document())))
        values = tuple(value for value in fields.values() if isinstance(value, Expression))
        return DerivedStream(self, Derive(tuple(added), values))

    def apply(self, function: Callable[..., Any]) -> DerivedStream:
        """Add the fields that a batch function returns, see `fti.batch_function`.

        Raises:
            DefinitionError: if it is no batch function, a parameter names no field of the stream, or an output has
                a name that is taken or begins with `_`.
        """
        if not isinstance(function, BatchFunction):
            msg = f"apply() of {self._name} must be given a batch function, got {function!r}"
            raise DefinitionError(msg, hint="decorate it: @fti.batch_function(outputs={'risk': float})")
        reads = tuple(self.schema.field(name) for name in function.inputs)
        meaning = [json.loads(function.meaning), *(field.document() for field in reads)]
        for name, _ in function.outputs:
            self._check_new(name)
        added = [Field(self.schema.name, name, kind, _digest([*meaning, name])) for name, kind in function.outputs]
        return DerivedStream(self, Apply(function, reads, tuple(added)))

    def join(
        self, other: Stream, *, on: str | tuple[str, ...], within: Duration, prefix: str | None = None
    ) -> JoinedStream:
        """Pair its events with those of another stream that have the same key and happened within some time of them.

            seen_and_clicked = clicks.join(impressions, on="ad_id", within="10m")

        All pairs are made whose event times are less than `within` apart, whichever of the two came first or happened
        first; `where` can tell: `joined.where(joined["at"] >= joined["impression_at"])`. A key that is null is equal
        to none, and an event makes no pair with itself. The event time of a pair, `joined_at`, is the later of the two.
        Which pairs there are follows from the two topics alone: a late event makes late pairs.

        Args:
            other: the other stream, of the same or another source.
            on: the field, or the fields, that must be equal: of the same name and type on both sides.
            within: how far apart in event time they may be.
            prefix: goes before the names of the other's fields that this stream has too; by default the name of the
                other's event class, as in `impression_at`.

        Raises:
            DefinitionError: if that is impossible, or one side is made of several sources already.
        """
        return _joined(self, other, (on,) if isinstance(on, str) else tuple(on), within, prefix)

    def enrich(
        self, table: Stream, *, on: str | tuple[str, ...], fields: Iterable[str], prefix: str = ""
    ) -> EnrichedStream:
        """Add fields of the newest row of a table that was known when the event came.

            with_country = payments.enrich(customers, on="customer_id", fields=["country"])

        The row is that of the same key with the highest event time (then position) among those that had happened by
        the time of the event and that the broker had taken before it: a row that came later does not count, in
        history neither. So an event has the same row for ever. Without any, and where the key is null, the fields
        are null; so they are where the newest row says that it is gone. The broker's times are those of the messages:
        where producers set them, it is they who say what came first.

        Args:
            table: the stream of the rows, of one source.
            on: the field, or the fields, that must be equal: of the same name and type on both sides.
            fields: which fields of the row.
            prefix: goes before their names.

        Raises:
            DefinitionError: if that is impossible, or one side is made of several sources already.
        """
        key = (on,) if isinstance(on, str) else tuple(on)
        return _enriched(self, table, key, tuple(fields), prefix)

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401  # a Field, which takes any value's place, as on the event class
        """Return one of its fields, to be used in expressions and aggregations.

        Raises:
            DefinitionError: if there is none of that name.
        """
        return self.schema.field(name)

    @property
    def _name(self) -> str:
        of = " and ".join(repr(source.name) for source in self.sources)
        return f"a stream of {of}" if self.steps or self.origin is not self.source else f"source {of}"

    def _check_fields(self, fields: Iterable[Field]) -> None:
        for field in fields:
            if not field.same_as(self.schema.field(field.name)):
                msg = f"{self._name} has {self.schema.name}.{field.name}, but not the {field} that was given"
                hint = "a field that another stream derives is another one, also under the same name"
                raise DefinitionError(msg, hint=hint)

    def _check_new(self, name: str) -> None:
        if name.startswith("_"):
            msg = f"a field of {self._name} must not start with '_', got {name!r}: those are the log's own columns"
            raise DefinitionError(msg)
        if any(field.name == name for field in self.schema.fields):
            msg = f"a new field of {self._name} must have a name of its own, got {name!r}, which {self.schema.name} has"
            raise DefinitionError(msg)


@dataclass(frozen=True)
class DerivedStream(Stream):
    """A stream and one step more. Build it with the methods of `Stream`."""

    base: Stream
    step: Step

    @cached_property
    def source(self) -> KafkaSource:  # type: ignore[override]  # computed, as it never changes
        """That of the stream that it was made of."""
        return self.base.source

    @cached_property
    def origin(self) -> Stream:
        """That of the stream that it was made of."""
        return self.base.origin

    @cached_property
    def sources(self) -> tuple[KafkaSource, ...]:
        """Those of the stream that it was made of."""
        return self.base.sources

    @cached_property
    def steps(self) -> tuple[Step, ...]:  # type: ignore[override]  # likewise
        """Those before, and its own."""
        return (*self.base.steps, self.step)

    @cached_property
    def schema(self) -> EventSchema:  # type: ignore[override]  # likewise
        """The fields before, and those that its step adds."""
        before = self.base.schema
        return replace(before, fields=(*before.fields, *self.step.adds))


@dataclass(frozen=True)
class JoinedStream(Stream):
    """The pairs of events of two streams. Build it with `Stream.join`."""

    left: Stream
    right: Stream
    on: tuple[str, ...]
    within_us: int
    """Their event times are less than this apart."""
    prefix: str
    """Before the names of the fields of the right stream that the left one has too."""

    @cached_property
    def source(self) -> KafkaSource:  # type: ignore[override]  # computed, as it never changes
        """That of the left stream."""
        return self.left.source

    @cached_property
    def sources(self) -> tuple[KafkaSource, ...]:
        """Those of both streams: two, or one if they are of the same."""
        return tuple(dict.fromkeys((self.left.source, self.right.source)))

    @property
    def steps(self) -> tuple[Step, ...]:  # type: ignore[override]  # likewise
        """None: those of the two streams are taken before."""
        return ()

    @cached_property
    def right_names(self) -> dict[str, str]:
        """By the name of a field of the right stream, its name in a pair; those of the key are not repeated."""
        taken = {field.name for field in self.left.schema.fields}
        names = [field.name for field in self.right.schema.fields if field.name not in self.on]
        return {name: self.prefix + name if name in taken else name for name in names}

    @cached_property
    def schema(self) -> EventSchema:  # type: ignore[override]  # likewise
        """The fields of the left stream, those of the right one, and `joined_at`."""
        left, meaning = self.left.schema, _digest(self.document())
        right = [
            Field(left.name, name, self.right.schema.field(of).type, _digest([meaning, of]))
            for of, name in self.right_names.items()
        ]
        at = Field(left.name, JOINED_AT, ValueType(DType.DATETIME), meaning)
        return EventSchema(left.name, (*left.fields, *right, at), JOINED_AT)

    def document(self) -> list[object]:
        """Return what it means, as plain JSON values."""
        sides = [_document(self.left), _document(self.right)]
        return ["join", *sides, list(self.on), self.within_us, self.prefix]

    def __str__(self) -> str:
        steps = "".join(f", {step}" for step in self.right.steps)
        seconds = self.within_us / SECOND_US
        return f"join {self.right.source.name}{steps} on {', '.join(self.on)} within {seconds:g} s"


@dataclass(frozen=True)
class EnrichedStream(Stream):
    """The events of a stream with fields of the rows of a table. Build it with `Stream.enrich`."""

    base: Stream
    table: Stream
    on: tuple[str, ...]
    names: tuple[tuple[str, str], ...]
    """The fields that are added: the name in a row, and the name in the stream."""

    @cached_property
    def source(self) -> KafkaSource:  # type: ignore[override]  # computed, as it never changes
        """That of the events."""
        return self.base.source

    @cached_property
    def sources(self) -> tuple[KafkaSource, ...]:
        """That of the events, then that of the rows."""
        return self.base.source, self.table.source

    @property
    def steps(self) -> tuple[Step, ...]:  # type: ignore[override]  # likewise
        """None: those of the two streams are taken before."""
        return ()

    @cached_property
    def schema(self) -> EventSchema:  # type: ignore[override]  # likewise
        """The fields of the events, and those of the rows, all of which may be null."""
        base, meaning = self.base.schema, _digest(self.document())
        added = []
        for of, name in self.names:
            kind = replace(self.table.schema.field(of).type, nullable=True)
            added.append(Field(base.name, name, kind, _digest([meaning, of])))
        return replace(base, fields=(*base.fields, *added))

    def document(self) -> list[object]:
        """Return what it means, as plain JSON values."""
        return ["enrich", _document(self.base), _document(self.table), list(self.on), [list(n) for n in self.names]]

    def __str__(self) -> str:
        steps = "".join(f", {step}" for step in self.table.steps)
        names = ", ".join(of if of == name else f"{name} = {of}" for of, name in self.names)
        return f"enrich with {names} of {self.table.source.name}{steps} on {', '.join(self.on)}"


def _document(stream: Stream) -> list[object]:
    source = stream.source
    steps = [step.document() for step in stream.steps]
    return [source.name, source.schema.event_time, source.max_future_skew_us, steps]


def _checked_sides(left: Stream, right: object, what: str, on: tuple[str, ...]) -> tuple[str, Stream]:
    """Return what the two streams are called together, and the second one.

    Raises:
        DefinitionError: if they cannot be brought together.
    """
    if not isinstance(right, Stream):
        msg = f"{what} of {left._name} must be given a stream, got {right!r}"  # noqa: SLF001  # the same module's
        raise DefinitionError(msg)
    subject = f"{what} of {left._name} and {right._name}"  # noqa: SLF001
    for side in (left, right):
        is_table = side is right and what == "an enrichment"
        if side.source.changes is not None and not (is_table and _can_be_table(side)):
            msg = f"{subject} must be of events, got source {side.source.name!r}, whose messages are changes of rows"
            hint = "the table of an enrichment may be of changes, without before images and without where()"
            raise DefinitionError(msg, hint=hint)
        if side.origin is not side.source:
            msg = f"{subject} must be of two streams of one source each"
            raise DefinitionError(msg, hint="a stream that is made of two sources cannot be joined or enriched again")
    if left.source.name == right.source.name and left.source != right.source:
        msg = f"{subject} must know what is in the topic, got two different sources"
        raise DefinitionError(msg)
    _check_key(subject, left, right, on)
    return subject, right


def _can_be_table(stream: Stream) -> bool:
    """Say whether the newest change of a row is its state: it may be gone, which a condition must not hide."""
    return not stream.source.before_images and not any(isinstance(step, Where) for step in stream.steps)


def _enriched(base: Stream, table: object, on: tuple[str, ...], fields: tuple[str, ...], prefix: str) -> EnrichedStream:
    subject, rows = _checked_sides(base, table, "an enrichment", on)
    if base.source == rows.source:
        msg = f"{subject} must be of two sources, got one"
        raise DefinitionError(msg)
    names = tuple((rows.schema.field(of).name, prefix + of) for of in fields)
    taken = [*(field.name for field in base.schema.fields), *(name for _, name in names)]
    twice = next((name for _, name in names if taken.count(name) > 1 or name.startswith("_")), None)
    if twice is not None or not names:
        msg = (
            f"the fields of {subject} must be one or more, with names of their own, without '_' in front, got {twice!r}"
        )
        raise DefinitionError(msg, hint="choose a prefix")
    return EnrichedStream(base, rows, on, names)


def _joined(left: Stream, other: object, on: tuple[str, ...], within: Duration, prefix: str | None) -> JoinedStream:
    subject, right = _checked_sides(left, other, "a join", on)
    within_us = duration_us(within, subject=f"within of {subject}")
    if prefix is None:
        prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", right.schema.name).lower() + "_"
    joined = JoinedStream(left, right, on, within_us, prefix)
    names = [*(f.name for f in left.schema.fields), *joined.right_names.values(), JOINED_AT]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or prefix.startswith("_"):
        msg = f"the fields of {subject} must have names of their own, without '_' in front, got {twice or prefix!r}"
        raise DefinitionError(msg, hint=f"choose a prefix; {JOINED_AT} is when both had happened")
    return joined


def _check_key(subject: str, left: Stream, right: Stream, on: tuple[str, ...]) -> None:
    if not on or len(set(on)) < len(on):
        msg = f"{subject} must be on one or more fields, each once, got {on!r}"
        raise DefinitionError(msg)
    for name in on:
        types = [side.schema.field(name).type.dtype for side in (left, right)]
        if types[0] is not types[1] or types[0] not in _KEY_TYPES:
            got = f"{types[0].value} and {types[1].value}"
            msg = f"{subject} must be on fields of one of the types str, int, bool on both sides, {name!r} is {got}"
            raise DefinitionError(msg)


def source_fields(stream: Stream, names: Iterable[str]) -> set[str]:
    """Return the fields of the origin that must be read to have some fields of a stream, by name: also its steps'."""
    needed = set(names) | {field.name for step in stream.steps for field in step.reads}
    return needed - {field.name for step in stream.steps for field in step.adds}


def _digest(document: object) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
