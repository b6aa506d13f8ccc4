"""What an engine owes: batches in order, errors as they were raised, a stop that loses nothing, everything closed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import pytest

from streamfti.errors import FencedWriter, RetentionGap, SourceError
from streamfti.feature_pipeline.batches import EventBatch, MessageBatch
from streamfti.feature_pipeline.bytewax_runner import BytewaxRunner
from streamfti.feature_pipeline.kafka_source import Partition, Reached
from streamfti.feature_pipeline.runner import BatchReader, PlainRunner, Runner, StopSignal

RUNNERS = pytest.mark.parametrize("runner", [PlainRunner(), BytewaxRunner()], ids=["plain", "bytewax"])


class Line:
    """Reader and sink in one, which notes what is done to it and fails where it is told to."""

    def __init__(self, n_batches: int = 3, *, fail_in: str = "", error: Exception | None = None) -> None:
        self.left = n_batches
        self.done: list[str] = []
        self._fail_in, self._error = fail_in, error

    def _note(self, what: str, name: str = "") -> None:
        self.done.append(f"{what} {name}".strip())
        if what == self._fail_in and self._error is not None:
            raise self._error

    def poll(self, timeout_s: float) -> list[MessageBatch]:
        del timeout_s
        self._note("poll")
        self.left -= 1
        return cast("list[MessageBatch]", [f"{self.left}a", f"{self.left}b"])

    @property
    def caught_up(self) -> bool:
        return self.left == 0

    def end_offsets(self, topic: str) -> Mapping[int, int]:
        del topic
        return {}

    def reached(self, topic: str) -> Mapping[int, Reached]:
        del topic
        return {}

    def lags(self) -> Mapping[Partition, int]:
        return {}

    def ends(self) -> Mapping[Partition, int]:
        return {}

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        del offsets

    def decode(self, batch: MessageBatch) -> EventBatch:
        self._note("decode", str(batch))
        return cast("EventBatch", batch)

    def process(self, batch: EventBatch) -> None:
        self._note("process", str(batch))

    def idle(self, reader: BatchReader) -> None:
        del reader
        self._note("idle")

    def close(self) -> None:
        self._note("close")

    def only(self, what: str) -> list[str]:
        return [done for done in self.done if done.startswith(what)]


@RUNNERS
def test_every_batch_is_processed_in_order_before_the_end(runner: Runner) -> None:
    line = Line()
    runner.run(line, line, StopSignal(when_caught_up=True))
    assert line.only("process") == [f"process {n}{part}" for n in (2, 1, 0) for part in "ab"]
    assert line.done[-2:] == ["close", "close"]  # the sink, then the reader: nothing comes after


@RUNNERS
@pytest.mark.parametrize("step", ["poll", "decode", "process", "idle", "close"])
@pytest.mark.parametrize(
    "error",
    [RetentionGap("gone", hint="look"), SourceError("no"), FencedWriter("two"), KeyError("k")],
    ids=lambda e: type(e).__name__,
)
def test_error_of_a_step_is_raised_as_it_was_and_the_reader_is_closed(
    runner: Runner, step: str, error: Exception
) -> None:
    """Also with its hint and its cause, whatever an engine wraps around it."""
    error.__cause__ = cause = OSError("below")
    line = Line(fail_in=step, error=error)
    reader = Line(0) if step == "close" else line
    with pytest.raises(type(error)) as raised:
        runner.run(reader, line, StopSignal(when_caught_up=True))
    assert raised.value is error
    assert raised.value.__cause__ is cause
    assert getattr(raised.value, "hint", "") == getattr(error, "hint", "")
    assert reader.only("close") == ["close"]


@pytest.mark.parametrize("step", ["poll", "decode", "process"])
def test_error_of_a_step_is_not_printed_by_the_engine(step: str, capfd: pytest.CaptureFixture[str]) -> None:
    """One clear line is the command's business; a panic beside it would hide it."""
    line = Line(fail_in=step, error=RetentionGap("gone"))
    with pytest.raises(RetentionGap, match="gone"):
        BytewaxRunner().run(line, line, StopSignal(when_caught_up=True))
    assert capfd.readouterr() == ("", "")
    assert len(line.only(step)) == 1  # and nothing was done after it


@RUNNERS
def test_stop_that_was_asked_for_before_ends_at_once_and_in_order(runner: Runner) -> None:
    line, stop = Line(), StopSignal()
    stop.set()
    runner.run(line, line, stop)
    assert not line.only("poll")
    assert line.only("close") == ["close", "close"]
