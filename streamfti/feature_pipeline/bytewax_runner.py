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

__all__ = ["BytewaxRunner", "build_dataflow"]

_PART = "all"


class BytewaxRunner:
    """Runs a pipeline as a Bytewax dataflow with one worker, in this process."""

    def run(self, reader: BatchReader, sink: BatchSink, stop: StopSignal) -> None:
        """Block until stopped; an error of a step is raised as it was."""
        failures: list[Exception] = []
        try:
            cli_main(build_dataflow(reader, _Recording(sink, failures), stop))  # type: ignore[no-untyped-call]  # bytewax has no types there
            sink.close()
        except Exception as exc:
            if failures:
                raise failures[0] from exc  # the engine wraps what a step raised
            raise
        finally:
            reader.close()


class _Recording:
    """Remembers what the sink raised: the engine gives back only a text of it."""

    def __init__(self, sink: BatchSink, failures: list[Exception]) -> None:
        self._sink, self._failures = sink, failures
        self.close = sink.close

    def decode(self, batch: MessageBatch) -> EventBatch:
        try:
            return self._sink.decode(batch)
        except Exception as exc:
            self._failures.append(exc)
            raise

    def process(self, batch: EventBatch) -> None:
        try:
            self._sink.process(batch)
        except Exception as exc:
            self._failures.append(exc)
            raise

    def idle(self, reader: BatchReader) -> None:
        try:
            self._sink.idle(reader)
        except Exception as exc:
            self._failures.append(exc)
            raise


def build_dataflow(reader: BatchReader, sink: BatchSink, stop: StopSignal) -> Dataflow:
    """Return the flow `poll -> decode -> commit`."""
    flow = Dataflow("streamfti_feature_pipeline")
    messages = op.input("poll", flow, _Source(reader, sink, stop))
    events = op.map("decode", messages, sink.decode)
    keyed = op.map("to_sink", events, lambda batch: (_PART, batch))
    op.output("commit", keyed, _Sink(sink))
    return flow


class _SourcePart(StatefulSourcePartition[Any, None]):
    def __init__(self, reader: BatchReader, sink: BatchSink, stop: StopSignal) -> None:
        self._reader, self._sink, self._stop = reader, sink, stop

    def next_batch(self) -> Iterable[MessageBatch]:
        self._sink.idle(self._reader)
        if self._stop.is_set(self._reader):
            raise StopIteration
        return self._reader.poll(POLL_S)

    def snapshot(self) -> None:
        """Nothing: the stores know the position."""


class _Source(FixedPartitionedSource[Any, None]):
    def __init__(self, reader: BatchReader, sink: BatchSink, stop: StopSignal) -> None:
        self._parts = (reader, sink, stop)

    def list_parts(self) -> list[str]:
        return [_PART]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _SourcePart:
        del step_id, for_part, resume_state
        return _SourcePart(*self._parts)


class _SinkPart(StatefulSinkPartition[Any, None]):
    def __init__(self, sink: BatchSink) -> None:
        self._sink = sink

    def write_batch(self, values: list[EventBatch]) -> None:
        for batch in values:
            self._sink.process(batch)

    def snapshot(self) -> None:
        """Nothing: `write_batch` returns only when the stores have it."""


class _Sink(FixedPartitionedSink[Any, None]):
    def __init__(self, sink: BatchSink) -> None:
        self._sink = sink

    def list_parts(self) -> list[str]:
        return [_PART]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _SinkPart:
        del step_id, for_part, resume_state
        return _SinkPart(self._sink)
