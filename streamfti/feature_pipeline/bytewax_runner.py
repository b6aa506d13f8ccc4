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
from bytewax.errors import BytewaxRuntimeError
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
        try:
            cli_main(build_dataflow(reader, sink, stop))  # type: ignore[no-untyped-call]  # bytewax has no types there
            sink.close()
        except BytewaxRuntimeError as exc:
            original = _original(exc)
            raise original from original.__cause__
        finally:
            reader.close()


def _original(error: BaseException) -> BaseException:
    """Return what a step raised; some operators of the engine wrap it, some do so twice."""
    while isinstance(error, BytewaxRuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


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
