from __future__ import annotations

from typing import Any

import pytest

import streamfti as fti
from streamfti.compute.event_columns import fields_read
from streamfti.definitions.catalog import Catalog
from streamfti.definitions.dtypes import DType, ValueType
from streamfti.definitions.fingerprint import group_fingerprint, group_meaning, service_fingerprint
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.streams import source_fields
from streamfti.errors import DefinitionError


class Payment(fti.Event):
    card_id: str
    cents: int
    limit: int | None
    note: str | None
    at: fti.EventTime


class Other(fti.Event):
    cents: int
    at: fti.EventTime


P: Any = Payment  # fields are expressions at run time
another: Any = Other
payments = fti.KafkaSource("payments", Payment)


@fti.batch_function(outputs={"risk": float, "why": str | None})
def score(cents: Any, limit: Any) -> Any:  # noqa: ANN401  # columns
    """Score."""
    return cents / limit, None


def group_of(stream: Any, entity: str = "card_id", operand: Any = None) -> FeatureGroup:  # noqa: ANN401  # a stream; a field
    class Spend:
        n = fti.count().over("1h") if operand is None else fti.sum(operand).over("1h")

    return fti.feature_group(source=stream, entity=entity)(Spend)


def test_a_source_is_a_stream_of_all_its_events() -> None:
    assert payments.source is payments
    assert payments.steps == ()
    assert payments["cents"] == P.cents


def test_steps_are_added_in_order_and_change_no_stream() -> None:
    large = payments.where(P.cents > 100)
    euros = large.derive(euros=P.cents / 100)
    scored = euros.apply(score)
    assert (payments.steps, len(large.steps), len(euros.steps)) == ((), 1, 2)
    assert [str(step) for step in scored.steps] == [
        "where Payment.cents > 100",
        "derive euros = Payment.cents / 100",
        "apply risk, why = score(cents, limit)",
    ]
    assert scored.source is payments
    assert [f.name for f in scored.schema.fields][-3:] == ["euros", "risk", "why"]
    assert scored["euros"].type == ValueType(DType.FLOAT64, nullable=True)
    assert scored["why"].type == ValueType(DType.STRING, nullable=True)
    assert scored.schema.event_time == "at"


def test_a_derived_field_is_an_operand_like_any_other() -> None:
    twice = payments.derive(double=P.cents * 2)
    four = twice.where(twice["double"] > 1).derive(quadruple=twice["double"] * 2)
    assert str(four.steps[-1]) == "derive quadruple = Payment.double * 2"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: payments.where(P.cents),
            r"where\(\) of source 'payments' must be given a condition, got Payment.cents",
        ),
        (lambda: payments.where(condition=True), r"must be given a condition, got True"),
        (lambda: payments.where(another.cents > 1), r"source 'payments' has Payment.cents, but not the Other.cents"),
        (payments.derive, r"one field or more, got none"),
        (
            lambda: payments.derive(one=1),
            r"derive\(one=\.\.\.\) of source 'payments' must be given an expression.*got 1",
        ),
        (lambda: payments.derive(cents=P.cents * 2), r"must have a name of its own, got 'cents', which Payment has"),
        (lambda: payments.derive(_offset=P.cents * 2), r"must not start with '_'"),
        (lambda: payments.derive(a=P.cents * 1).derive(a=P.cents * 1), r"a stream of 'payments'.*of its own, got 'a'"),
        (lambda: payments["cent"], r"event 'Payment' has no field 'cent' \(did you mean 'cents'"),
        (lambda: payments.apply(len), r"must be given a batch function.*decorate it"),
        (lambda: payments.derive(risk=P.cents * 1).apply(score), r"of its own, got 'risk'"),
        (lambda: fti.KafkaSource("other", Other).apply(score), r"event 'Other' has no field 'limit'"),
    ],
)
def test_what_a_stream_cannot_do_is_refused(build: Any, message: str) -> None:  # noqa: ANN401  # a function
    with pytest.raises(DefinitionError, match=message):
        build()


def test_a_field_of_another_stream_is_not_taken_for_one_of_the_same_name() -> None:
    one, other = payments.derive(size=P.cents * 1), payments.derive(size=P.cents * 2)
    with pytest.raises(DefinitionError, match=r"must use a field of Payment, got Payment\.size"):
        group_of(one, operand=other["size"])
    with pytest.raises(DefinitionError, match=r"has Payment.size, but not the Payment.size that was given.*another"):
        one.where(other["size"] > 1)
    assert group_of(one, operand=payments.derive(size=P.cents * 1)["size"]).stream == one


def test_a_group_knows_its_stream_and_its_source() -> None:
    stream = payments.derive(shop=P.note.lower())
    group = group_of(stream, entity="shop")
    assert (group.stream, group.source) == (stream, payments)
    assert str(group.entity_fields[0]) == "Payment.shop"
    assert fields_read(group) == {"note", "at"}


def test_a_key_is_of_a_type_that_keys_may_have() -> None:
    with pytest.raises(DefinitionError, match=r"entity key Payment.half must be str, int or bool, got float64"):
        group_of(payments.derive(half=P.cents / 2), entity="half")


def test_the_fields_to_read_are_those_that_any_step_needs() -> None:
    stream = payments.where(P.limit > 0).derive(double=P.cents * 2)
    assert source_fields(stream, ["card_id", "double", "at"]) == {"card_id", "at", "limit", "cents"}


def test_steps_are_part_of_what_a_group_means() -> None:
    plain = group_fingerprint(group_of(payments))
    one, same, other = (group_of(payments.where(P.cents > n)) for n in (1, 1, 2))
    assert group_fingerprint(one) == group_fingerprint(same)
    assert len({plain, group_fingerprint(one), group_fingerprint(other)}) == 3
    assert "steps" not in group_meaning(group_of(payments))
    services = {service_fingerprint(fti.FeatureService("s", [group])) for group in (one, other)}
    assert len(services) == 2


def test_two_streams_of_one_source_stand_in_one_catalog() -> None:
    class Small:
        n = fti.count().over("1h")

    small = fti.feature_group(source=payments.where(P.cents < 5), entity="card_id")(Small)
    catalog = Catalog.of([small, group_of(payments.where(P.cents > 5))])
    assert list(catalog.sources.values()) == [payments]
    assert len(catalog.groups_of(payments)) == 2


def test_a_batch_function_says_what_it_reads_and_adds() -> None:
    assert score.inputs == ("cents", "limit")
    assert score.outputs == (("risk", ValueType(DType.FLOAT64)), ("why", ValueType(DType.STRING, nullable=True)))
    assert score(6, 3) == (2.0, None)


def versions() -> list[Any]:
    """Functions of one name: alike, alike but for words, with another constant, and with versions."""

    def one() -> Any:  # noqa: ANN401  # a function
        @fti.batch_function(outputs={"risk": float})
        def risk(cents: Any) -> Any:  # noqa: ANN401  # columns
            return cents * 2.0

        return risk

    def in_other_words() -> Any:  # noqa: ANN401  # a function
        @fti.batch_function(outputs={"risk": float})
        def risk(cents: object) -> Any:  # noqa: ANN401  # columns
            """Say something."""
            # and more
            return cents * 2.0  # type: ignore[operator]  # columns

        return risk

    def changed() -> Any:  # noqa: ANN401  # a function
        @fti.batch_function(outputs={"risk": float})
        def risk(cents: Any) -> Any:  # noqa: ANN401  # columns
            return cents * 3.0

        return risk

    def versioned(version: int) -> Any:  # noqa: ANN401  # a function
        @fti.batch_function(outputs={"risk": float}, version=version)
        def risk(cents: Any) -> Any:  # noqa: ANN401  # columns
            return cents * 2.0

        return risk

    return [one(), in_other_words(), changed(), versioned(1), versioned(2)]


def test_a_batch_function_means_its_source_or_its_version() -> None:
    alike, in_other_words, *others = [group_fingerprint(group_of(payments.apply(f))) for f in versions()]
    assert alike == in_other_words
    assert len({alike, *others}) == 4


@pytest.mark.parametrize(
    ("outputs", "function", "message"),
    [
        ({}, lambda cents: cents, r"one output or more"),
        ({"a": bytes}, lambda cents: cents, r"output 'a' of batch function '<lambda>' must be float, int, bool, str"),
        ({"a": float | int}, lambda cents: cents, r"output 'a'.*got float \| int"),
        ({"a": float}, lambda: 1, r"a parameter for each field"),
        ({"a": float}, lambda cents=1: cents, r"must name a field and have no default, got `cents=1`"),
        ({"a": float}, lambda *cents: cents, r"must name a field and have no default, got `\*cents`"),
    ],
)
def test_a_batch_function_says_plainly_what_it_is(outputs: dict[str, object], function: Any, message: str) -> None:  # noqa: ANN401  # a function
    with pytest.raises(DefinitionError, match=message):
        fti.batch_function(outputs=outputs, version=1)(function)
