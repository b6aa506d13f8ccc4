from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

import pytest

import streamfti as fti
from streamfti.definitions.dtypes import DType
from streamfti.definitions.fingerprint import group_fingerprint
from streamfti.errors import DefinitionError


class Payment(fti.Event):
    card: str
    shop: str | None
    online: bool
    cents: int
    amount: float
    fee: Annotated[Decimal, fti.Decimal(12, 2)]
    due: datetime
    at: fti.EventTime


payments = fti.KafkaSource("payments", Payment)
due: Any = Payment.due


def group_of(**features: Any) -> Any:  # noqa: ANN401  # a group, made of what is tested
    return fti.feature_group(source=payments, entity="card")(type("Card", (), features))


def test_features_are_named_by_window_and_rank_or_place() -> None:
    group = group_of(
        shops=fti.approx_distinct(Payment.shop).over("1h", "24h"),
        spend=fti.quantiles(Payment.amount, 0.5, 0.95, 0.999, 1).over("1h"),
        often=fti.top_k(Payment.shop, 2).over("1h"),
        ever=fti.top_k(Payment.online, 1).lifetime(),
    )
    assert {f.name: f.dtype for f in group.features} == {
        "shops_1h": DType.INT64,
        "shops_24h": DType.INT64,
        "spend_1h_p50": DType.FLOAT64,
        "spend_1h_p95": DType.FLOAT64,
        "spend_1h_p99_9": DType.FLOAT64,
        "spend_1h_p100": DType.FLOAT64,
        "often_1h_1": DType.STRING,
        "often_1h_2": DType.STRING,
        "ever_1": DType.INT64,
    }
    assert group.spend["1h_p95"].name == "spend_1h_p95"


def test_the_size_of_a_sketch_is_part_of_what_a_group_means() -> None:
    made = [
        group_of(x=fti.approx_distinct(Payment.shop).over("1h")),
        group_of(x=fti.approx_distinct(Payment.shop, lg_k=12).over("1h")),
        group_of(x=fti.quantiles(Payment.fee, 0.5).over("1h")),
        group_of(x=fti.quantiles(Payment.fee, 0.5, k=400).over("1h")),
        group_of(x=fti.top_k(Payment.shop, 1).over("1h")),
        group_of(x=fti.top_k(Payment.shop, 1, map_size=512).over("1h")),
    ]
    assert len({group_fingerprint(group) for group in made}) == len(made)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: fti.approx_distinct(due),
            r"approx_distinct\(\) must be given a field of numbers, booleans or strings",
        ),
        (lambda: fti.approx_distinct(Payment.shop, lg_k=6), r"lg_k of approx_distinct\(\) .* from 7 to 16, got 6"),
        (lambda: fti.approx_distinct(Payment.shop, lg_k=True), r"must be a whole number from 7 to 16, got True"),
        (lambda: fti.approx_distinct(Payment.shop).over("1h", default=1), r"of an empty window is 0 and takes no"),
        (lambda: fti.quantiles(due, 0.5), r"quantiles\(\) must be given a field of numbers, got"),
        (lambda: fti.quantiles(Payment.amount), r"must be given ranks such as 0.5 and 0.95, each once, got \(\)"),
        (lambda: fti.quantiles(Payment.amount, 0.5, 0.5), r"each once, got \(0.5, 0.5\)"),
        (lambda: fti.quantiles(Payment.amount, 95), r"a rank of quantiles\(\) must be from 0 to 1, got 95"),
        (lambda: fti.quantiles(Payment.amount, float("nan")), r"a rank of quantiles\(\) must be from 0 to 1, got nan"),
        (lambda: fti.quantiles(Payment.amount, 0.5, k=7), r"k of quantiles\(\) .* from 8 to 65535, got 7"),
        (lambda: fti.top_k(Payment.amount, 3), r"top_k\(\) must be given a field of strings, integers or booleans"),
        (lambda: fti.top_k(Payment.shop, 0), r"k of top_k\(\) must be a whole number from 1 to 32, got 0"),
        (lambda: fti.top_k(Payment.shop, 33), r"k of top_k\(\) must be a whole number from 1 to 32, got 33"),
        (lambda: fti.top_k(Payment.shop, 3, map_size=300), r"map_size of top_k\(\) must be a power of two, got 300"),
        (lambda: fti.top_k(Payment.shop, 3).over("1h", default=1), r"the default of top_k\(\) must be a string, got 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        make()
