from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any, ClassVar, Optional

import pytest

import streamfti as fti
from streamfti.definitions.dtypes import DType, ValueType
from streamfti.definitions.events import Field, event_schema
from streamfti.errors import ContractError, DefinitionError

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Payment(fti.Event):
    """A payment."""

    currency: ClassVar[str] = "EUR"

    card_id: str
    cents: int
    amount: float
    online: bool
    shop: int | None
    note: Optional[str]  # noqa: UP045  # users may write it so
    seen: datetime
    at: fti.EventTime


GOOD: dict[str, Any] = {
    "card_id": "c1",
    "cents": 5,
    "amount": 1.5,
    "online": True,
    "shop": None,
    "note": "x",
    "seen": NOON,
    "at": NOON,
}


def payment(**changes: object) -> Payment:
    return Payment(**{**GOOD, **changes})


def field_of(of_class: object) -> Field:
    assert isinstance(of_class, Field)
    return of_class


def test_a_schema_has_the_fields_in_the_order_of_the_class() -> None:
    schema = event_schema(Payment)
    assert (schema.name, schema.event_time) == ("Payment", "at")
    assert {f.name: f.type for f in schema.fields} == {
        "card_id": ValueType(DType.STRING),
        "cents": ValueType(DType.INT64),
        "amount": ValueType(DType.FLOAT64),
        "online": ValueType(DType.BOOL),
        "shop": ValueType(DType.INT64, nullable=True),
        "note": ValueType(DType.STRING, nullable=True),
        "seen": ValueType(DType.DATETIME),
        "at": ValueType(DType.DATETIME),
    }
    assert next(f.name for f in schema.fields) == "card_id"
    assert event_schema(Payment) is schema


def test_a_subclass_has_the_fields_of_its_base_and_its_own() -> None:
    class Refund(Payment):
        reason: str

    assert [f.name for f in event_schema(Refund).fields][-2:] == ["at", "reason"]
    assert [f.name for f in event_schema(Payment).fields][-1] == "at"


def test_a_field_is_an_attribute_of_the_class() -> None:
    assert field_of(Payment.cents).same_as(event_schema(Payment).field("cents"))
    assert str(Payment.cents) == "Payment.cents"
    assert Payment.currency == "EUR"


def test_an_unknown_attribute_of_the_class_offers_the_nearest() -> None:
    with pytest.raises(AttributeError, match=r"has no field 'amuont'.*did you mean 'amount'"):
        Payment.amuont  # noqa: B018  # what is tested


@pytest.mark.parametrize("dunder", ["__wrapped__", "_private"])
def test_attributes_that_python_asks_for_are_not_fields(dunder: str) -> None:
    assert not hasattr(Payment, dunder)


def test_the_same_definitions_are_equal_whatever_their_fields_objects() -> None:
    one, other = (fti.sum(Field("E", "n", ValueType(DType.INT64))) for _ in range(2))  # type: ignore[arg-type]  # a float to the checker
    assert one == other


def bad_class(**annotations: object) -> type[fti.Event]:
    return type("Bad", (fti.Event,), {"__annotations__": annotations, "__module__": __name__})


@pytest.mark.parametrize("annotation", [list[int], bytes, dict, int | str, object, Annotated[bytes, "x"], timedelta])
def test_a_field_type_is_of_the_closed_set(annotation: object) -> None:
    bad = bad_class(amount=annotation, at=fti.EventTime)
    with pytest.raises(DefinitionError, match=r"field Bad.amount must be str, int, float.*cents"):
        event_schema(bad)


def test_an_event_time_cannot_be_none() -> None:
    with pytest.raises(DefinitionError, match=r"field Bad.at is the event time and cannot be None"):
        event_schema(bad_class(at=fti.EventTime | None))


@pytest.mark.parametrize(
    ("annotations", "n"),
    [({"a": int}, 0), ({"a": fti.EventTime, "b": fti.EventTime}, 2), ({"a": datetime}, 0), ({}, 0)],
)
def test_there_is_exactly_one_event_time(annotations: dict[str, object], n: int) -> None:
    with pytest.raises(
        DefinitionError, match=f"event 'Bad' must have exactly one field of type EventTime, got {n}.*add"
    ):
        event_schema(bad_class(**annotations))


def test_a_field_does_not_start_with_an_underscore() -> None:
    with pytest.raises(DefinitionError, match=r"field Bad._offset must not start with '_'"):
        event_schema(bad_class(_offset=int, at=fti.EventTime))


@pytest.mark.parametrize("name", ["values", "mro"])
def test_a_field_cannot_have_the_name_of_what_every_event_has(name: str) -> None:
    """It would hide the method on instances, and the method would hide it on the class."""
    with pytest.raises(DefinitionError, match=name):
        event_schema(bad_class(**{name: int, "at": fti.EventTime}))


def test_a_field_has_no_default() -> None:
    """A default would turn the class attribute into a value, and be used by no instance."""

    class WithDefault(fti.Event):
        cents: int = 3
        at: fti.EventTime

    with pytest.raises(DefinitionError, match=r"WithDefault.cents"):
        event_schema(WithDefault)


def test_an_annotation_that_cannot_be_resolved_is_a_definition_error() -> None:
    bad = bad_class(amount="Nonsense", at=fti.EventTime)
    with pytest.raises(DefinitionError, match=r"Bad.*Nonsense"):
        event_schema(bad)


def test_an_instance_holds_its_values() -> None:
    made = payment(shop=7)
    assert (made.card_id, made.shop, made.at) == ("c1", 7, NOON)
    assert made.values() == {**GOOD, "shop": 7}
    assert made == payment(shop=7) != payment()
    assert hash(made) == hash(payment(shop=7))
    assert repr(made).startswith("Payment(card_id='c1', cents=5, amount=1.5, online=True, shop=7, note='x', seen=")


def test_a_whole_number_is_good_for_a_float() -> None:
    amount = payment(amount=2).amount
    assert (amount, type(amount)) == (2.0, float)


def test_any_zone_is_good_for_a_time() -> None:
    assert payment(at=NOON.astimezone(timezone(timedelta(hours=5)))).at == NOON


def test_a_missing_nullable_value_is_none() -> None:
    values = {name: value for name, value in GOOD.items() if name not in {"shop", "note"}}
    assert Payment(**values).shop is None


@pytest.mark.parametrize("name", ["card_id", "cents", "at"])
def test_a_missing_value_is_named(name: str) -> None:
    values = {k: v for k, v in GOOD.items() if k != name}
    with pytest.raises(ContractError, match=f"Payment.{name} must be .*, got nothing"):
        Payment(**values)


def test_an_unknown_value_offers_the_nearest_field() -> None:
    with pytest.raises(ContractError, match=r"event 'Payment' has no field 'amuont'.*did you mean 'amount'"):
        payment(amuont=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("card_id", 7), ("card_id", b"c1"), ("cents", 1.0), ("cents", True), ("cents", "5"), ("amount", "1.5"),
        ("amount", True), ("online", 1), ("online", "yes"), ("seen", "2026-01-01"), ("at", 1_767_268_800),
        ("at", NOON.date()),
    ],
)  # fmt: skip
def test_a_mistyped_value_is_named_with_what_it_must_be(name: str, value: object) -> None:
    with pytest.raises(ContractError, match=rf"Payment.{name} must be \w+, got"):
        payment(**{name: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_is_finite(value: float) -> None:
    with pytest.raises(ContractError, match=r"Payment.amount must be finite, got"):
        payment(amount=value)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1])
def test_an_integer_fits_64_bits(value: int) -> None:
    with pytest.raises(ContractError, match=r"Payment.cents must"):
        payment(cents=value)


def test_a_time_is_aware() -> None:
    with pytest.raises(ContractError, match=r"Payment.at: a time must be aware"):
        payment(at=NOON.replace(tzinfo=None))


def test_an_event_is_a_fact() -> None:
    with pytest.raises(AttributeError, match=r"an event is a fact: Payment.cents cannot be changed"):
        payment().cents = 6  # type: ignore[misc]  # what is tested
