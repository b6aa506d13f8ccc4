"""A model that is ready to answer: loaded, checked against its definition, and proved on its golden rows.

The only importer of onnxruntime. Not here: what the inputs mean (`compute.vectorize` builds them).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from streamfti.compute.vectorize import InputPlan, ModelInput
from streamfti.definitions.fingerprint import service_fingerprint
from streamfti.definitions.models import Model
from streamfti.errors import ArtifactCorrupt, ContractError, FingerprintMismatch, ServingError
from streamfti.inference_pipeline.tables import ModelIdentity
from streamfti.stores.registry.filesystem import LoadedModel, ModelRegistry

__all__ = ["MAX_ROWS_PER_RUN", "ModelSlot"]

MAX_ROWS_PER_RUN = 64
"""Larger runs of a tree ensemble cost more per row: its working set leaves the cache."""

_TOLERANCE = 1e-5  # of a golden row's answer: absolute up to 1, relative above
_OUTPUT = "prediction"
_FAILURES = tuple(kind for kind in vars(ort_errors).values() if isinstance(kind, type) and issubclass(kind, Exception))


class ModelSlot:
    """One version of one model. Safe to use from many threads. Build it with `load`."""

    def __init__(self, identity: ModelIdentity, alias: str | None, session: Any, plan: InputPlan) -> None:  # noqa: ANN401  # onnxruntime has no types
        self.identity = identity
        self.alias = alias
        self._session = session
        self.plan = plan

    @classmethod
    def load(cls, registry: ModelRegistry, model: Model, ref: str | int = "champion") -> ModelSlot:
        """Load the version that an alias or a number names, and return it when it has been proved.

        In order: the hashes of all files; the fingerprint of the features; the graph's inputs and output; the golden
        rows, which also warms it up.

        Raises:
            ModelNotFound: if the registry has no such model, alias or version.
            FingerprintMismatch: if it was trained on features of another meaning.
            ArtifactCorrupt: if a file is not what the manifest says, or the graph does not answer as it did.
            ContractError: if the graph's inputs are not those of the feature service.
        """
        loaded = registry.load(model.name, ref)
        identity = _identity(model, loaded)
        plan = InputPlan.of(model.features)
        _check_inputs(identity, plan, loaded.manifest.inputs)
        session = _session(identity, loaded.model_bytes)
        _check_graph(identity, plan, session)
        slot = cls(identity, ref if isinstance(ref, str) else None, session, plan)
        slot.replay(loaded)
        return slot

    def run(self, inputs: ModelInput) -> NDArray[np.float32]:
        """Return float32[n]: the prediction of each row.

        Raises:
            ServingError: if the runtime refuses the input.
        """
        try:
            parts = [self._session.run([_OUTPUT], feed)[0] for feed in self._feeds(inputs)]
        except _FAILURES as exc:
            msg = f"{_named(self.identity)} must answer, got {type(exc).__name__} from the runtime"
            raise ServingError(msg) from exc
        return np.concatenate(parts)

    def _feeds(self, inputs: ModelInput) -> Iterator[dict[str, NDArray[Any]]]:
        for start in range(0, len(inputs), MAX_ROWS_PER_RUN):
            rows = slice(start, start + MAX_ROWS_PER_RUN)
            feed: dict[str, NDArray[Any]] = {}
            if self.plan.numeric:
                feed["numeric"] = inputs.numeric[rows]
            if self.plan.categories:
                feed["categories"] = inputs.categories[rows]
            yield feed

    def replay(self, loaded: LoadedModel) -> None:
        """Run the golden rows and compare the answers.

        Raises:
            ArtifactCorrupt: if there are none, or an answer is off by more than 1e-5 (relative above 1).
        """
        golden = loaded.golden
        if len(golden) == 0:
            msg = f"{_named(self.identity)} must have golden rows to prove itself on, got none"
            raise ArtifactCorrupt(msg)
        answers = self.run(ModelInput(golden.numeric, golden.categories.astype(np.object_)))
        off = np.abs(answers - golden.outputs) / np.maximum(1.0, np.abs(golden.outputs))
        if not bool((off <= _TOLERANCE).all()):
            msg = (
                f"{_named(self.identity)} must answer its {len(golden)} golden rows as when it was registered, "
                f"got answers that are off by up to {np.max(off):g}"
            )
            raise ArtifactCorrupt(msg, hint="does this machine run another version of onnxruntime?")


def _named(identity: ModelIdentity) -> str:
    return f"model {identity.name!r} version {identity.version}"


def _identity(model: Model, loaded: LoadedModel) -> ModelIdentity:
    manifest, service = loaded.manifest, model.features
    own = service_fingerprint(service)
    if manifest.service_fingerprint != own:
        msg = (
            f"model {model.name!r} version {manifest.version} must be served with the features that it was trained "
            f"on: it has fingerprint {manifest.service_fingerprint}, feature service {service.name!r} has {own}"
        )
        raise FingerprintMismatch(msg, hint="serve it with the definitions it was trained on, or train it again")
    return ModelIdentity(model.name, manifest.version, service.name, own)


def _check_inputs(identity: ModelIdentity, plan: InputPlan, inputs: Mapping[str, Any]) -> None:
    wanted = {"numeric": list(plan.numeric), "categories": list(plan.categories)}
    got = {name: list(inputs.get(name, ())) for name in wanted}
    if got != wanted:
        msg = f"{_named(identity)} must have the inputs of its feature service, {wanted}, got {got}"
        raise ContractError(msg, hint="the manifest was not written by this version of streamfti; train it again")


def _session(identity: ModelIdentity, model_bytes: bytes) -> Any:  # noqa: ANN401  # onnxruntime has no types
    """Build a session for small tabular models: one thread a call, nothing that spins or grows."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(model_bytes, options, providers=["CPUExecutionProvider"])
    except _FAILURES as exc:
        msg = f"{_named(identity)} must be an ONNX graph that this runtime can run: {type(exc).__name__}: {exc}"
        raise ArtifactCorrupt(msg, hint="was it exported for a newer onnxruntime?") from exc


def _check_graph(identity: ModelIdentity, plan: InputPlan, session: Any) -> None:  # noqa: ANN401  # onnxruntime has no types
    wanted = {}
    if plan.numeric:
        wanted["numeric"] = ("tensor(float)", len(plan.numeric))
    if plan.categories:
        wanted["categories"] = ("tensor(string)", len(plan.categories))
    got = {arg.name: (arg.type, arg.shape[-1] if len(arg.shape) == 2 else arg.shape) for arg in session.get_inputs()}
    outputs = {arg.name: arg.type for arg in session.get_outputs()}
    if got != wanted or outputs != {_OUTPUT: "tensor(float)"}:
        msg = (
            f"{_named(identity)} must be a graph from {wanted} to one float tensor {_OUTPUT!r}, "
            f"got from {got} to {outputs}"
        )
        raise ContractError(msg)
