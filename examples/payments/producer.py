"""Synthetic card payments: a generator for benchmarks, and a program that sends them by the clock.

`Payments` makes frames of payments from a seed and needs no broker. `python -m examples.payments.producer` sends them
at a rate of its own: an open loop, which never waits for whoever takes the events. No feature is computed here.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from types import FrameType
from typing import Any

import click
import fastavro
import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from typing_extensions import override

from streamfti.clock import Clock, SystemClock
from streamfti.definitions.durations import DAY_US, HOUR_US, MINUTE_US, SECOND_US, Duration, duration_us
from streamfti.errors import SettingsError, StreamFTIError
from streamfti.feature_pipeline.avro_schema import avro_schema, frame_message
from streamfti.feature_pipeline.kafka_source import topic_partitions
from streamfti.feature_pipeline.producer import EventProducer
from streamfti.settings import Settings, settings_options
from streamfti.stores.schemas.opening import open_schema_registry

from .definitions import payments as payments_source

__all__ = ["Pace", "PaymentEncoder", "Payments", "due_rows", "main", "send_on_time"]

Floats = NDArray[np.float64]
Row = Mapping[str, Any]
"""A payment by field, its event time in microseconds."""

# Degrees north and east. Any two are far enough apart that no card is in both within an hour.
_CITIES = np.array([
    (40.7, -74.0), (19.4, -99.1), (-23.6, -46.6), (51.5, -0.1), (52.5, 13.4), (6.5, 3.4),
    (-1.3, 36.8), (25.2, 55.3), (19.1, 72.9), (1.4, 103.8), (35.7, 139.7), (-33.9, 151.2),
]).T  # fmt: skip
_HOME_DEGREES = 0.15  # how far people live from the middle of their city, and
_TRIP_DEGREES = 0.03  # how far from home they pay: one standard deviation
_MEDIAN_CENTS, _USER_SIGMA, _PAYMENT_SIGMA = 2_500, 0.6, 0.8
_ACTIVITY_SIGMA = 0.7
_MAX_CARDS = 3
_ONLINE_MERCHANTS = 0.3

_BURST_PAYMENTS = 6
_BURST_LANES = 16  # a burst has every 16th payment of its run of 96, so that runs tile the numbers
_RUN = _BURST_PAYMENTS * _BURST_LANES

_DRAWS_A_STEP = 4  # the generator can only jump by so many numbers

_BUSIEST_US = 18 * HOUR_US  # of the day, in UTC

_BLOCK = 1_024
_NAP_S = 0.001  # sleeping less costs more than it gives: an event may leave so much after its time
_PATIENCE_S = 0.1  # how soon a signal is noticed
_LOOK = 256  # events between two looks at the clock while behind
_RATES = (0.001, 10_000_000)
_BEHIND_S = 1.0  # what is worth a warning


class _Draw(IntEnum):
    """What each random number of a payment decides. A multiple of four, as the generator jumps by fours."""

    CARD = 0
    MERCHANT = 1
    AMOUNT = 2
    AMOUNT_ANGLE = 3
    TRIP = 4
    TRIP_ANGLE = 5
    LATE = 6
    DELAY = 7
    FRAUD = 8
    FRAUD_CITY = 9
    SPARE_1 = 10
    SPARE_2 = 11


class Payments:
    """Payments that depend on the seed, the options and their number alone; immutable.

    Users live around a city, have one to three cards and a usual amount; some pay more often than others. Amounts of
    a user are log-normal. The popularity of merchants follows Zipf's law.

    Args:
        seed: 0 or more; another one is another world.
        users: how many there are.
        cards: how many they have together, from one to three each. By default two a user, on average.
        merchants: how many there are; `m0` is the most popular.
        skew: the exponent of the law: 0 makes merchants equally popular, 1 is natural.
        late_share: this share of the events happened earlier than their turn, and so arrive late,
        late_mean: by so much on average; delays are exponential.
        fraud_share: this share of the payments is in bursts: six close to each other, of one card, far from home.
        daily_rhythm: the rate swings by this share around its mean, with the most payments at 18:00 UTC.

    Raises:
        SettingsError: if there can be no such payments.
        DefinitionError: if `late_mean` is no duration.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        users: int = 10_000,
        cards: int | None = None,
        merchants: int = 1_000,
        skew: float = 1.0,
        late_share: float = 0.02,
        late_mean: Duration = "60s",
        fraud_share: float = 0.0,
        daily_rhythm: float = 0.0,
    ) -> None:
        cards = 2 * users if cards is None else cards
        _require("seed", seed, 0)
        _require("users", users, 1)
        _require("merchants", merchants, 1)
        _require("cards", cards, users, _MAX_CARDS * users)
        _require("skew", skew, 0)
        _require("late share", late_share, 0, 1)
        _require("fraud share", fraud_share, 0, 1)
        _require("daily rhythm", daily_rhythm, 0, 1)
        self._seed, self._late_share, self._fraud_share = seed, late_share, fraud_share
        self._late_mean_us = duration_us(late_mean, subject="late mean")
        self._rhythm = _Rhythm(daily_rhythm)
        random = np.random.default_rng([seed, 1])  # apart from the payments' own numbers
        self._people = _People.of(random, users, cards)
        self._merchant_share = _cumulative(np.arange(1, merchants + 1, dtype=np.float64) ** -skew)
        self._is_online = random.random(merchants) < _ONLINE_MERCHANTS
        self._merchant_ids = _ids("m", merchants)

    def due_us(self, n: int, start_us: int, step_us: float, *, first: int = 0) -> NDArray[np.int64]:
        """Return int64[n]: when the payments are due to be sent, in order; see `generate`."""
        return self._rhythm.due_us(start_us, np.arange(first, first + n, dtype=np.float64) * step_us)

    def generate(self, n: int, start_us: int, step_us: float, *, first: int = 0) -> pl.DataFrame:
        """Return n payments, from number `first` on.

        A pure function: what a call returns are the last rows of one that begins with number 0.

        Args:
            n: how many.
            start_us: when payment number 0 is due, in microseconds since 1970.
            step_us: the mean time from one payment to the next; it may be below 1.
            first: the number of the first one.

        Returns:
            One row a payment, in the order in which they are due, with the fields of `Payment` in the types of event
            frames and without the framework's own columns. The event time is when the payment is due, or earlier when
            it is late, never later. Only the event time and `payment_id` depend on `start_us` and `step_us`.
        """
        begin = first - first % _RUN  # earlier payments are only needed for the bursts that they begin
        number = np.arange(begin, first + n)
        due_us = self.due_us(len(number), start_us, step_us, first=begin)
        return self._frame(number, due_us, f"{start_us:x}-")[first - begin :]

    def _frame(self, number: NDArray[np.int64], due_us: NDArray[np.int64], id_prefix: str) -> pl.DataFrame:
        draws, people = _draws(self._seed, number), self._people
        card, city_shift = self._whose(number, draws)
        user, merchant = people.user_of_card[card], _choose(self._merchant_share, draws[_Draw.MERCHANT])
        amount, _ = _normals(draws[_Draw.AMOUNT], draws[_Draw.AMOUNT_ANGLE])
        cents = np.exp(people.log_cents[user] + _PAYMENT_SIGMA * amount)
        place = people.place(user, city_shift, draws)
        columns = {
            "at": pl.Series(due_us - self._delay_us(draws)).cast(pl.Datetime("us", "UTC")),
            "payment_id": id_prefix + pl.Series(number).cast(pl.String),
            "user_id": people.user_ids.gather(user),
            "card_id": people.card_ids.gather(card),
            "merchant_id": self._merchant_ids.gather(merchant),
            "amount_cents": np.maximum(1, cents).astype(np.int64),
            "latitude": place[0],
            "longitude": place[1],
            "is_online": self._is_online[merchant],
        }
        return pl.DataFrame(columns)

    def _whose(self, number: NDArray[np.int64], draws: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the card of each payment, and how many cities from home it is; the numbers begin with a run."""
        head = number - number % _RUN + number % _BURST_LANES - number[:1]  # the row that begins the burst
        stolen = draws[_Draw.FRAUD][head] < self._fraud_share
        chooser = np.where(stolen, draws[_Draw.CARD][head], draws[_Draw.CARD])
        shift = 1 + draws[_Draw.FRAUD_CITY][head] * (len(_CITIES) - 1)
        return _choose(self._people.card_share, chooser), np.where(stolen, shift, 0.0).astype(np.int64)

    def _delay_us(self, draws: Floats) -> NDArray[np.int64]:
        delay = -self._late_mean_us * np.log1p(-draws[_Draw.DELAY])
        return np.where(draws[_Draw.LATE] < self._late_share, delay, 0.0).astype(np.int64)


@dataclass(frozen=True, slots=True)
class _People:
    """Users and their cards.

    Attributes:
        user_of_card: int64[cards].
        card_share: float64[cards], cumulative: how often a card pays.
        city: int64[users].
        home: float64[2, users], degrees.
        log_cents: float64[users], the logarithm of the median amount.
    """

    user_of_card: NDArray[np.int64]
    card_share: Floats
    city: NDArray[np.int64]
    home: Floats
    log_cents: Floats
    user_ids: pl.Series
    card_ids: pl.Series

    @classmethod
    def of(cls, random: np.random.Generator, users: int, cards: int) -> _People:
        everyone = np.arange(users)
        more = random.permutation(np.tile(everyone, _MAX_CARDS - 1))[: cards - users]
        user_of_card = np.concatenate([everyone, more])
        activity = np.exp(_ACTIVITY_SIGMA * random.standard_normal(users)) / np.bincount(user_of_card)
        city = random.integers(len(_CITIES[0]), size=users)
        home = _CITIES[:, city] + _HOME_DEGREES * random.standard_normal((2, users))
        log_cents = np.log(_MEDIAN_CENTS) + _USER_SIGMA * random.standard_normal(users)
        share, names = _cumulative(activity[user_of_card]), (_ids("u", users), _ids("c", cards))
        return cls(user_of_card, share, city, home, log_cents, *names)

    def place(self, user: NDArray[np.int64], city_shift: NDArray[np.int64], draws: Floats) -> Floats:
        """Return float64[2, n]: somewhere near home, or near the same spot of another city."""
        city = self.city[user]
        there = (city + city_shift) % len(_CITIES[0])
        trip = _TRIP_DEGREES * np.array(_normals(draws[_Draw.TRIP], draws[_Draw.TRIP_ANGLE]))
        place: Floats = self.home[:, user] + _CITIES[:, there] - _CITIES[:, city] + trip
        return place


@dataclass(frozen=True, slots=True)
class _Rhythm:
    """A rate that swings over the day: `1 + swing * cos(time since the busiest moment)` times its mean."""

    swing: float

    def due_us(self, start_us: int, elapsed_us: Floats) -> NDArray[np.int64]:
        """Return int64[n]: when so much time would have passed at the mean rate."""
        if not self.swing:
            return start_us + elapsed_us.astype(np.int64)
        day_us = np.arange(0, DAY_US + 1, MINUTE_US)
        angle = 2 * np.pi * (day_us - _BUSIEST_US) / DAY_US
        # What has passed of the day at the mean rate when the clock shows `day_us`; a whole day is a day.
        mean_us = day_us + self.swing * DAY_US / (2 * np.pi) * (np.sin(angle) - np.sin(angle[0]))
        days, began_us = divmod(start_us, DAY_US)
        passed_us = np.interp(began_us, day_us, mean_us) + elapsed_us
        clock_us = np.interp(passed_us % DAY_US, mean_us, day_us)
        due_us = (days + passed_us // DAY_US).astype(np.int64) * DAY_US + clock_us.astype(np.int64)
        return np.asarray(np.maximum(start_us, due_us))  # rounding must not begin before the start


def _draws(seed: int, number: NDArray[np.int64]) -> Floats:
    """Return float64[len(_Draw), n] in [0, 1), always the same for a number; the numbers follow each other."""
    begin = int(number[0]) if len(number) else 0
    bits = np.random.Philox(seed).advance(begin * len(_Draw) // _DRAWS_A_STEP)
    return np.random.Generator(bits).random((len(number), len(_Draw))).T


def _normals(radius: Floats, angle: Floats) -> tuple[Floats, Floats]:
    """Return two independent standard normals of two uniforms in [0, 1).

    References:
        Box and Muller, A note on the generation of random normal deviates, 1958. The generator's own method takes a
        varying number of draws, after which the place of a later payment's would not be known.
    """
    length = np.sqrt(-2 * np.log1p(-radius))
    return length * np.cos(2 * np.pi * angle), length * np.sin(2 * np.pi * angle)


def _cumulative(weights: Floats) -> Floats:
    total = np.cumsum(weights)
    return np.asarray(total / total[-1])


def _choose(share: Floats, uniform: Floats) -> NDArray[np.int64]:
    """Return int64[n] places of a cumulative distribution, whose end is exactly 1."""
    places: NDArray[np.int64] = np.searchsorted(share, uniform, side="right")
    return places


def _ids(letter: str, n: int) -> pl.Series:
    return letter + pl.Series(np.arange(n)).cast(pl.String)


def _require(what: str, value: float, least: float, most: float = math.inf) -> None:
    if not least <= value <= most:
        limits = f"at least {least}" if most == math.inf else f"from {least} to {most}"
        msg = f"{what} must be {limits}, got {value}"
        raise SettingsError(msg)


class PaymentEncoder:
    """Makes Avro messages of rows, as `EventProducer.send` does of events, without an object for each.

    Not checked: the rows are those of `Payments`.
    """

    def __init__(self, schema_id: int) -> None:
        self._schema = fastavro.parse_schema(avro_schema(payments_source.schema))
        self._schema_id = schema_id

    def encode(self, row: Row) -> bytes:
        """Return the framed message of one row."""
        body = io.BytesIO()
        fastavro.schemaless_writer(body, self._schema, row)
        return frame_message(self._schema_id, body.getvalue())


def due_rows(payments: Payments, start_us: int, step_us: float) -> Iterator[tuple[float, Row]]:
    """Iterate without end over payments and when they are due, in seconds after the start."""
    for first in itertools.count(0, _BLOCK):
        due_s = (payments.due_us(_BLOCK, start_us, step_us, first=first) - start_us) / SECOND_US
        frame = payments.generate(_BLOCK, start_us, step_us, first=first).with_columns(pl.col("at").to_physical())
        yield from zip(due_s.tolist(), frame.iter_rows(named=True), strict=True)


@dataclass(frozen=True, slots=True)
class Pace:
    """How a run kept time.

    Attributes:
        events: how many were sent.
        seconds: from the start until the last was handed over, which is not yet acknowledged.
        behind_max_s: the longest that an event waited after it was due, as seen whenever the clock was read.
    """

    events: int
    seconds: float
    behind_max_s: float

    @property
    def events_per_second(self) -> float:
        """The first event is sent at 0 s, so one less than there are have had to be waited for."""
        return (self.events - 1) / self.seconds if self.events > 1 and self.seconds > 0 else 0.0


def send_on_time(
    rows: Iterable[tuple[float, Row]],
    send: Callable[[Row], None],
    *,
    clock: Clock,
    sleep: Callable[[float], None],
    until_s: float = math.inf,
    stopped: Callable[[], bool] = lambda: False,
    on_look: Callable[[int, float, float], None] | None = None,
) -> Pace:
    """Send rows when they are due, never earlier, and return when there are no more.

    What is due does not depend on how fast rows are taken: after a pause, those that should have been sent are sent
    at once. Nothing is left out, but for what `until_s` cuts off.

    Args:
        rows: when each is due, in seconds from now and in order, and the row.
        send: takes a row.
        clock: only its monotonic side is read.
        sleep: waits for about so many seconds.
        until_s: rows due then or later are not sent; nor are the earlier ones, once it has been over for a second.
        stopped: asked at least every 0.1 s, or 256 events, whether to end now.
        on_look: called whenever the clock was read, with the events so far, and the seconds since the start and behind.
    """
    began, now_s, sent, behind_max_s = clock.monotonic(), 0.0, 0, 0.0
    for due_s, row in rows:
        if due_s >= until_s:
            break
        if due_s > now_s or sent % _LOOK == 0:
            now_s = _wait_until(due_s, lambda: clock.monotonic() - began, sleep, stopped)
            behind_max_s = max(behind_max_s, now_s - due_s)
            if on_look is not None:
                on_look(sent, now_s, max(0.0, now_s - due_s))
            if stopped() or now_s > until_s + _BEHIND_S:
                break
        send(row)
        sent += 1
    return Pace(sent, clock.monotonic() - began, behind_max_s)


def _wait_until(
    due_s: float, elapsed: Callable[[], float], sleep: Callable[[float], None], stopped: Callable[[], bool]
) -> float:
    """Return the time when it is due, or when stopped."""
    while (now_s := elapsed()) < due_s and not stopped():
        sleep(min(max(due_s - now_s, _NAP_S), _PATIENCE_S))
    return now_s


class _Report:
    """What people see of a run, on stderr: a bar on a terminal, and when the producer falls behind."""

    def __init__(self, progress: Progress, total: float | None) -> None:
        self._progress = progress
        self._task = progress.add_task("payments", total=total, rate="")
        self._shown_s, self._behind = 0.0, False

    def look(self, sent: int, now_s: float, behind_s: float) -> None:
        if (behind_s > _BEHIND_S) != self._behind:
            self._behind = not self._behind
            click.echo(f"behind by {behind_s:.1f} s" if self._behind else "on time again", err=True)
        if now_s - self._shown_s >= _PATIENCE_S:
            self._shown_s = now_s
            self._progress.update(self._task, completed=sent, rate=f"{sent / now_s:,.0f} events/s")


class _Command(click.Command):
    """A command whose errors are one line and a hint."""

    @override
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StreamFTIError as exc:
            hint = f"\nhint: {exc.hint}" if exc.hint else ""
            raise click.ClickException(exc.message + hint) from exc


@click.command(
    cls=_Command,
    epilog="""\b
Examples:
  python -m examples.payments.producer --rate 1000 --seconds 5
  python -m examples.payments.producer --rate 200 --fraud-share 0.01 --daily-rhythm 0.5""",
)
@click.option("--rate", type=float, default=100.0, show_default=True, help="Events/s.")
@click.option("--count", type=click.IntRange(0), help="End after so many events.")
@click.option("--seconds", type=float, help="End after so long. By default, at SIGTERM or Ctrl-C.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which payments.")
@click.option("--users", type=int, default=10_000, show_default=True, help="How many pay.")
@click.option("--cards", type=int, help="How many cards they have, 1 to 3 each. By default 2 on average.")
@click.option("--merchants", type=int, default=1_000, show_default=True, help="How many are paid.")
@click.option("--skew", type=float, default=1.0, show_default=True, help="Of their popularity: 0 is even, 1 is Zipf's.")
@click.option("--late-share", type=float, default=0.02, show_default=True, help="Share of events that come late.")
@click.option("--late-mean", default="60s", show_default=True, help="How late those are on average.")
@click.option("--fraud-share", type=float, default=0.0, show_default=True, help="Share of payments by stolen cards.")
@click.option("--daily-rhythm", type=float, default=0.0, show_default=True, help="How far the rate swings, 0 to 1.")
@click.option("--linger-ms", type=click.IntRange(0), default=5, show_default=True, help="Kafka's wait for a batch.")
@settings_options("home", "bootstrap_servers")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one line of JSON.")
def main(
    *,
    rate: float,
    count: int | None,
    seconds: float | None,
    linger_ms: int,
    settings: Settings,
    as_json: bool,
    **world: Any,  # noqa: ANN401  # the options of Payments, by name
) -> None:
    """Send synthetic card payments to the topic `payments`, at a steady rate and as of now; the key is the card.

    Time decides when a payment is sent, not the broker. What cannot be sent in time is sent as soon as possible,
    with the event time that it would have had.
    """
    _require("rate", rate, *_RATES)
    _require("seconds", 0 if seconds is None else seconds, 0)
    payments, clock = Payments(**world), SystemClock()
    topic_partitions(settings.bootstrap_servers, [payments_source.topic])
    registry = open_schema_registry(settings.schema_registry_url, settings.schemas_folder)
    encoder = PaymentEncoder(registry.register(payments_source.topic, avro_schema(payments_source.schema)))
    total = min((n for n in (count, seconds and seconds * rate) if n is not None), default=None)
    with (
        EventProducer(settings.bootstrap_servers, payments_source, registry, linger_ms=linger_ms) as producer,
        _progress() as progress,
        _stopped_by_signals() as stopped,
    ):
        pace = send_on_time(
            itertools.islice(due_rows(payments, clock.now_us(), SECOND_US / rate), count),
            lambda row: producer.send_encoded(encoder.encode(row), row["card_id"].encode()),
            clock=clock,
            sleep=time.sleep,
            until_s=math.inf if seconds is None else seconds,
            stopped=stopped,
            on_look=_Report(progress, total).look,
        )
    click.echo(json.dumps(_summary(pace, rate)) if as_json else _summary_text(pace, rate))


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    return Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def _stopped_by_signals() -> Iterator[Callable[[], bool]]:
    """Let the first SIGTERM or SIGINT ask for an orderly end; the next one has its usual effect."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    seen: list[int] = []

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def on_signal(number: int, _frame: FrameType | None) -> None:
        seen.append(number)
        restore()

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield lambda: bool(seen)
    finally:
        restore()


def _summary(pace: Pace, rate: float) -> dict[str, float]:
    return {
        "events": pace.events,
        "seconds": round(pace.seconds, 3),
        "events_per_second": round(pace.events_per_second, 1),
        "wanted_per_second": rate,
        "behind_max_ms": round(1000 * pace.behind_max_s, 1),
    }


def _summary_text(pace: Pace, rate: float) -> str:
    return (
        f"{pace.events:,} payments in {pace.seconds:.1f} s ({pace.events_per_second:,.0f} of {rate:,.0f} events/s), "
        f"at most {1000 * pace.behind_max_s:,.1f} ms after they were due"
    )


if __name__ == "__main__":
    main()
