"""The payments example: what its generator promises, and that its sender keeps time whatever the broker does."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fastavro
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from examples.payments.definitions import Payment
from examples.payments.producer import Pace, PaymentEncoder, Payments, Row, due_rows, main, send_on_time
from streamfti.clock import ManualClock, to_us
from streamfti.definitions.events import event_schema
from streamfti.errors import DefinitionError, SettingsError
from streamfti.feature_pipeline.avro_schema import avro_schema, encode_event
from streamfti.testing.event_frames import frame_schema

START = datetime(2026, 5, 1, 9, 30, tzinfo=UTC)
START_US = to_us(START)
MS_US, SECOND_US, MINUTE_US, HOUR_US = 1_000, 1_000_000, 60_000_000, 3_600_000_000
MANY = 200_000


def event_times_us(frame: pl.DataFrame) -> NDArray[np.int64]:
    times: NDArray[np.int64] = frame["at"].to_physical().to_numpy()
    return times


# --- the generator


def test_same_seed_gives_same_payments_and_another_seed_others() -> None:
    first, again, other = (Payments(seed, fraud_share=0.1).generate(500, START_US, MS_US) for seed in (7, 7, 8))
    assert first.equals(again)
    assert first["card_id"].to_list() != other["card_id"].to_list()
    assert first["amount_cents"].to_list() != other["amount_cents"].to_list()


def test_only_times_and_ids_depend_on_when_payments_are_sent() -> None:
    world = Payments(fraud_share=0.1)
    now, later = world.generate(500, START_US, MS_US), world.generate(500, START_US + 12_345, 7.5)
    assert now.drop("at", "payment_id").equals(later.drop("at", "payment_id"))
    assert not set(now["payment_id"]) & set(later["payment_id"])


@given(
    first=st.integers(0, 3_000), n=st.integers(0, 400), step_us=st.floats(0.1, 1e7), rhythm=st.sampled_from([0, 0.7])
)
def test_payments_do_not_depend_on_where_a_batch_begins(first: int, n: int, step_us: float, rhythm: float) -> None:
    world = Payments(users=50, merchants=20, fraud_share=0.3, daily_rhythm=rhythm)
    whole = world.generate(first + n, START_US, step_us)
    assert world.generate(n, START_US, step_us, first=first).equals(whole[first:])
    due_us = world.due_us(first + n, START_US, step_us)
    assert (world.due_us(n, START_US, step_us, first=first) == due_us[first:]).all()
    assert (np.diff(due_us) >= 0).all()


def test_every_row_is_a_payment_in_the_types_of_event_frames() -> None:
    frame = Payments(fraud_share=0.1).generate(1_000, START_US, MS_US)
    wanted = {n: t for n, t in frame_schema(event_schema(Payment)).items() if not n.startswith("_")}
    assert frame.schema == pl.Schema(wanted)
    assert [Payment(**row).values() for row in frame.iter_rows(named=True)] == frame.to_dicts()
    assert frame["payment_id"].n_unique() == len(frame)
    assert frame["amount_cents"].min() >= 1  # type: ignore[operator]  # polars types it for every kind of column
    assert frame["latitude"].is_between(-90, 90).all()
    assert frame["longitude"].is_between(-180, 180).all()


def test_encoded_rows_are_what_the_producer_makes_of_events() -> None:
    world, schema = Payments(), fastavro.parse_schema(avro_schema(event_schema(Payment)))
    encoder = PaymentEncoder(41)
    encoded = [encoder.encode(row) for _, row in itertools.islice(due_rows(world, START_US, MS_US), 1_500)]
    events = [Payment(**row) for row in world.generate(1_500, START_US, MS_US).iter_rows(named=True)]
    assert encoded == [encode_event(event, schema, 41) for event in events]
    assert fastavro.schemaless_reader(io.BytesIO(encoded[0][5:]), schema, None) == events[0].values()


def test_late_payments_are_as_many_and_as_late_as_asked_for() -> None:
    world = Payments(late_share=0.1, late_mean="30s")
    delay_us = world.due_us(MANY, START_US, MS_US) - event_times_us(world.generate(MANY, START_US, MS_US))
    late_us = delay_us[delay_us > 0]
    assert (delay_us >= 0).all()
    assert len(late_us) / MANY == pytest.approx(0.1, rel=0.05)
    assert late_us.mean() == pytest.approx(30e6, rel=0.05)
    assert np.median(late_us) == pytest.approx(30e6 * np.log(2), rel=0.05)  # exponential


def test_without_late_payments_event_times_are_the_schedule() -> None:
    times_us = event_times_us(Payments(late_share=0).generate(1_000, START_US, 2.5))
    assert times_us.tolist() == [START_US + int(2.5 * i) for i in range(1_000)]


@pytest.mark.parametrize("skew", [0.0, 1.0, 1.5])
def test_popularity_of_merchants_follows_zipf(skew: float) -> None:
    frame = Payments(merchants=50, skew=skew).generate(MANY, START_US, MS_US)
    counts = dict(frame["merchant_id"].value_counts().iter_rows())
    share = np.array([counts[f"m{i}"] for i in range(50)]) / MANY
    wanted = np.arange(1, 51) ** -skew
    np.testing.assert_allclose(share, wanted / wanted.sum(), rtol=0.2)
    slope, _ = np.polyfit(np.log(np.arange(1, 51)), np.log(share), 1)
    assert slope == pytest.approx(-skew, abs=0.05)


@pytest.mark.parametrize(("cards", "per_user"), [(100, {1}), (250, {1, 2, 3}), (300, {3})])
def test_users_have_one_to_three_cards(cards: int, per_user: set[int]) -> None:
    frame = Payments(users=100, cards=cards).generate(MANY, START_US, MS_US)
    owners = frame.group_by("card_id").agg(pl.col("user_id").n_unique())
    assert len(owners) == cards
    assert owners["user_id"].max() == 1
    assert set(frame.group_by("user_id").agg(pl.col("card_id").n_unique())["card_id"]) == per_user


def test_amounts_of_a_user_are_log_normal_around_what_is_usual_for_them() -> None:
    logs = Payments(users=20).generate(MANY, START_US, MS_US).select("user_id", log=pl.col("amount_cents").log())
    users = logs.group_by("user_id").agg(mean=pl.col("log").mean(), std=pl.col("log").std(), skew=pl.col("log").skew())
    np.testing.assert_allclose(users["std"], 0.8, rtol=0.1)
    np.testing.assert_allclose(users["skew"], 0, atol=0.2)
    assert users["mean"].std() > 0.3  # type: ignore[operator]  # a number of a column of floats


def degrees_from_home(world: Payments, frame: pl.DataFrame) -> NDArray[np.float64]:
    user = frame["user_id"].str.strip_prefix("u").cast(pl.Int64).to_numpy()
    place = frame.select("latitude", "longitude").to_numpy().T
    away: NDArray[np.float64] = np.abs(place - world._people.home[:, user]).max(axis=0)
    return away


def test_honest_payments_are_near_home() -> None:
    world = Payments()
    assert degrees_from_home(world, world.generate(MANY, START_US, MS_US)).max() < 0.3


def test_stolen_cards_pay_fast_and_far_from_home() -> None:
    world = Payments(fraud_share=0.05)
    frame = world.generate(MANY, START_US, MS_US).with_row_index("number")
    away = degrees_from_home(world, frame) > 1
    assert away.mean() == pytest.approx(0.05, rel=0.2)
    bursts = (
        frame.filter(away)
        .group_by(run=pl.col("number") // 96, lane=pl.col("number") % 16)
        .agg(
            pl.len(),
            pl.col("card_id").n_unique(),
            span=pl.col("number").max() - pl.col("number").min(),
            spread=pl.col("latitude").max() - pl.col("latitude").min(),
        )
        .filter(pl.col("run") < MANY // 96)  # the last run is cut off
    )
    assert bursts.select("len", "card_id", "span").unique().row(0) == (6, 1, 80)
    assert bursts.select("len", "card_id", "span").n_unique() == 1
    assert bursts["spread"].max() < 0.3  # type: ignore[operator]  # a number of a column of floats


def test_a_day_with_a_rhythm_has_as_many_payments_as_one_without() -> None:
    midnight_us = to_us(datetime(2026, 5, 1, tzinfo=UTC))
    due_us = Payments(daily_rhythm=0.5).due_us(2 * 86_400, midnight_us, SECOND_US) - midnight_us
    by_hour = np.bincount(due_us // HOUR_US, minlength=48)
    assert by_hour.sum() == 2 * 86_400
    assert by_hour[:24].sum() == pytest.approx(86_400, abs=2)
    np.testing.assert_allclose(by_hour[[17, 18]], 1.5 * 3600, rtol=0.02)
    np.testing.assert_allclose(by_hour[[5, 6]], 0.5 * 3600, rtol=0.02)


def test_a_rhythm_begins_at_the_start_whatever_the_time_of_day() -> None:
    world = Payments(users=1, merchants=1, daily_rhythm=0.5)
    starts_us = range(START_US, START_US + 24 * HOUR_US, 7 * MINUTE_US + 123_457)
    assert {int(world.due_us(1, start_us, SECOND_US)[0]) - start_us for start_us in starts_us} <= {0, 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"users": 0}, "users must be at least 1, got 0"),
        ({"users": 10, "cards": 9}, "cards must be from 10 to 30, got 9"),
        ({"users": 10, "cards": 31}, "cards must be from 10 to 30, got 31"),
        ({"merchants": 0}, "merchants must be at least 1, got 0"),
        ({"skew": -0.1}, "skew must be at least 0, got -0.1"),
        ({"late_share": 1.1}, "late share must be from 0 to 1, got 1.1"),
        ({"fraud_share": float("nan")}, "fraud share must be from 0 to 1, got nan"),
        ({"daily_rhythm": 2}, "daily rhythm must be from 0 to 1, got 2"),
    ],
)
def test_impossible_payments_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(SettingsError, match=f"^{message}$"):
        Payments(**options)  # type: ignore[arg-type]  # each is of its own type


def test_a_late_mean_must_be_a_duration() -> None:
    with pytest.raises(DefinitionError, match="late mean must be a duration"):
        Payments(late_mean="soon")


# --- the sender


class World:
    """A clock that moves when the sender sleeps or the taker takes its time, and what was sent when."""

    def __init__(self, taking: Callable[[int], timedelta] = lambda _: timedelta(0)) -> None:
        self.clock = ManualClock(START)
        self.taking = taking
        self.sent: list[tuple[float, Row]] = []
        self.looks: list[tuple[int, float, float]] = []
        self.naps = 0

    def sleep(self, seconds: float) -> None:
        self.naps += 1
        self.clock.advance(timedelta(seconds=seconds))

    def take(self, row: Row) -> None:
        self.sent.append((self.clock.monotonic(), row))
        self.clock.advance(self.taking(len(self.sent)))

    def run(self, rate: float, count: int | None = None, **options: object) -> Pace:
        rows = itertools.islice(due_rows(Payments(late_share=0), START_US, SECOND_US / rate), count)
        return send_on_time(
            rows,
            self.take,
            clock=self.clock,
            sleep=self.sleep,
            on_look=lambda *look: self.looks.append(look),
            **options,  # type: ignore[arg-type]  # each is of its own type
        )

    def lateness_s(self) -> list[float]:
        return [at - (row["at"] - START_US) / SECOND_US for at, row in self.sent]


@pytest.mark.parametrize("rate", [0.5, 3, 100, 1_000, 30_000])
def test_events_are_sent_at_the_rate_and_never_early(rate: float) -> None:
    world = World()
    pace = world.run(rate, until_s=4.0)
    assert pace.events == len(world.sent) == 4 * rate
    assert all(-1e-6 <= late <= 0.0011 for late in world.lateness_s())  # a nap of 1 ms is the shortest
    if pace.events > 100:
        assert pace.events_per_second == pytest.approx(rate, rel=0.01)
    assert pace.behind_max_s <= 0.0011
    assert world.naps <= 4_100  # high rates are sent in batches


def test_a_slow_taker_does_not_slow_the_schedule() -> None:
    """One pause of 3 s: what became due meanwhile is sent at once after it, and then all is on time again."""
    world = World(lambda n: timedelta(seconds=3) if n == 500 else timedelta(0))
    pace = world.run(1_000, count=6_000)
    lateness = world.lateness_s()
    assert pace.events == 6_000
    assert pace.seconds == pytest.approx(6, abs=0.01)
    assert max(lateness[:500]) < 0.002
    assert lateness[500] == pytest.approx(3, abs=0.01)
    assert lateness[3_400] == pytest.approx(0.1, abs=0.01)
    assert max(lateness[3_510:]) < 0.002
    assert pace.behind_max_s == pytest.approx(3, abs=0.3)
    assert max(behind for _, _, behind in world.looks) == pace.behind_max_s


def test_a_taker_that_is_always_too_slow_falls_behind_and_the_end_cuts_it_off() -> None:
    world = World(lambda _: timedelta(milliseconds=2))
    pace = world.run(1_000, until_s=5.0)
    assert 6.0 <= pace.seconds < 6.6  # a second after the end, at a look that comes every 256 events
    assert pace.events == pytest.approx(3_100, abs=200)
    assert pace.behind_max_s == pytest.approx(3, abs=0.3)
    assert pace.events_per_second == pytest.approx(500, rel=0.01)


def test_a_run_ends_when_it_is_told_to() -> None:
    world = World()
    pace = world.run(10, stopped=lambda: world.clock.monotonic() >= 2)
    assert pace.events == 20
    assert pace.seconds == pytest.approx(2, abs=0.11)


def test_a_stop_is_noticed_long_before_a_rare_event_is_due() -> None:
    world = World()
    assert world.run(0.001, stopped=lambda: world.clock.monotonic() >= 2).events == 1
    assert world.clock.monotonic() < 2.2


def test_nothing_to_send_is_no_rate() -> None:
    assert World().run(10, count=0) == Pace(0, 0.0, 0.0)
    assert World().run(10, count=0).events_per_second == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate", "0"], "rate must be from 0.001 to 10000000, got 0.0"),
        (["--rate", "nan"], "rate must be from 0.001 to 10000000, got nan"),
        (["--seconds", "-1"], "seconds must be at least 0, got -1.0"),
        (["--users", "10", "--cards", "5"], "cards must be from 10 to 30, got 5"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["--home", str(tmp_path), *options])
    assert (result.exit_code, result.stderr) == (1, f"Error: {message}\n")
