from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import streamfti as fti
from streamfti.compute.vectorize import InputPlan, model_input


class Flight(fti.Event):
    carrier: str
    delay: int | None
    late: bool | None
    at: fti.EventTime


flights = fti.KafkaSource("flights", Flight)


@fti.feature_group(source=flights, entity="carrier")
class Carrier:
    n = fti.count().over("1h")


carrier: Any = Carrier  # mypy ignores what class decorators return
service = fti.FeatureService(
    "delays", [fti.request("hour", int), fti.request("carrier", str), carrier, fti.request("origin", str)]
)


def columns(**changes: object) -> dict[str, NDArray[Any]]:
    standard: dict[str, Any] = {
        "origin": np.array([None, "JFK"], object),
        "Carrier.n_1h": np.array([3, 2**24 + 1]),
        "carrier": np.array(["AA", "é"], object),
        "hour": np.array([np.nan, 7.0]),
    }
    return {**standard, **changes}


def test_numbers_and_categories_go_apart_each_in_the_order_of_the_service() -> None:
    assert InputPlan.of(service) == InputPlan(("hour", "Carrier.n_1h"), ("carrier", "origin"))


def test_the_tensors_of_a_batch() -> None:
    built = model_input(InputPlan.of(service), columns())
    assert (str(built.numeric.dtype), built.categories.shape, len(built)) == ("float32", (2, 2), 2)
    np.testing.assert_array_equal(built.numeric, np.array([[np.nan, 3], [7, 2**24]], np.float32))
    assert built.categories.tolist() == [["AA", ""], ["é", "JFK"]]


def test_the_order_of_the_columns_does_not_matter() -> None:
    turned = dict(reversed(columns().items()))
    np.testing.assert_array_equal(
        model_input(InputPlan.of(service), turned).numeric, model_input(InputPlan.of(service), columns()).numeric
    )


def test_booleans_are_zero_and_one() -> None:
    built = model_input(InputPlan.of(service), columns(**{"Carrier.n_1h": np.array([True, False])}))
    assert built.numeric[:, 1].tolist() == [1.0, 0.0]


def test_no_rows_are_empty_tensors() -> None:
    built = model_input(InputPlan.of(service), {name: column[:0] for name, column in columns().items()})
    assert (built.numeric.shape, built.categories.shape) == ((0, 2), (0, 2))
