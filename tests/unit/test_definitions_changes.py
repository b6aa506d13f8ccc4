"""Sources of changes: what they must say of themselves, and what may be computed over them."""

from __future__ import annotations

import decimal
from collections.abc import Callable
from typing import Annotated, Any

import pytest

import streamfti as fti
from streamfti.compute.aggregators import AGGREGATORS
from streamfti.definitions.aggregations import WindowedAggregation
from streamfti.definitions.fingerprint import group_fingerprint
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.sources import Changes
from streamfti.errors import DefinitionError


class Account(fti.Event):
    account: str
    branch: str | None
    balance: Annotated[decimal.Decimal, fti.Decimal(12, 2)]
    points: int
    rate: float
    opened: bool
    at: fti.EventTime


upserts = fti.KafkaSource("accounts", Account, changes="upsert", key="account")
envelopes = fti.KafkaSource("accounts", Account, changes="debezium", key="account")
balances = fti.KafkaSource("accounts", Account, changes="debezium", key="account", before_images=True)
events = fti.KafkaSource("accounts", Account)


def group(source: fti.KafkaSource, entity: str | tuple[str, ...], **features: WindowedAggregation) -> FeatureGroup:
    return fti.feature_group(source=source, entity=entity)(type("Accounts", (), features))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"key": "account"}, "must have no key and no before_images, as its messages are no changes of rows"),
        ({"before_images": True}, "must have no key and no before_images"),
        ({"changes": "upsert"}, r"must have a key of one or more fields that identify a row, each once, got \(\)"),
        ({"changes": "upsert", "key": ("account", "account")}, "each once"),
        ({"changes": "upsert", "key": "acount"}, "event 'Account' has no field 'acount'"),
        ({"changes": "upsert", "key": "branch"}, "must be str, int or bool, got string or null"),
        ({"changes": "upsert", "key": "rate"}, "must be str, int or bool, got float64"),
        ({"changes": "cdc", "key": "account"}, "must be upsert or debezium, got 'cdc'"),
        ({"changes": "upsert", "key": "account", "before_images": True}, "must be of changes='debezium'"),
        ({"changes": "debezium", "key": "account", "format": "protobuf"}, "must be of format avro or json"),
    ],
)
def test_an_impossible_source_of_changes_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        fti.KafkaSource("accounts", Account, **given)


def test_all_but_the_key_and_the_time_may_be_null_in_the_frames_of_changes() -> None:
    schema = upserts.schema
    assert [f.name for f in schema.fields if not schema.may_be_null(f)] == ["account", "at"]
    assert [f.name for f in events.schema.fields if events.schema.may_be_null(f)] == ["branch"]


NOT_INVERTIBLE: dict[str, Callable[[], Any]] = {
    "min": lambda: fti.min(Account.points).over("1h"),
    "max": lambda: fti.max(Account.points).lifetime(),
    "variance": lambda: fti.variance(Account.points).over("1h"),
    "stddev": lambda: fti.stddev(Account.points).over("1h"),
    "first": lambda: fti.first(Account.points).over("1h"),
    "last": lambda: fti.last(Account.points).over("1h"),
    "last_n": lambda: fti.last_n(Account.points, 2).over("1h"),
    "time_since_last": fti.time_since_last,
    "approx_distinct": lambda: fti.approx_distinct(Account.points).over("1h"),
    "quantiles": lambda: fti.quantiles(Account.points, 0.5).over("1h"),
    "top_k": lambda: fti.top_k(Account.points, 2).over("1h"),
}


@pytest.mark.parametrize("kind", NOT_INVERTIBLE)
@pytest.mark.parametrize("source", [upserts, envelopes, balances], ids=["upsert", "debezium", "before_images"])
def test_what_cannot_be_taken_back_is_refused_with_the_reason(source: fti.KafkaSource, kind: str) -> None:
    message = rf"'Accounts.*' over the changes of source 'accounts' must be of a kind that can take .* back.*got {kind}"
    with pytest.raises(DefinitionError, match=message) as refused:
        group(source, "account", value=NOT_INVERTIBLE[kind]())
    assert refused.value.hint is not None
    assert "fti.latest()" in refused.value.hint
    assert group(events, "account", value=NOT_INVERTIBLE[kind]()).features


def test_every_kind_is_invertible_or_refused() -> None:
    invertible = {kind for kind, built in AGGREGATORS.items() if built.invertible}
    assert {"count", "sum", "mean"} <= invertible
    assert not invertible & (NOT_INVERTIBLE.keys() | {"latest"})


@pytest.mark.parametrize("source", [upserts, envelopes], ids=["upsert", "debezium"])
def test_signed_aggregates_need_before_images(source: fti.KafkaSource) -> None:
    with pytest.raises(DefinitionError, match="must know the former state of each row to take it back from a count"):
        group(source, "account", n=fti.count().lifetime())


def test_sums_that_would_keep_what_rounding_left_are_refused() -> None:
    for built in (fti.sum(Account.rate).lifetime(), fti.mean(Account.rate).lifetime()):
        with pytest.raises(
            DefinitionError, match=r"must be of integers or decimals, got Account\.rate, which is float64"
        ):
            group(balances, "branch", value=built)
    assert group(balances, "branch", n=fti.count(where=Account.rate > 0.5).lifetime()).features


def test_changes_within_a_window_have_no_mean_and_their_sum_no_default() -> None:
    with pytest.raises(DefinitionError, match="must be over the lifetime, as changes have no mean, got 1h"):
        group(balances, "branch", value=fti.mean(Account.points).over("1h"))
    with pytest.raises(DefinitionError, match="must have no default, as the sum of no changes is 0, got 5"):
        group(balances, "branch", value=fti.sum(Account.points).over("1h", default=5))


def test_an_attribute_is_of_the_row_that_the_key_names() -> None:
    with pytest.raises(DefinitionError, match=r"entity of feature group 'Accounts' must be the key of source"):
        group(upserts, "branch", points=fti.latest(Account.points))
    assert group(events, "branch", points=fti.latest(Account.points)).features


def test_attributes_and_signed_aggregates_may_stand_in_one_group() -> None:
    both = group(
        balances,
        "account",
        points=fti.latest(Account.points),
        n=fti.count().over("1h"),
        sum=fti.sum(Account.points).over("1h"),
    )
    assert [str(feature.aggregation) for feature in both.features] == [
        "latest(points)",
        "count()",
        "sum(points, net=1)",
    ]
    assert both.retention_us is None


def test_how_changes_are_read_is_part_of_what_a_group_means() -> None:
    def fingerprint(changes: Changes | None, key: str = "account", *, before_images: bool = False) -> str:
        source = fti.KafkaSource(
            "accounts", Account, changes=changes, key=key if changes else (), before_images=before_images
        )
        return group_fingerprint(group(source, "account", points=fti.latest(Account.points)))

    found = [
        fingerprint(None),
        fingerprint("upsert"),
        fingerprint("debezium"),
        fingerprint("debezium", before_images=True),
    ]
    assert len(set(found)) == len(found)


def test_an_attribute_needs_all_changes_of_its_rows() -> None:
    opened = upserts.where(Account.opened == True)  # noqa: E712  # a condition
    with pytest.raises(DefinitionError, match="a row that comes to be left out would stay as it was before"):
        fti.feature_group(source=opened, entity="account")(type("A", (), {"points": fti.latest(Account.points)}))
    derived = upserts.derive(twice=Account.points * 2)
    built = fti.feature_group(source=derived, entity="account")(type("A", (), {"twice": fti.latest(derived["twice"])}))
    assert built.stream.schema.is_of_changes


def test_functions_are_not_asked_for_rows_of_which_only_the_key_is_known() -> None:
    @fti.batch_function(outputs={"size": float})
    def sized(points: Any) -> Any:  # noqa: ANN401  # columns
        """The size of an account."""
        return points

    attributes = type("A", (), {"points": fti.latest(Account.points)})
    with pytest.raises(DefinitionError, match="of a row that is gone only the key is known"):
        fti.feature_group(source=upserts.apply(sized), entity="account")(attributes)
    assert fti.feature_group(source=balances.apply(sized), entity="account")(attributes).features


def test_changes_are_no_events_to_join() -> None:
    with pytest.raises(DefinitionError, match="must be of events, got source 'accounts', whose messages are changes"):
        events.join(upserts, on="account", within="10m")
