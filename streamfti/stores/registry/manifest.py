"""Manifests: what a model version is, what it reads, where it comes from, and the hashes of its files. JSON only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from streamfti.errors import ArtifactCorrupt, RegistryError

__all__ = ["SCHEMA_VERSION", "ModelFacts", "ModelManifest"]

SCHEMA_VERSION = 1
"""Of the manifest's JSON; raised when a reader of the old form could misread the new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What its trainer says of a model. Values are plain JSON."""

    service: str
    """Name of the feature service that it reads."""
    service_fingerprint: str
    inputs: Mapping[str, Sequence[str]]
    """Qualified names by graph input, in column order: `{"numeric": [...], "categories": [...]}`."""
    task: str
    """`binary` or `regression`."""
    output: str = "prediction"
    training_set: Mapping[str, Any] = field(default_factory=dict)
    """Spine, label, bounds, rows, and the log snapshot of each source."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    """What the parity gate compared, and how near the graph is to the fitted estimator."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    opset: Mapping[str, int] = field(default_factory=dict)
    """Operator set version by domain of the graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelManifest(ModelFacts):
    """The facts of one registered version. Immutable, as the version is."""

    name: str
    version: int
    created_at: datetime
    files: Mapping[str, str]
    """sha256 (hex) by file name."""

    def dump(self) -> bytes:
        """Return the manifest as JSON: keys sorted, so the same manifest gives the same bytes.

        Raises:
            RegistryError: if a fact is not plain JSON (a NaN is not).
        """
        document = {**asdict(self), "created_at": self.created_at.isoformat(), "schema_version": SCHEMA_VERSION}
        try:
            return (json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
        except (TypeError, ValueError) as exc:
            msg = f"the manifest of model {self.name!r} must be plain JSON: {exc}"
            raise RegistryError(msg) from exc

    @classmethod
    def load(cls, data: bytes) -> ModelManifest:
        """Read the bytes of `dump`.

        Raises:
            ArtifactCorrupt: if they are something else, or of another schema version.
        """
        document = _document(data)
        found = document.pop("schema_version", None)
        if found != SCHEMA_VERSION:
            msg = f"a manifest must have schema version {SCHEMA_VERSION}, got {found!r}"
            raise ArtifactCorrupt(msg, hint="it was written by another version of streamfti")
        wanted = {f.name for f in fields(cls)}
        if document.keys() != wanted:
            msg = f"a manifest must have exactly the keys {sorted(wanted)}, got {sorted(document)}"
            raise ArtifactCorrupt(msg)
        try:
            created_at = datetime.fromisoformat(document.pop("created_at")).astimezone(UTC)
        except (TypeError, ValueError) as exc:
            msg = f"created_at of a manifest must be an ISO 8601 time: {exc}"
            raise ArtifactCorrupt(msg) from exc
        _check_types(document)
        return cls(created_at=created_at, **document)


_TYPES: Mapping[str, type] = {
    **dict.fromkeys(("name", "service", "service_fingerprint", "task", "output"), str),
    **dict.fromkeys(("inputs", "files", "training_set", "metrics", "parity", "parameters", "libraries", "opset"), dict),
    "version": int,
}


def _check_types(document: Mapping[str, Any]) -> None:
    for name, kind in _TYPES.items():
        if type(document[name]) is not kind:
            msg = f"{name} of a manifest must be of type {kind.__name__}, got {document[name]!r}"
            raise ArtifactCorrupt(msg)


def _document(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError as exc:
        msg = f"a manifest must be JSON: {exc}"
        raise ArtifactCorrupt(msg) from exc
    if not isinstance(document, dict):
        msg = f"a manifest must be a JSON object, got {type(document).__name__}"
        raise ArtifactCorrupt(msg)
    return document
