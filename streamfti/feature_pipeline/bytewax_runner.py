"""The same pipeline as a Bytewax dataflow: the only importer of bytewax.

One item is one batch. Bytewax's own recovery is not used, because the stores say where to begin; its sinks are not
waited for by its recovery, and its windows emit only when they close. What is used is its scheduling: source, step
and sink are dataflow operators, to which a user's own operators can be added between decode and commit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from bytewax.run import cli_main

from streamfti.feature_pipeline.batches import EventBatch, MessageBatch
from streamfti.feature_pipeline.runner import POLL_S, BatchReader, BatchSink, StopSignal

__all__ = ["BytewaxRunner"]

_PART = "all"


class BytewaxRunner:
    """Runs a pipeline as a Bytewax dataflow with one worker, in this process."""

    def run(self, reader: BatchReader, sink: BatchSink, stop: StopSignal) -> None:
        """Block until stopped; an error of a step is raised as it was."""
        steps = _Steps(reader, sink, stop)
        try:
            cli_main(_dataflow(steps))  # type: ignore[no-untyped-call]  # bytewax has no types there
            if steps.failure is not None:
                raise steps.failure
            sink.close()
        finally:
            reader.close()


class _Steps:
    """What the operators call. After the first error nothing more is done, and the flow comes to its end.

    An error is kept from the engine, which would print a panic of its own beside it and give back a wrapped one.
    """

    def __init__(self, reader: BatchReader, sink: BatchSink, stop: StopSignal) -> None:
        self._reader, self._sink, self._stop = reader, sink, stop
        self.failure: Exception | None = None

    def poll(self) -> list[MessageBatch] | None:
        """Return what has arrived; None at the end."""
        if self.failure is not None:
            return None
        try:
            self._sink.idle(self._reader)
            return None if self._stop.is_set(self._reader) else self._reader.poll(POLL_S)
        except Exception as exc:  # noqa: BLE001  # raised again by the runner
            self.failure = exc
            return None

    def decode(self, batch: MessageBatch) -> EventBatch | None:
        """Return the events of a batch; None after an error."""
        if self.failure is not None:
            return None
        try:
            return self._sink.decode(batch)
        except Exception as exc:  # noqa: BLE001  # raised again by the runner
            self.failure = exc
            return None

    def process(self, batch: EventBatch | None) -> None:
        """Do all that a batch is for, unless there was an error before it."""
        if batch is None or self.failure is not None:
            return
        try:
            self._sink.process(batch)
        except Exception as exc:  # noqa: BLE001  # raised again by the runner
            self.failure = exc


def _dataflow(steps: _Steps) -> Dataflow:
    """Return the flow `poll -> decode -> commit`."""
    flow = Dataflow("streamfti_feature_pipeline")
    messages = op.input("poll", flow, _Source(steps))
    events = op.map("decode", messages, steps.decode)
    keyed = op.map("to_sink", events, lambda batch: (_PART, batch))
    op.output("commit", keyed, _Sink(steps))
    return flow


class _SourcePart(StatefulSourcePartition[Any, None]):
    def __init__(self, steps: _Steps) -> None:
        self._steps = steps

    def next_batch(self) -> Iterable[MessageBatch]:
        batches = self._steps.poll()
        if batches is None:
            raise StopIteration
        return batches

    def snapshot(self) -> None:
        """Nothing: the stores know the position."""


class _Source(FixedPartitionedSource[Any, None]):
    def __init__(self, steps: _Steps) -> None:
        self._steps = steps

    def list_parts(self) -> list[str]:
        return [_PART]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _SourcePart:
        del step_id, for_part, resume_state
        return _SourcePart(self._steps)


class _SinkPart(StatefulSinkPartition[Any, None]):
    def __init__(self, steps: _Steps) -> None:
        self._steps = steps

    def write_batch(self, values: list[EventBatch | None]) -> None:
        for batch in values:
            self._steps.process(batch)

    def snapshot(self) -> None:
        """Nothing: `write_batch` returns only when the stores have it."""


class _Sink(FixedPartitionedSink[Any, None]):
    def __init__(self, steps: _Steps) -> None:
        self._steps = steps

    def list_parts(self) -> list[str]:
        return [_PART]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _SinkPart:
        del step_id, for_part, resume_state
        return _SinkPart(self._steps)
