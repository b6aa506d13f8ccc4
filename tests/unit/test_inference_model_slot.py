"""A model answers only after it has been proved: fingerprint, graph, golden rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

import streamfti as fti
from streamfti.compute.vectorize import ModelInput
from streamfti.definitions.fingerprint import service_fingerprint
from streamfti.errors import ArtifactCorrupt, ContractError, FingerprintMismatch, ModelNotFound, ServingError
from streamfti.inference_pipeline.model_slot import MAX_ROWS_PER_RUN, ModelSlot
from streamfti.stores.registry.filesystem import ModelRegistry
from streamfti.stores.registry.golden import GoldenRows
from streamfti.stores.registry.manifest import ModelFacts


class Payment(fti.Event):
    card_id: str
    country: str
    amount: float
    fraud: bool
    at: fti.EventTime


payments = fti.KafkaSource("payments", Payment)


@fti.feature_group(source=payments, entity="card_id")
class Card:
    spend = fti.sum(Payment.amount).over("1h")


service = fti.FeatureService("fraud", [fti.request("amount", float), fti.request("country", str), Card])


@fti.model(
    "fraud",
    features=service,
    spine=payments,
    label=fti.label(Payment.fraud, source=payments, on="card_id", within="1d"),
)
def fraud(data: fti.TrainingSet) -> object:
    return data


def graph(*, numeric: int = 2, output: str = "prediction", bias: float = 0.0) -> bytes:
    """Return the sum of the numbers, 100 more where the country is NL."""
    nodes = [
        helper.make_node("ReduceSum", ["numeric", "axis"], ["total"], keepdims=0),
        helper.make_node(
            "LabelEncoder",
            ["categories"],
            ["weights"],
            domain="ai.onnx.ml",
            keys_strings=["NL"],
            values_floats=[100.0],
            default_float=bias,
        ),
        helper.make_node("ReduceSum", ["weights", "axis"], ["weight"], keepdims=0),
        helper.make_node("Add", ["total", "weight"], [output]),
    ]
    built = helper.make_graph(
        nodes,
        "sum",
        [
            helper.make_tensor_value_info("numeric", TensorProto.FLOAT, [None, numeric]),
            helper.make_tensor_value_info("categories", TensorProto.STRING, [None, 1]),
        ],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None])],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(built, opset_imports=opsets, ir_version=9).SerializeToString())


def answers(numeric: NDArray[np.float32], countries: list[str]) -> NDArray[np.float32]:
    bonus = np.array([100.0 if country == "NL" else 0.0 for country in countries], np.float32)
    return np.asarray(numeric.sum(axis=1, dtype=np.float32) + bonus)


NUMERIC = np.array([[1, 2], [3, 4], [0.5, -7]], np.float32)
COUNTRIES = ["NL", "", "DE"]
GOLDEN = GoldenRows(NUMERIC, np.array(COUNTRIES)[:, np.newaxis], answers(NUMERIC, COUNTRIES))
FACTS = ModelFacts(
    service="fraud",
    service_fingerprint=service_fingerprint(service),
    inputs={"numeric": ["amount", "Card.spend_1h"], "categories": ["country"]},
    task="binary",
)


def publish(root: Path, model: bytes, golden: GoldenRows = GOLDEN, **changed: object) -> ModelRegistry:
    registry = ModelRegistry(root)
    facts = dataclasses.replace(FACTS, **changed)  # type: ignore[arg-type]  # any of the facts
    registry.promote("fraud", registry.publish("fraud", facts, model=model, golden=golden).version)
    return registry


def test_a_loaded_model_answers_in_the_order_of_the_rows_however_many(tmp_path: Path) -> None:
    slot = ModelSlot.load(publish(tmp_path, graph()), fraud)
    n = 2 * MAX_ROWS_PER_RUN + 5
    numeric = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    countries = ["NL" if i % 3 == 0 else "BE" for i in range(n)]
    got = slot.run(ModelInput(numeric, np.array(countries, np.object_)[:, np.newaxis]))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, answers(numeric, countries))


def test_it_says_which_version_it_is_and_how_it_was_found(tmp_path: Path) -> None:
    registry = publish(tmp_path, graph())
    by_alias, by_number = ModelSlot.load(registry, fraud), ModelSlot.load(registry, fraud, 1)
    assert by_alias.identity == by_number.identity
    assert (by_alias.identity.name, by_alias.identity.version, by_alias.identity.service) == ("fraud", 1, "fraud")
    assert (by_alias.alias, by_number.alias) == ("champion", None)


def test_a_model_of_other_features_is_refused(tmp_path: Path) -> None:
    registry = publish(tmp_path, graph(), service_fingerprint="0" * 64)
    own = service_fingerprint(service)
    with pytest.raises(FingerprintMismatch, match=f"fingerprint {'0' * 64}, feature service 'fraud' has {own}"):
        ModelSlot.load(registry, fraud)


def test_a_model_that_answers_differently_is_refused(tmp_path: Path) -> None:
    registry = publish(tmp_path, graph(bias=1e-3))
    with pytest.raises(ArtifactCorrupt, match=r"must answer its 3 golden rows .* off by up to"):
        ModelSlot.load(registry, fraud)


def test_a_model_that_answers_nan_is_refused(tmp_path: Path) -> None:
    registry = publish(tmp_path, graph(bias=float("nan")))
    with pytest.raises(ArtifactCorrupt, match="off by up to nan"):
        ModelSlot.load(registry, fraud)


def test_a_model_without_golden_rows_is_refused(tmp_path: Path) -> None:
    none = GoldenRows(NUMERIC[:0], np.empty((0, 1), np.str_), np.empty(0, np.float32))
    with pytest.raises(ArtifactCorrupt, match="must have golden rows to prove itself on, got none"):
        ModelSlot.load(publish(tmp_path, graph(), none), fraud)


def test_bytes_that_are_no_graph_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactCorrupt, match="must be an ONNX graph that this runtime can run: InvalidProtobuf"):
        ModelSlot.load(publish(tmp_path, b"not a graph"), fraud)


@pytest.mark.parametrize("model", [graph(numeric=3), graph(output="score")], ids=["width", "output"])
def test_a_graph_of_another_shape_is_refused(tmp_path: Path, model: bytes) -> None:
    with pytest.raises(ContractError, match=r"must be a graph from .* to one float tensor 'prediction', got from"):
        ModelSlot.load(publish(tmp_path, model), fraud)


def test_inputs_in_another_order_are_refused(tmp_path: Path) -> None:
    inputs = {"numeric": ["Card.spend_1h", "amount"], "categories": ["country"]}
    with pytest.raises(ContractError, match="must have the inputs of its feature service"):
        ModelSlot.load(publish(tmp_path, graph(), inputs=inputs), fraud)


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="fraud"):
        ModelSlot.load(ModelRegistry(tmp_path), fraud)


def test_an_input_that_the_runtime_refuses_is_a_serving_error(tmp_path: Path) -> None:
    slot = ModelSlot.load(publish(tmp_path, graph()), fraud)
    narrow = ModelInput(NUMERIC[:, :1], GOLDEN.categories.astype(np.object_))
    with pytest.raises(ServingError, match="model 'fraud' version 1 must answer, got InvalidArgument"):
        slot.run(narrow)
