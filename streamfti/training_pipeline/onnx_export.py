"""Exports a fitted estimator as one ONNX graph: vocabulary, concatenation and estimator, from raw inputs to answer.

The contract with the server: inputs `numeric` float32[N, k] and `categories` string[N, m] (each absent if it has no
columns), one output `prediction` float32[N]. The same estimator gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from lightgbm import LGBMModel
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from onnx.compose import add_prefix
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.base import is_classifier

from streamfti.errors import TrainingError
from streamfti.training_pipeline.estimators import Estimator
from streamfti.training_pipeline.lightgbm_graph import lightgbm_graph
from streamfti.training_pipeline.vocabulary import Vocabulary

__all__ = ["IR_VERSION", "OPSETS", "export_graph"]

OPSETS = {"": 15, "ai.onnx.ml": 3}
"""Old enough for every ONNX Runtime since 1.10, and new enough for all that is used."""

IR_VERSION = 8
"""The file format that goes with these operator sets; runtimes refuse a newer one than they know."""

_PREFIX = "estimator/"


def export_graph(
    estimator: Estimator,
    *,
    numeric: int,
    vocabulary: Vocabulary,
    metadata: dict[str, str],
) -> bytes:
    """Return the graph of an estimator that was fitted on `numeric` columns and then one of codes a vocabulary.

    Args:
        estimator: LightGBM's with scikit-learn's interface, or one of scikit-learn's, pipelines included.
        numeric: the number of columns that are numbers.
        vocabulary: what the codes of the other columns mean.
        metadata: kept in the file, for people and tools.

    Raises:
        TrainingError: if the estimator has no exact graph.
    """
    width = numeric + len(vocabulary.words)
    inner = add_prefix(_estimator_model(estimator, width), _PREFIX)
    nodes, sizes = _input_nodes(numeric, vocabulary)
    nodes += inner.graph.node
    nodes += [helper.make_node("Reshape", [inner.graph.output[0].name, "flat"], ["prediction"])]
    graph = helper.make_graph(
        _needed(nodes, "prediction"),
        "streamfti",
        _inputs(numeric, len(vocabulary.words)),
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["N"])],
        [*inner.graph.initializer, *sizes, helper.make_tensor("flat", TensorProto.INT64, [1], [-1])],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="streamfti")
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _inputs(numeric: int, categories: int) -> list[ValueInfoProto]:
    wanted = [("numeric", TensorProto.FLOAT, numeric), ("categories", TensorProto.STRING, categories)]
    return [helper.make_tensor_value_info(name, kind, ["N", n]) for name, kind, n in wanted if n]


def _input_nodes(numeric: int, vocabulary: Vocabulary) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return the nodes from the inputs to the estimator's `X`, and their constants."""
    columns = range(len(vocabulary.words))
    words, codes = [f"word_{i}" for i in columns], [f"code_{i}" for i in columns]
    nodes = [_encoder(words[i], codes[i], vocabulary.words[i]) for i in columns]
    sizes = []
    if words:
        nodes.insert(0, helper.make_node("Split", ["categories", "sizes"], words, axis=1))
        sizes = [helper.make_tensor("sizes", TensorProto.INT64, [len(words)], [1] * len(words))]
    parts = ["numeric", *codes] if numeric else codes
    nodes.append(helper.make_node("Concat", parts, [f"{_PREFIX}X"], axis=1))
    return nodes, sizes


def _encoder(source: str, target: str, words: Sequence[str]) -> NodeProto:
    """Return the look-up of one column's words; all others have code 0."""
    known = words or [""]  # an empty table is no valid node; the empty word has code 0 anyway
    return helper.make_node(
        "LabelEncoder",
        [source],
        [target],
        domain="ai.onnx.ml",
        keys_strings=list(known),
        values_floats=[float(code) for code in range(1, len(words) + 1)] or [0.0],
        default_float=0.0,
    )


def _estimator_model(estimator: Estimator, width: int) -> ModelProto:
    """Return a model from `X` float32[N, width] to one output: the answers, N values in any shape."""
    if isinstance(estimator, LGBMModel):
        return lightgbm_graph(estimator, OPSETS)
    classifier = is_classifier(estimator)
    try:
        model: ModelProto = convert_sklearn(
            estimator,
            initial_types=[("X", FloatTensorType([None, width]))],
            target_opset=OPSETS,
            options={"zipmap": False} if classifier else None,
        )
    except Exception as exc:  # the converter raises many types, of which some derive from Exception alone
        msg = f"the estimator {type(estimator).__name__} cannot be exported: {type(exc).__name__}: {exc}".splitlines()
        raise TrainingError(msg[0], hint="LightGBM and most scikit-learn estimators and pipelines can") from exc
    if classifier:
        _answer_with_class_1(model)
    return model


def _answer_with_class_1(model: ModelProto) -> None:
    """Replace the outputs (label, probabilities) by the second column of the probabilities."""
    graph = model.graph
    graph.initializer.append(helper.make_tensor("class_1", TensorProto.INT64, [1], [1]))
    graph.node.append(helper.make_node("Gather", [graph.output[1].name, "class_1"], ["answer"], axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["N", 1]))


def _needed(nodes: Sequence[NodeProto], output: str) -> list[NodeProto]:
    """Return the nodes that an output depends on, in order: a classifier's label costs time and is not asked for."""
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]
