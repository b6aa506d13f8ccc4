"""The training run: from the offline log to a registered model version, in numbered stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version

from streamfti.clock import Clock, SystemClock, from_us
from streamfti.definitions.fingerprint import service_fingerprint
from streamfti.definitions.models import Model
from streamfti.errors import TrainingError
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.registry.filesystem import ModelRegistry
from streamfti.stores.registry.golden import GoldenRows
from streamfti.stores.registry.manifest import ModelFacts, ModelManifest
from streamfti.training_pipeline.assembly import Progress, build_training_set
from streamfti.training_pipeline.estimators import Estimator, estimator_answers, estimator_parameters, fit
from streamfti.training_pipeline.evaluation import evaluate_predictions
from streamfti.training_pipeline.golden_choice import choose_golden_rows
from streamfti.training_pipeline.onnx_export import OPSETS, export_graph
from streamfti.training_pipeline.parity import ParityReport, check_parity
from streamfti.training_pipeline.training_set import Split, TrainingSet, split_by_time
from streamfti.training_pipeline.vocabulary import Vocabulary

__all__ = ["Fitted", "TrainingResult", "fit_and_evaluate", "train_model"]

_LIBRARIES = ("lightgbm", "numpy", "onnx", "onnxruntime", "polars", "scikit-learn", "skl2onnx", "streamfti")

STAGES = ("training set", "split", "vocabulary", "fit", "evaluate", "export", "parity", "golden rows", "publish")
"""What a run does, in order; promotion follows if it was asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A fitted estimator, the parts that it was fitted and evaluated on, and its metrics on the later part."""

    estimator: Estimator
    split: Split
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class TrainingResult:
    """What a run made."""

    manifest: ModelManifest
    metrics: dict[str, float]
    """On the validation part, which the trainer has not seen."""
    parity: ParityReport
    timings: Mapping[str, float]
    """Seconds by stage."""
    promoted: str | None
    """The alias that points at the new version."""


def train_model(  # the settings of a run, all by name
    model: Model,
    log: OfflineLog,
    registry: ModelRegistry,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    validation_share: float = 0.2,
    seed: int = 0,
    promote: str | None = "champion",
    progress: Progress | None = None,
    clock: Clock | None = None,
) -> TrainingResult:
    """Train a model from the log and register it.

    In order: (1) build the training set, (2) cut it in two by time, (3) learn the vocabulary from the earlier part,
    (4) fit on the earlier part, (5) evaluate on the later one, (6) export to ONNX, (7) pass the parity gate,
    (8) choose golden rows, (9) publish a new version, (10) point the alias at it. A run that fails or is killed
    before (9) leaves the registry as it was; between (9) and (10), a version that no alias points at.

    Args:
        model: what to train.
        log: where events are read.
        registry: where the version is published.
        start: see `build_training_set`.
        end: see `build_training_set`.
        validation_share: the later part, as a share of the rows.
        seed: for the trainer's random choices.
        promote: the alias to move, or None for none.
        progress: told of each stage.
        clock: measures the stages.

    Raises:
        TrainingError: if there are no rows to train on, the trainer fails or the estimator cannot be exported.
        ParityError: if the graph does not answer as the estimator does.
        RegistryError: if the registry cannot be written.
    """
    stages = _Stages(progress or _silent, clock or SystemClock())
    stages.begin("training set")
    data = build_training_set(model, log, start=start, end=end, seed=seed, progress=progress)
    fitted = _fit_and_evaluate(model, data, validation_share, stages)
    graph, parity, golden = _export(model, fitted, stages)
    stages.begin("publish")
    manifest = registry.publish(model.name, _facts(model, fitted, parity), model=graph, golden=golden)
    if promote is not None:
        registry.promote(model.name, manifest.version, promote)
    stages.end()
    return TrainingResult(manifest, fitted.metrics, parity, stages.seconds, promote)


def fit_and_evaluate(model: Model, data: TrainingSet, *, validation_share: float = 0.2) -> Fitted:
    """Do stages 2 to 5 of a run, and register nothing: for comparisons of models on the same rows.

    A model without its stored features is `replace(model, features=FeatureService("static",
    model.features.request_features))`, with a training set of its own; the rows are the same.

    Raises:
        TrainingError: as `train_model` does.
    """
    return _fit_and_evaluate(model, data, validation_share, _Stages(_silent, SystemClock()))


def _fit_and_evaluate(model: Model, data: TrainingSet, validation_share: float, stages: _Stages) -> Fitted:
    stages.begin("split")
    split = split_by_time(data, validation_share)
    stages.begin("vocabulary")
    vocabulary = Vocabulary.learn(split.train.inputs.categories)
    train, validation = (replace(part, vocabulary=vocabulary) for part in (split.train, split.validation))
    stages.begin("fit")
    estimator = fit(model, train)
    stages.begin("evaluate")
    try:
        answers = estimator_answers(estimator, validation.X, model.task)
    except ValueError as exc:
        msg = f"the estimator of model {model.name!r} must answer the validation rows: {exc}"
        raise TrainingError(msg, hint="features may be missing (NaN) at any time; impute them in a pipeline") from exc
    metrics = evaluate_predictions(model.task, validation.y, answers)
    return Fitted(estimator, replace(split, train=train, validation=validation), metrics)


def _export(model: Model, fitted: Fitted, stages: _Stages) -> tuple[bytes, ParityReport, GoldenRows]:
    estimator, train, validation = fitted.estimator, fitted.split.train, fitted.split.validation
    stages.begin("export")
    metadata = {"streamfti.model": model.name, "streamfti.service_fingerprint": service_fingerprint(model.features)}
    graph = export_graph(estimator, numeric=len(train.plan.numeric), vocabulary=train.vocabulary, metadata=metadata)
    stages.begin("parity")
    parity = check_parity(estimator, graph, validation.inputs, train.vocabulary, model.task, seed=train.seed)
    stages.begin("golden rows")
    with_missing = "NaN" not in parity.not_accepted
    golden = choose_golden_rows(graph, validation.inputs, train.vocabulary, with_missing=with_missing)
    return graph, parity, golden


def _facts(model: Model, fitted: Fitted, parity: ParityReport) -> ModelFacts:
    split = fitted.split
    plan = split.train.plan
    return ModelFacts(
        service=model.features.name,
        service_fingerprint=service_fingerprint(model.features),
        inputs={"numeric": plan.numeric, "categories": plan.categories},
        task=model.task,
        training_set={
            **split.train.origin,
            "train_rows": len(split.train),
            "validation_rows": len(split.validation),
            "validation_from": from_us(split.cut_us).isoformat(),
            "purged_at_the_cut": split.purged,
            "seed": split.train.seed,
        },
        metrics=fitted.metrics,
        parity=asdict(parity),
        parameters=estimator_parameters(fitted.estimator),
        libraries=_library_versions(),
        opset=OPSETS,
    )


def _library_versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a source tree on the path has no metadata
            found[name] = "not installed"
    return found


def _silent(_stage: str, _done: int, _total: int) -> None:
    """Report to nobody."""


@dataclass(slots=True)
class _Stages:
    """Reports the stages as they begin, and keeps how long each took."""

    progress: Progress
    clock: Clock
    seconds: dict[str, float] = field(default_factory=dict)
    _current: str = ""
    _since: float = 0.0

    def begin(self, stage: str) -> None:
        self._stop()
        self._current, self._since = stage, self.clock.monotonic()
        self.progress("train", STAGES.index(stage), len(STAGES))

    def end(self) -> None:
        self._stop()
        self._current = ""
        self.progress("train", len(STAGES), len(STAGES))

    def _stop(self) -> None:
        if self._current:
            self.seconds[self._current] = self.clock.monotonic() - self._since
