from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

import streamfti as fti
from streamfti.compute.transformations import StreamFrames, transformed
from streamfti.definitions.streams import Stream
from streamfti.errors import FunctionError
from streamfti.testing.event_frames import event_frame, frame_schema
from streamfti.testing.naive import PlacedEvent

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


class Payment(fti.Event):
    card: str | None
    cents: int
    limit: int | None
    online: bool
    at: fti.EventTime


P: Any = Payment  # fields are expressions at run time
payments = fti.KafkaSource("payments", Payment)


def frame_of(*cents: int, limit: int | None = 10, card: str | None = "a") -> pl.DataFrame:
    events = [Payment(card=card, cents=c, limit=limit, online=True, at=NOON) for c in cents]
    return event_frame(payments.schema, [PlacedEvent(event, 0, i) for i, event in enumerate(events)])


def applied(function: Callable[..., Any], outputs: dict[str, object], frame: pl.DataFrame) -> pl.DataFrame:
    return transformed(payments.apply(fti.batch_function(outputs=outputs, version=1)(function)), frame)


def test_a_source_is_left_as_it_is() -> None:
    frame = frame_of(1, 2)
    assert transformed(payments, frame) is frame


def test_only_events_for_which_the_condition_is_true_are_kept() -> None:
    kept = transformed(payments.where(P.cents > P.limit), frame_of(9, 11, 10, 12))
    assert kept["_offset"].to_list() == [1, 3]
    assert transformed(payments.where(P.limit > 0), frame_of(1, limit=None)).is_empty()


def test_fields_derived_together_do_not_see_each_other_and_later_ones_see_all() -> None:
    stream = payments.derive(double=P.cents * 2, half=P.cents / 2)
    frame = transformed(stream.derive(both=stream["double"] + stream["half"]), frame_of(3))
    assert frame.select("double", "half", "both").row(0) == (6, 1.5, 7.5)
    assert dict(frame.schema) == dict(frame_schema(payments.schema)) | dict(
        zip(("double", "half", "both"), (pl.Int64(), pl.Float64(), pl.Float64()), strict=True)
    )


def test_no_events_are_none_with_all_columns() -> None:
    stream = payments.where(P.cents > 1).derive(double=P.cents * 2).apply(risky)
    frame = transformed(stream, frame_of())
    assert frame.is_empty()
    assert frame.columns[-2:] == ["double", "risk"]


@fti.batch_function(outputs={"risk": float}, version=1)
def risky(cents: Any) -> Any:  # noqa: ANN401  # columns
    return cents * 0.5


def test_streams_share_the_steps_that_they_have_in_common() -> None:
    calls: list[int] = []

    def counted(cents: Any) -> Any:  # noqa: ANN401  # columns
        calls.append(len(cents))
        return cents

    shared = payments.apply(fti.batch_function(outputs={"x": float}, version=1)(counted))
    frames = StreamFrames(frame_of(1, 2, 3))
    streams: list[Stream] = [shared, shared.where(P.cents > 1), shared.where(P.cents > 2)]
    assert [frames.of(stream).height for stream in streams] == [3, 2, 1]
    assert calls == [3, 1]  # all of them, and one by itself


def test_a_batch_function_gets_columns_as_on_demand_functions_do() -> None:
    seen: dict[str, Any] = {}

    def look(card: Any, cents: Any, limit: Any, online: Any, at: Any) -> Any:  # noqa: ANN401  # columns
        seen.update(card=card, cents=cents, limit=limit, online=online, at=at)
        return cents

    applied(look, {"x": float}, frame_of(2**53 - 1, limit=None, card=None))
    assert {name: column.dtype.kind for name, column in seen.items()} == {
        "card": "O", "cents": "f", "limit": "f", "online": "f", "at": "f",
    }  # fmt: skip
    assert seen["card"].tolist() == [None]
    assert (seen["cents"][0], seen["online"][0], seen["at"][0]) == (2**53 - 1, 1.0, NOON.timestamp())
    assert np.isnan(seen["limit"][0])
    assert not any(column.flags.writeable for column in seen.values())


@pytest.mark.parametrize(
    ("kind", "returned", "expected"),
    [
        (float, [1, 2], [1.0, 2.0]),
        (float | None, [np.nan, np.inf], [None, None]),
        (int, [1.0, 2.0], [1, 2]),
        (int | None, [np.nan, 2.0], [None, 2]),
        (bool, [True, False], [True, False]),
        (bool | None, [1.0, np.nan], [True, None]),
        (str | None, np.array(["a", None], object), ["a", None]),
        (str, ["a", "bc"], ["a", "bc"]),
    ],
)
def test_what_it_returns_becomes_columns_of_the_types_that_it_says(
    kind: object,
    returned: Any,  # noqa: ANN401  # an array
    expected: list[object],
) -> None:
    def give(cents: Any) -> Any:  # noqa: ANN401  # columns
        return np.array(returned)[cents.astype(int)]

    frame = applied(give, {"x": kind}, frame_of(0, 1))
    assert frame["x"].to_list() == expected
    assert frame.schema["x"] == {float: pl.Float64, int: pl.Int64, bool: pl.Boolean, str: pl.String}.get(
        kind,
        frame.schema["x"],  # type: ignore[call-overload]  # of the unions, any
    )


def test_several_outputs_are_a_tuple() -> None:
    frame = applied(lambda cents: (cents * 2, cents > 1), {"a": float, "b": bool}, frame_of(1, 2))
    assert frame.select("a", "b").rows() == [(2.0, False), (4.0, True)]


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (lambda cents: cents[10], float, r"batch function '<lambda>' must not fail, got IndexError"),
        (
            lambda cents: cents[:1],
            float,
            r"output 'x' of batch function '<lambda>' must be an array of shape \(3,\), got one of shape \(1,\)",
        ),
        (lambda cents: float(cents[0]), float, r"must be an array of shape \(3,\), got float"),
        (lambda cents: cents.astype(str), float, r"must be an array of numbers, got an array of <U"),
        (lambda cents: cents + 0.5, int, r"must be an array of whole numbers of 64 bits, got 1.5"),
        (lambda cents: cents * 1e30, int, r"whole numbers of 64 bits, got 1e\+30"),
        (lambda cents: cents, bool, r"must be an array of booleans, or of 0 and 1, got 2.0"),
        (lambda cents: cents.astype(object), str, r"must be an array of str and None, got 1.0"),
        (
            lambda cents: cents * np.nan,
            float,
            r"must have a value for every event, got none in row 0 of 3 \(say.*float \| None",
        ),
        (lambda cents: (cents, cents), float, r"must return 1 columns, got 2"),
        (
            lambda cents: cents - cents.mean(),
            float,
            r"by that event alone, got .* in a batch and 0.0 without the others",
        ),
        (lambda cents: np.array([random.random() for _ in cents]), float, r"no means, ranks, shifts or random numbers"),
    ],
)
def test_a_function_that_breaks_its_word_is_an_error(function: Any, kind: object, message: str) -> None:  # noqa: ANN401  # a function
    with pytest.raises(FunctionError, match=message):
        applied(function, {"x": kind}, frame_of(1, 2, 4))


def test_a_function_cannot_change_the_events() -> None:
    def spoil(cents: Any) -> Any:  # noqa: ANN401  # columns
        cents[:] = 0
        return cents

    with pytest.raises(FunctionError, match=r"ValueError: assignment destination is read-only"):
        applied(spoil, {"x": float}, frame_of(1))
