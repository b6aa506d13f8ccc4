"""An exported graph answers as the fitted estimator does, and the gate notices when one does not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightgbm import LGBMClassifier, LGBMRegressor
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from streamfti.compute.vectorize import ModelInput
from streamfti.definitions.models import Task
from streamfti.errors import ParityError, TrainingError
from streamfti.training_pipeline import lightgbm_graph
from streamfti.training_pipeline.boundaries import boundary_rows
from streamfti.training_pipeline.estimators import Estimator, estimator_answers
from streamfti.training_pipeline.golden_choice import choose_golden_rows
from streamfti.training_pipeline.lightgbm_graph import floor_to_float32
from streamfti.training_pipeline.onnx_answers import graph_answers
from streamfti.training_pipeline.onnx_export import IR_VERSION, OPSETS, export_graph
from streamfti.training_pipeline.parity import TOLERANCE, ParityReport, check_parity
from streamfti.training_pipeline.vocabulary import Vocabulary

N, TRAIN = 3000, 2000
NUMERIC = 3
CODES = [3, 4]


class Rows:
    """Cents, a value around 0, unix seconds; carriers (most of them rare) and origins, with nulls."""

    def __init__(self, *, missing: bool) -> None:
        rng = np.random.default_rng(7)
        words = np.array(["", *(f"W{i:02}" for i in range(40))], np.object_)
        numeric = [rng.integers(0, 100_000, N) / 100, rng.normal(size=N), 1.7e9 + rng.integers(0, 86_400 * 300, N)]
        self.numeric = np.column_stack(numeric).astype(np.float32)
        hidden = self.numeric.copy()
        if missing:
            hidden[rng.random(N) < 0.1, 1] = np.nan
        self.categories = np.column_stack([words[rng.integers(0, 41, N)], words[rng.integers(0, 5, N)]])
        late = (self.numeric[:, 0] > 300) ^ (self.numeric[:, 1] > 0) | np.isin(self.categories[:, 0], ["W03", "W07"])
        self.y = (late ^ (rng.random(N) < 0.1)).astype(np.int64)
        self.value = self.numeric[:, 0].astype(np.float64) * 3 + self.numeric[:, 1]
        self.numeric = hidden
        self.vocabulary = Vocabulary.learn(self.categories[:TRAIN])
        self.X = np.hstack([self.numeric, self.vocabulary.encode(self.categories)])

    @property
    def validation(self) -> ModelInput:
        return ModelInput(self.numeric[TRAIN:], self.categories[TRAIN:])

    def fit(self, estimator: Estimator, target: NDArray[Any] | None = None, **options: object) -> Estimator:
        return estimator.fit(self.X[:TRAIN], (self.y if target is None else target)[:TRAIN], **options)

    def export(self, estimator: Estimator) -> bytes:
        return export_graph(estimator, numeric=NUMERIC, vocabulary=self.vocabulary, metadata={"streamfti.model": "m"})

    def check(self, estimator: Estimator, graph: bytes, task: Task = "binary") -> ParityReport:
        return check_parity(estimator, graph, self.validation, self.vocabulary, task)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return Rows(missing=False)


@pytest.fixture(scope="module")
def rows_with_nan() -> Rows:
    return Rows(missing=True)


@pytest.fixture(scope="module")
def boosted(rows: Rows) -> Estimator:
    return rows.fit(LGBMClassifier(n_estimators=60, n_jobs=1, verbose=-1), categorical_feature=CODES)


@pytest.mark.parametrize("options", [{"categorical_feature": CODES}, {}], ids=["native categories", "ordinal"])
@pytest.mark.parametrize("missing", [False, True], ids=["complete", "with NaN"])
def test_lightgbm_is_exact_at_every_threshold(
    rows: Rows, rows_with_nan: Rows, *, missing: bool, options: dict[str, Any]
) -> None:
    given_rows = rows_with_nan if missing else rows
    estimator = given_rows.fit(LGBMClassifier(n_estimators=60, n_jobs=1, verbose=-1), **options)
    report = given_rows.check(estimator, given_rows.export(estimator))
    assert report.flips == 0
    assert report.max_abs_diff < 1e-6
    assert report.not_accepted == ()
    assert report.boundary_rows > 1000
    assert report.rows > report.boundary_rows + N - TRAIN


def test_native_categories_are_really_used(boosted: Estimator, rows: Rows) -> None:
    graph = onnx.load_from_string(rows.export(boosted))
    ensemble = next(node for node in graph.graph.node if node.op_type == "TreeEnsembleRegressor")
    modes = next(a.strings for a in ensemble.attribute if a.name == "nodes_modes")
    assert b"BRANCH_EQ" in modes


@pytest.mark.parametrize(
    "build",
    [
        lambda: make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()),
        lambda: make_pipeline(SimpleImputer(), RandomForestClassifier(20, random_state=0)),
        lambda: make_pipeline(
            ColumnTransformer(
                [
                    ("words", OneHotEncoder(handle_unknown="ignore"), CODES),
                    ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), [0, 1, 2]),
                ]
            ),
            LogisticRegression(),
        ),
    ],
    ids=["logistic", "forest", "one-hot"],
)
def test_scikit_learn_pipelines_pass_the_gate(rows_with_nan: Rows, build: Callable[[], Any]) -> None:
    estimator = rows_with_nan.fit(build())
    report = rows_with_nan.check(estimator, rows_with_nan.export(estimator))
    assert report.flips == 0
    assert report.not_accepted == ("inf",)


def test_an_estimator_that_takes_no_nan_is_compared_without(rows: Rows) -> None:
    estimator = rows.fit(GradientBoostingClassifier(n_estimators=20))
    report = rows.check(estimator, rows.export(estimator))
    assert report.not_accepted == ("NaN", "inf")
    assert report.flips == 0


@pytest.mark.parametrize("objective", ["regression", "regression_l1", "huber", "poisson", "gamma", "quantile"])
def test_lightgbm_regression_is_exact(rows_with_nan: Rows, objective: str) -> None:
    target = rows_with_nan.value / 100 + 1
    estimator = rows_with_nan.fit(LGBMRegressor(n_estimators=40, objective=objective, n_jobs=1, verbose=-1), target)
    rows_with_nan.check(estimator, rows_with_nan.export(estimator), "regression")


def test_linear_regression_passes_the_gate(rows: Rows) -> None:
    estimator = rows.fit(LinearRegression(), rows.value)
    rows.check(estimator, rows.export(estimator), "regression")


def test_averaged_trees_are_exact(rows: Rows) -> None:
    estimator = rows.fit(
        LGBMClassifier(n_estimators=20, boosting_type="rf", bagging_freq=1, bagging_fraction=0.5, n_jobs=1, verbose=-1)
    )
    rows.check(estimator, rows.export(estimator))


def test_rounding_thresholds_to_the_nearest_float32_does_not_pass(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    given_rows = copy.copy(rows)
    # Neighbouring float32 values: their midpoint is no float32, and rounds up every other time.
    given_rows.numeric = (1e9 + 64.0 * rng.integers(0, 500, (N, NUMERIC))).astype(np.float32)
    given_rows.y = (given_rows.numeric[:, 0].astype(np.int64) // 64 % 7 < 3).astype(np.int64)
    given_rows.X = np.hstack([given_rows.numeric, rows.vocabulary.encode(rows.categories)])
    estimator = given_rows.fit(LGBMClassifier(n_estimators=40, max_bin=1000, n_jobs=1, verbose=-1))
    given_rows.check(estimator, given_rows.export(estimator))
    monkeypatch.setattr(lightgbm_graph, "floor_to_float32", lambda threshold: float(np.float32(threshold)))
    with pytest.raises(ParityError, match="threshold rows"):
        given_rows.check(estimator, given_rows.export(estimator))


def test_one_threshold_moved_by_one_ulp_does_not_pass(boosted: Estimator, rows: Rows) -> None:
    graph = onnx.load_from_string(rows.export(boosted))
    columns = attributes(graph)
    split = max(i for i, mode in enumerate(columns["nodes_modes"].strings) if mode == b"BRANCH_LEQ")
    values = columns["nodes_values"].floats
    values[split] = float(np.nextafter(np.float32(values[split]), np.float32(np.inf)))
    with pytest.raises(ParityError, match=r"[1-9] threshold rows"):
        rows.check(boosted, graph.SerializeToString())


def test_nan_sent_the_wrong_way_does_not_pass(boosted: Estimator, rows: Rows) -> None:
    graph = onnx.load_from_string(rows.export(boosted))
    ways = attributes(graph)["nodes_missing_value_tracks_true"].ints
    ways[:] = [1 - way for way in ways]
    with pytest.raises(ParityError, match="NaN rows"):
        rows.check(boosted, graph.SerializeToString())


def test_another_vocabulary_does_not_pass(boosted: Estimator, rows: Rows) -> None:
    other = Vocabulary(tuple(words[::-1] for words in rows.vocabulary.words))
    graph = export_graph(boosted, numeric=NUMERIC, vocabulary=other, metadata={})
    with pytest.raises(ParityError, match="data rows"):
        rows.check(boosted, graph)


def test_the_gate_refuses_a_forest_whose_nan_handling_is_lost(rows_with_nan: Rows) -> None:
    estimator = rows_with_nan.fit(RandomForestClassifier(20, random_state=0))
    with pytest.raises(ParityError, match=r"NaN rows.*impute missing values"):
        rows_with_nan.check(estimator, rows_with_nan.export(estimator))


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (HistGradientBoostingClassifier(max_iter=5), "HistGradientBoostingClassifier cannot be exported"),
        (
            LGBMClassifier(n_estimators=3, sigmoid=2.0, n_jobs=1, verbose=-1),
            "the objective of a LightGBM model must",
        ),
        (LGBMClassifier(n_estimators=3, zero_as_missing=True, n_jobs=1, verbose=-1), "must not treat 0 as missing"),
    ],
    ids=["no converter", "objective with a setting", "zero as missing"],
)
def test_what_has_no_exact_graph_is_refused(rows_with_nan: Rows, estimator: Estimator, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        rows_with_nan.export(rows_with_nan.fit(estimator))


FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(threshold=st.floats(allow_nan=False, allow_infinity=False), x=FLOAT32)
def test_the_float32_threshold_splits_float32_values_as_the_float64_one(threshold: float, x: float) -> None:
    floored = floor_to_float32(threshold)
    assert float(np.float32(floored)) == floored
    for value in (np.float32(x), *neighbours(floored), *neighbours(threshold)):
        if not np.isinf(value):
            seen = 0.0 if abs(value) <= np.float32(1e-35) else float(value)  # LightGBM takes such an input for 0
            assert (seen <= threshold) == (value <= np.float32(floored))


def test_a_split_of_all_there_is_from_what_is_missing_takes_infinity_as_being_there() -> None:
    """LightGBM compares with an infinite threshold there, which its dump writes as 1e300."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2000, 1)).astype(np.float32)
    x[rng.random(2000) < 0.5] = np.nan
    estimator = LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1).fit(x, np.isnan(x[:, 0]))
    vocabulary = Vocabulary(())
    odd = np.array([[np.inf], [-np.inf], [np.nan], [0.0], [3e38]], np.float32)
    inputs = ModelInput(odd, np.empty((5, 0), np.object_))
    graph = export_graph(estimator, numeric=1, vocabulary=vocabulary, metadata={})
    np.testing.assert_allclose(
        graph_answers(graph, inputs), estimator_answers(estimator, odd, "binary"), atol=1e-6, rtol=0
    )


@given(value=FLOAT32, steps=st.integers(1, 3))
def test_a_threshold_between_neighbours_separates_them(value: float, steps: int) -> None:
    low = high = np.float32(value)
    for _ in range(steps):
        high = neighbours(float(high))[-1]
    if np.isinf(high) or abs(low) < 1e-34:
        return
    floored = np.float32(floor_to_float32((float(low) + float(high)) / 2))
    assert low <= floored < high


def neighbours(value: float) -> list[np.float32]:
    with np.errstate(over="ignore"):
        at = np.float32(value)
        return [np.nextafter(at, np.float32(-np.inf)), at, np.nextafter(at, np.float32(np.inf))]


def test_inputs_that_lightgbm_takes_for_zero_are_split_alike() -> None:
    tiny = np.float32(1e-35)
    values = np.array([-1, -tiny, 0, tiny, 1, np.nextafter(tiny, np.float32(1))], np.float32)
    x = np.repeat(values, 50)[:, None]
    for y in (x[:, 0] > 0, x[:, 0] >= 0, x[:, 0] > tiny):
        estimator = LGBMClassifier(n_estimators=5, min_child_samples=1, n_jobs=1, verbose=-1).fit(x, y.astype(np.int64))
        empty = Vocabulary(())
        graph = export_graph(estimator, numeric=1, vocabulary=empty, metadata={})
        asked = ModelInput(np.concatenate([values, -values])[:, None], np.empty((12, 0), np.object_))
        native = estimator_answers(estimator, asked.numeric, "binary")
        np.testing.assert_allclose(graph_answers(graph, asked), native, atol=1e-6)


def test_boundary_rows_reach_their_split(boosted: Estimator, rows: Rows) -> None:
    graph = onnx.load_from_string(rows.export(boosted))
    splits = sum(mode != b"LEAF" for mode in attributes(graph)["nodes_modes"].strings)
    found = boundary_rows(graph.SerializeToString(), rows.X, codes_from=NUMERIC, limit=10**6, seed=0)
    assert 2 * splits <= len(found) <= 3 * splits
    codes = found[:, NUMERIC:]
    assert (codes == np.floor(codes)).all()
    assert (codes >= 0).all()
    few = boundary_rows(graph.SerializeToString(), rows.X, codes_from=NUMERIC, limit=10, seed=0)
    assert 20 <= len(few) <= 30


def test_the_graph_keeps_the_contract_with_the_server(boosted: Estimator, rows: Rows) -> None:
    model = onnx.load_from_string(rows.export(boosted))
    inputs = {
        i.name: (i.type.tensor_type.elem_type, i.type.tensor_type.shape.dim[1].dim_value) for i in model.graph.input
    }
    assert inputs == {"numeric": (onnx.TensorProto.FLOAT, 3), "categories": (onnx.TensorProto.STRING, 2)}
    assert [output.name for output in model.graph.output] == ["prediction"]
    assert len(model.graph.output[0].type.tensor_type.shape.dim) == 1
    assert {o.domain: o.version for o in model.opset_import} == OPSETS
    assert model.ir_version == IR_VERSION
    assert {p.key: p.value for p in model.metadata_props} == {"streamfti.model": "m"}


def test_the_same_estimator_gives_the_same_bytes(boosted: Estimator, rows: Rows, rows_with_nan: Rows) -> None:
    assert rows.export(boosted) == rows.export(boosted)
    pipeline = rows_with_nan.fit(make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()))
    assert rows_with_nan.export(pipeline) == rows_with_nan.export(pipeline)


def test_unknown_words_and_nulls_are_one_category(boosted: Estimator, rows: Rows) -> None:
    graph = rows.export(boosted)
    words = np.array([["never seen", "W01"], ["", "W01"]], np.object_)
    answers = graph_answers(graph, ModelInput(rows.numeric[[0, 0]], words))
    assert answers[0] == answers[1]


@pytest.mark.parametrize(("numeric", "categories"), [(3, 0), (0, 2)], ids=["numbers alone", "categories alone"])
def test_an_input_without_columns_is_absent(rows: Rows, numeric: int, categories: int) -> None:
    vocabulary = Vocabulary(rows.vocabulary.words[:categories])
    encoded = np.hstack([rows.numeric[:, :numeric], vocabulary.encode(rows.categories[:, :categories])])
    estimator = LGBMClassifier(n_estimators=10, n_jobs=1, verbose=-1).fit(encoded[:TRAIN], rows.y[:TRAIN])
    graph = export_graph(estimator, numeric=numeric, vocabulary=vocabulary, metadata={})
    names = [i.name for i in onnx.load_from_string(graph).graph.input]
    assert names == (["numeric"] if numeric else ["categories"])
    asked = ModelInput(rows.numeric[TRAIN:, :numeric], rows.categories[TRAIN:, :categories])
    check_parity(estimator, graph, asked, vocabulary, "binary")
    choose_golden_rows(graph, asked, vocabulary, with_missing=True)


def test_a_category_that_was_always_null_exports(rows: Rows) -> None:
    vocabulary = Vocabulary(((), rows.vocabulary.words[1]))
    encoded = np.hstack([rows.numeric, vocabulary.encode(rows.categories)])
    estimator = LGBMClassifier(n_estimators=10, n_jobs=1, verbose=-1).fit(encoded[:TRAIN], rows.y[:TRAIN])
    graph = export_graph(estimator, numeric=NUMERIC, vocabulary=vocabulary, metadata={})
    check_parity(estimator, graph, rows.validation, vocabulary, "binary")


def test_golden_rows_are_diverse_and_replay(boosted: Estimator, rows: Rows) -> None:
    graph = rows.export(boosted)
    golden = choose_golden_rows(graph, rows.validation, rows.vocabulary, with_missing=True)
    assert len(golden) >= 64
    assert golden.outputs.min() < 0.2
    assert golden.outputs.max() > 0.8
    assert np.isnan(golden.numeric).all(axis=1).any()
    known = np.isin(golden.categories[:, 0], ["", *rows.vocabulary.words[0]])
    assert not known.all()
    replayed = graph_answers(graph, ModelInput(golden.numeric, golden.categories.astype(np.object_)))
    np.testing.assert_array_equal(replayed, golden.outputs)
    assert TOLERANCE == 1e-5


def attributes(model: onnx.ModelProto) -> dict[str, Any]:
    """The attributes of the trees, by name; writing to them writes to the model."""
    ensemble = next(node for node in model.graph.node if node.op_type.startswith("TreeEnsemble"))
    return {attribute.name: attribute for attribute in ensemble.attribute}
