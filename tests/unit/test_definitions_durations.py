from __future__ import annotations

from datetime import timedelta

import pytest

from streamfti.definitions.durations import Duration, duration_label, duration_us
from streamfti.definitions.windows import Window, default_hop_us
from streamfti.errors import DefinitionError


@pytest.mark.parametrize(
    ("duration", "us"),
    [
        ("1s", 1_000_000),
        ("5m", 300_000_000),
        ("24h", 86_400_000_000),
        ("7d", 604_800_000_000),
        (timedelta(microseconds=3), 3),
        (timedelta(minutes=90), 5_400_000_000),
    ],
)
def test_durations_are_microseconds(duration: Duration, us: int) -> None:
    assert duration_us(duration, subject="x") == us


@pytest.mark.parametrize("wrong", ["", "5", "5 m", "m5", "1.5h", "-5m", "5ms", "5M", "1h30m", 5, None])
def test_an_unreadable_duration_names_its_subject_and_the_forms(wrong: object) -> None:
    with pytest.raises(DefinitionError, match=r"a window must be a duration such as '30s'.*got.*use digits"):
        duration_us(wrong, subject="a window")  # type: ignore[arg-type]  # what an unchecked file may hold


@pytest.mark.parametrize("wrong", ["0s", timedelta(0), timedelta(seconds=-1)])
def test_a_duration_is_longer_than_zero(wrong: Duration) -> None:
    with pytest.raises(DefinitionError, match="retention must be longer than zero, got"):
        duration_us(wrong, subject="retention")


@pytest.mark.parametrize(
    ("duration", "label"),
    [("24h", "24h"), ("1d", "1d"), (timedelta(hours=24), "1d"), (timedelta(minutes=90), "90m"), ("60m", "60m")],
)
def test_a_label_is_as_written_or_in_the_largest_whole_unit(duration: Duration, label: str) -> None:
    assert duration_label(duration) == label


def test_a_label_of_broken_seconds_is_refused() -> None:
    with pytest.raises(DefinitionError, match="must be a whole number of seconds"):
        Window.of(timedelta(milliseconds=1500), timedelta(milliseconds=500))


@pytest.mark.parametrize(
    ("window", "hop"),
    [
        ("12s", "1s"), ("13s", "1s"), ("1m", "5s"), ("5m", "10s"), ("10m", "30s"), ("1h", "5m"), ("3h", "10m"),
        ("24h", "2h"), ("7d", "12h"), ("30d", "1d"), ("90s", "5s"), ("61s", "1s"),
    ],
)  # fmt: skip
def test_default_hops_of_usual_windows(window: str, hop: str) -> None:
    assert Window.of(window).hop_us == duration_us(hop, subject="hop")


@pytest.mark.parametrize("length_us", [1_000_000, 11_000_000, 12_500_000])
def test_a_window_without_a_default_hop_says_how_to_give_one(length_us: int) -> None:
    with pytest.raises(DefinitionError, match=r"whole seconds and at least 12s, got .*give a hop of your own"):
        default_hop_us(length_us)


@pytest.mark.parametrize("hop", ["7s", "2m"])
def test_a_hop_divides_its_window(hop: str) -> None:
    with pytest.raises(DefinitionError, match=f"a hop must divide its window, got hop '{hop}' of window '1m'"):
        Window.of("1m", hop)


def test_a_window_may_be_one_hop() -> None:
    assert Window.of("5s", "5s") == Window("5s", 5_000_000, 5_000_000)
