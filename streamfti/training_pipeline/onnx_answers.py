"""Runs an exported graph as the server will: one thread, no spinning, no arena."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from streamfti.compute.vectorize import ModelInput

__all__ = ["graph_answers", "open_session"]


def open_session(graph: bytes) -> ort.InferenceSession:
    """Return a session of one thread that neither spins nor keeps memory of odd batch sizes."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def graph_answers(graph: bytes, rows: ModelInput) -> NDArray[np.float32]:
    """Return float32[n]: the graph's `prediction` for n rows."""
    session = open_session(graph)
    offered = {"numeric": rows.numeric, "categories": rows.categories}
    feed = {node.name: offered[node.name] for node in session.get_inputs()}
    return np.asarray(session.run(["prediction"], feed)[0], np.float32)
