"""What is sent is what arrives: every message of the contract carries its values unchanged."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfti._proto.v1 import inference_pb2 as pb
from streamfti.compute.values import FeatureColumn, Status
from streamfti.definitions.dtypes import DType
from streamfti.errors import InvalidRequest
from streamfti.inference_pipeline import conversion
from streamfti.inference_pipeline.tables import (
    FeatureVectors,
    GroupProgress,
    InputColumn,
    ModelIdentity,
    ModelInfo,
    PredictInputs,
    Predictions,
    RequestField,
    ServiceFeatures,
    ServiceInfo,
)
from streamfti.stores.online.progress import Progress

int64 = st.integers(-(2**63), 2**63 - 1)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
values: dict[DType, st.SearchStrategy[Any]] = {
    DType.STRING: st.text(st.characters(codec="utf-8"), max_size=12),
    DType.INT64: int64,
    DType.FLOAT64: st.floats(allow_nan=False),
    DType.BOOL: st.booleans(),
}
ARRAYS: dict[DType, Any] = {
    DType.STRING: np.object_,
    DType.INT64: np.int64,
    DType.FLOAT64: np.float64,
    DType.BOOL: np.bool_,
}


@st.composite
def input_columns(draw: st.DrawFn, n_rows: int) -> InputColumn:
    dtype = draw(st.sampled_from(list(values)))
    rows = draw(st.lists(st.none() | values[dtype], min_size=n_rows, max_size=n_rows))
    return InputColumn(dtype if any(row is not None for row in rows) else None, rows)


@st.composite
def predict_inputs(draw: st.DrawFn, n_rows: int) -> PredictInputs:
    return PredictInputs(
        columns=draw(st.dictionaries(names, input_columns(n_rows), max_size=5)),
        as_of_us=draw(st.none() | int64),
        alias=draw(st.none() | names),
        version=draw(st.none() | int64),
        include_features=draw(st.booleans()),
    )


@st.composite
def feature_columns(draw: st.DrawFn, n_rows: int) -> FeatureColumn:
    dtype = draw(st.sampled_from(list(values)))
    status = draw(st.lists(st.sampled_from(Status), min_size=n_rows, max_size=n_rows))
    zero = dtype.python()
    rows = [zero if s >= Status.EXPIRED else draw(values[dtype]) for s in status]
    return FeatureColumn(np.array(rows, ARRAYS[dtype]), np.array(status, np.uint8))


@st.composite
def feature_vectors(draw: st.DrawFn, n_rows: int) -> FeatureVectors:
    progress = st.builds(Progress, int64, int64, int64, int64, int64)
    groups = st.builds(
        GroupProgress,
        names,
        st.integers(1, 2**31 - 1),
        st.dictionaries(st.integers(0, 2**31 - 1), progress, max_size=3),
        st.none() | int64,
        st.none() | int64,
        st.none() | st.booleans(),
    )
    columns = draw(st.dictionaries(names, feature_columns(n_rows), max_size=5))
    return FeatureVectors(draw(int64), columns, tuple(draw(st.lists(groups, max_size=3))))


identities = st.builds(ModelIdentity, names, st.integers(1, 2**63 - 1), names, names)
fields = st.builds(RequestField, names, st.sampled_from(list(values)), st.booleans(), st.booleans())


def assert_same_vectors(got: FeatureVectors | None, expected: FeatureVectors | None) -> None:
    assert (got is None) == (expected is None)
    if got is None or expected is None:
        return
    assert got.query_time_us == expected.query_time_us
    assert got.progress == expected.progress
    assert list(got.columns) == list(expected.columns)
    for name, column in expected.columns.items():
        np.testing.assert_array_equal(got.columns[name].status, column.status)
        assert got.columns[name].values.dtype == column.values.dtype
        assert repr(got.columns[name].values.tolist()) == repr(column.values.tolist())  # -0.0 is not 0.0


@given(names, predict_inputs(n_rows=1))
def test_a_single_request_arrives_as_it_was_sent(model: str, asked: PredictInputs) -> None:
    sent = conversion.single_request(model, asked).SerializeToString()
    message = pb.PredictRequest.FromString(sent)
    got = conversion.single_inputs(message)
    assert message.model == model
    assert got == asked


@given(names, st.integers(1, 4).flatmap(predict_inputs))
def test_a_batch_request_arrives_as_it_was_sent(model: str, asked: PredictInputs) -> None:
    sent = conversion.batch_request(model, asked).SerializeToString()
    message = pb.PredictBatchRequest.FromString(sent)
    assert message.model == model
    assert conversion.batch_inputs(message) == asked


@given(names, st.dictionaries(names, input_columns(n_rows=3), max_size=4), st.none() | int64)
def test_a_request_for_features_arrives_as_it_was_sent(
    service: str, columns: dict[str, InputColumn], as_of_us: int | None
) -> None:
    sent = conversion.features_request(service, columns, as_of_us).SerializeToString()
    message = pb.GetFeaturesRequest.FromString(sent)
    assert message.service == service
    assert message.HasField("as_of_us") == (as_of_us is not None)
    assert conversion.columns_of(message.columns) == columns


@given(st.data(), st.integers(1, 4), identities, names, int64)
def test_predictions_arrive_as_they_were_made(
    data: st.DataObject, n_rows: int, identity: ModelIdentity, prediction_id: str, at_us: int
) -> None:
    vectors = data.draw(st.none() | feature_vectors(n_rows))
    at_us = vectors.query_time_us if vectors is not None else at_us
    outputs = np.array(data.draw(st.lists(st.floats(width=32), min_size=n_rows, max_size=n_rows)), np.float32)
    made = Predictions(prediction_id, identity, outputs, at_us, vectors)
    batch = pb.PredictBatchResponse.FromString(conversion.batch_response(made).SerializeToString())
    single = pb.PredictResponse.FromString(conversion.single_response(made).SerializeToString())
    for got, n in ((conversion.batch_predictions(batch), n_rows), (conversion.single_predictions(single), 1)):
        np.testing.assert_array_equal(got.values, outputs[:n])
        assert (got.prediction_id, got.model, got.query_time_us) == (prediction_id, identity, at_us)
        assert_same_vectors(got.features, vectors)


@given(names, names, st.integers(0, 4).flatmap(feature_vectors))
def test_stored_features_arrive_as_they_were_read(service: str, fingerprint: str, vectors: FeatureVectors) -> None:
    sent = conversion.features_response(ServiceFeatures(service, fingerprint, vectors)).SerializeToString()
    got = conversion.service_features(pb.GetFeaturesResponse.FromString(sent))
    assert (got.service, got.service_fingerprint) == (service, fingerprint)
    assert_same_vectors(got.vectors, vectors)


@given(
    st.builds(ModelInfo, identities, st.none() | names, names, st.lists(fields).map(tuple), st.lists(names).map(tuple))
)
def test_what_is_loaded_arrives(info: ModelInfo) -> None:
    sent = conversion.model_response(info).SerializeToString()
    assert conversion.model_info(pb.GetModelResponse.FromString(sent)) == info


@given(st.builds(ServiceInfo, names, names, st.lists(fields).map(tuple), st.lists(names).map(tuple)))
def test_what_a_service_is_made_of_arrives(info: ServiceInfo) -> None:
    sent = conversion.service_response(info).SerializeToString()
    assert conversion.service_info(pb.GetFeatureServiceResponse.FromString(sent)) == info


def test_a_missing_value_of_a_feature_is_a_null_row_on_the_wire() -> None:
    status = np.array([Status.PRESENT, Status.DEFAULTED, Status.EXPIRED, Status.MISSING], np.uint8)
    column = FeatureColumn(np.array([1.5, 2.0, 0.0, 0.0]), status)
    message = conversion.features_response(ServiceFeatures("s", "f", FeatureVectors(0, {"G.x": column})))
    assert list(message.features.columns[0].values.null_rows) == [2, 3]
    back = conversion.service_features(message).vectors.columns["G.x"].as_float64().tolist()
    assert back[:2] == [1.5, 2.0]
    assert all(math.isnan(value) for value in back[2:])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([pb.Column(name="a")], "must have a name and an array of values, got no values .*'a'"),
        ([pb.Column(strings=pb.StringArray(values=["x"]))], "must have a name and an array of values, got no name"),
        ([pb.Column(name="a", bools=pb.BoolArray())] * 2, "field 'a' must stand in a request once, got it twice"),
        (
            [pb.Column(name="a", int64s=pb.Int64Array(values=[1, 2]), null_rows=[2])],
            "null_rows of field 'a' must be below its 2 rows, got 2",
        ),
    ],
)
def test_malformed_columns_are_refused(columns: list[pb.Column], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        conversion.columns_of(columns)
