"""Running a feature pipeline: the narrow port to the stream engine, and the plain engine.

A runner moves batches from a reader through `decode` to `process`, until it is told to stop; then it closes both.
After an error it closes the reader only: what the sink has not made durable is read again by the next run.
The plain one is a loop in this process: for tests, for the demo, and for whoever wants nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Protocol

from streamfti.feature_pipeline.batches import EventBatch, MessageBatch
from streamfti.feature_pipeline.kafka_source import Partition, Reached

__all__ = ["BatchReader", "BatchSink", "PlainRunner", "Runner", "StopSignal"]

POLL_S = 0.05
"""How long a reader waits for a first message: bounds how soon a stop is noticed, not freshness."""


class BatchReader(Protocol):
    """Where message batches come from."""

    def poll(self, timeout_s: float) -> list[MessageBatch]:
        """Return what has arrived, or nothing after the time-out."""
        ...

    @property
    def caught_up(self) -> bool:
        """Whether everything that was there has been read."""
        ...

    def lags(self) -> Mapping[Partition, int]:
        """Return how many offsets are left in each partition."""
        ...

    def ends(self) -> Mapping[Partition, int]:
        """Return, for each partition that is known to have nothing more, the offset after the last one given out."""
        ...

    def end_offsets(self, topic: str) -> Mapping[int, int]:
        """Return where the partitions of a topic end now, as the broker says."""
        ...

    def reached(self, topic: str) -> Mapping[int, Reached]:
        """Return how far the partitions of a topic have been read."""
        ...

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Tell lag tools how far the stores are."""
        ...

    def close(self) -> None:
        """Leave the source."""
        ...


class BatchSink(Protocol):
    """What a runner drives: a `FeaturePipeline`."""

    def decode(self, batch: MessageBatch) -> EventBatch:
        """Make events of messages; no effect on anything."""
        ...

    def process(self, batch: EventBatch) -> None:
        """Do all that a batch is for, synchronously."""
        ...

    def idle(self, reader: BatchReader) -> None:
        """Do what is due when nothing has arrived, and now and then when something has."""
        ...

    def close(self) -> None:
        """Make everything durable."""
        ...


class StopSignal:
    """Tells a runner to stop: set it from a signal handler or another thread.

    Args:
        when_caught_up: stop by itself once everything that was there has been processed.
    """

    def __init__(self, *, when_caught_up: bool = False) -> None:
        self._event = threading.Event()
        self._when_caught_up = when_caught_up

    def set(self) -> None:
        """Stop after the batch at hand."""
        self._event.set()

    def is_set(self, reader: BatchReader) -> bool:
        """Return whether the runner must stop now, when nothing is at hand."""
        return self._event.is_set() or (self._when_caught_up and reader.caught_up)


class Runner(Protocol):
    """An engine."""

    def run(self, reader: BatchReader, sink: BatchSink, stop: StopSignal) -> None:
        """Block until stopped; an error is raised as it was, and neither reader nor sink can be used after it."""
        ...


class PlainRunner:
    """A loop in this process."""

    def run(self, reader: BatchReader, sink: BatchSink, stop: StopSignal) -> None:
        """Block until stopped."""
        try:
            while not stop.is_set(reader):
                for batch in reader.poll(POLL_S):
                    sink.process(sink.decode(batch))
                sink.idle(reader)
            sink.close()
        finally:
            reader.close()
