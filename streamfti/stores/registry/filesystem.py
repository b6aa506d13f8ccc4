"""The model registry in a folder: immutable versions, aliases with history, every byte checked before it is used.

    <root>/models/<name>/<version>/{model.onnx, golden.npz, manifest.json}
    <root>/models/<name>/aliases/<alias>/<number>.json

It stores bytes and hashes; it neither runs nor parses models, and nothing in it is pickled. Servers import it, so it
needs the standard library and numpy alone. Several processes may use one root at once.
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from streamfti.clock import Clock, SystemClock, from_us
from streamfti.errors import ArtifactCorrupt, ModelNotFound, RegistryError, VersionConflict, did_you_mean
from streamfti.stores.registry.aliases import AliasMove, append_move, read_moves
from streamfti.stores.registry.durable import staging_path, sync_folder, write_synced
from streamfti.stores.registry.golden import GoldenRows
from streamfti.stores.registry.manifest import ModelFacts, ModelManifest

__all__ = ["LoadedModel", "ModelRegistry"]

_MODEL, _GOLDEN, _MANIFEST = "model.onnx", "golden.npz", "manifest.json"
_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_NUMBER = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A version whose every byte has the hash in its manifest: these bytes, not the files, were checked."""

    manifest: ModelManifest
    model_bytes: bytes
    golden: GoldenRows
    manifest_sha256: str


class ModelRegistry:
    """Model versions and aliases below a root folder, which need not exist yet."""

    def __init__(self, root: Path, *, clock: Clock | None = None) -> None:
        self._models = root / "models"
        self._clock = clock or SystemClock()

    def publish(self, name: str, facts: ModelFacts, *, model: bytes, golden: GoldenRows) -> ModelManifest:
        """Register a new version and return its manifest. No alias moves.

        Guarantees: the version's folder appears whole and durable or not at all; of several processes that publish
        at once, each gets a number of its own. In order: (1) write all files aside and sync them, (2) rename the
        folder to the next free number, which fails if somebody else has it, and then (1) again with the next one,
        (3) sync the parent.

        Raises:
            RegistryError: if the name is not made of letters, digits, `_` and `-`, a fact is not plain JSON, or the
            folder cannot be written.
        """
        folder = self._models / _checked(name, "a model name")
        _make_folder(folder)
        files = {_MODEL: model, _GOLDEN: golden.dump()}
        version = max(_versions(folder), default=0) + 1
        while True:
            manifest = self._manifest(name, version, facts, files).dump()
            if _claim_folder(folder / str(version), {**files, _MANIFEST: manifest}):
                return ModelManifest.load(manifest)
            version += 1

    def load(self, name: str, ref: str | int = "champion") -> LoadedModel:
        """Read a version by number, or by the alias that points at it.

        Each file is read once; the hashes are checked on the bytes that are returned. Through an alias the manifest
        itself is checked too, against the hash that it had when the alias was moved.

        Raises:
            ModelNotFound: if there is no such model, version or alias.
            ArtifactCorrupt: if a file is missing or does not have its hash; the message names it.
        """
        if isinstance(ref, int) or _NUMBER.fullmatch(ref):
            return self._load(name, int(ref), None)
        move = self._moves(name, ref)[-1]
        return self._load(name, move.version, move.manifest_sha256)

    def promote(
        self, name: str, version: int, alias: str = "champion", *, expected: int | None = None
    ) -> ModelManifest:
        """Point an alias at a version, after checking the version's bytes. Nothing happens if it is there already.

        Args:
            name: the model.
            version: where the alias shall point.
            alias: letters, digits, `_` and `-`, and not a number.
            expected: the version that the alias must point at now, 0 if it must not exist yet; by default it may
                point anywhere.

        Raises:
            ModelNotFound: if there is no such model or version.
            ArtifactCorrupt: if the version's files do not have their hashes.
            VersionConflict: if the alias points elsewhere than expected.
            RegistryError: if the alias is no name, or cannot be written.
        """
        target = self._load(name, version, None)
        while True:
            moves = read_moves(self._alias_folder(name, alias))
            current = moves[-1].version if moves else 0
            if expected is not None and current != expected:
                msg = f"alias {alias!r} of model {name!r} must point at {_said(expected)}, got {_said(current)}"
                raise VersionConflict(msg, hint="somebody else moved it; look at it again")
            if current == version or self._move(name, alias, moves, target, previous=len(moves)):
                return target.manifest

    def rollback(self, name: str, alias: str = "champion") -> ModelManifest:
        """Point an alias at where it pointed before its last promotion; again, at the one before that.

        Raises:
            ModelNotFound: if there is no such alias, or nothing before it.
            ArtifactCorrupt: if the earlier version's files do not have their hashes.
            VersionConflict: if the alias was moved meanwhile.
        """
        moves = self._moves(name, alias)
        if not moves[-1].previous:
            msg = f"alias {alias!r} of model {name!r} must have an earlier version to go back to, got none"
            raise ModelNotFound(msg, hint=f"it has always pointed at version {moves[-1].version}")
        earlier = moves[moves[-1].previous - 1]
        target = self._load(name, earlier.version, earlier.manifest_sha256)
        if not self._move(name, alias, moves, target, previous=earlier.previous):
            msg = f"alias {alias!r} of model {name!r} moved while it was rolled back"
            raise VersionConflict(msg, hint="look at it again")
        return target.manifest

    def names(self) -> list[str]:
        """Return the names of all models that have a version, sorted."""
        return sorted(path.name for path in self._models.glob("*") if _NAME.fullmatch(path.name) and _versions(path))

    def versions(self, name: str) -> list[int]:
        """Return the versions of a model, ascending.

        Raises:
            ModelNotFound: if there is no such model.
        """
        versions = _versions(self._models / _checked(name, "a model name"))
        if not versions:
            msg = f"no model is named {name!r} in the registry {str(self._models.parent)!r}"
            names = self.names()
            raise ModelNotFound(msg, hint=did_you_mean(name, names) if names else "`streamfti train` registers one")
        return versions

    def aliases(self, name: str) -> dict[str, int]:
        """Return where each alias of a model points, by alias.

        Raises:
            ModelNotFound: if there is no such model.
            ArtifactCorrupt: if the file of an alias is damaged.
        """
        self.versions(name)
        folders = sorted(path for path in (self._models / name / "aliases").glob("*") if _NAME.fullmatch(path.name))
        moves = {folder.name: read_moves(folder) for folder in folders}
        return {alias: history[-1].version for alias, history in moves.items() if history}

    def history(self, name: str, alias: str = "champion") -> list[AliasMove]:
        """Return all moves of an alias, oldest first; the last one is where it points.

        Raises:
            ModelNotFound: if there is no such model or alias.
            ArtifactCorrupt: if the file of a move is damaged.
        """
        return self._moves(name, alias)

    def _manifest(self, name: str, version: int, facts: ModelFacts, files: dict[str, bytes]) -> ModelManifest:
        return ModelManifest(
            **asdict(facts),
            name=name,
            version=version,
            created_at=from_us(self._clock.now_us()),
            files={file: _sha256(data) for file, data in files.items()},
        )

    def _load(self, name: str, version: int, manifest_sha256: str | None) -> LoadedModel:
        versions = self.versions(name)
        if version not in versions:
            msg = f"model {name!r} has no version {version}"
            raise ModelNotFound(msg, hint=did_you_mean(str(version), map(str, versions)))
        folder = self._models / name / str(version)
        subject = f"of model {name!r} version {version}"
        raw = _read(folder / _MANIFEST, subject, manifest_sha256)
        manifest = _parsed(raw, subject)
        if (manifest.name, manifest.version) != (name, version) or manifest.files.keys() != {_MODEL, _GOLDEN}:
            msg = f"{_MANIFEST} {subject} must be its own, got that of {manifest.name!r} version {manifest.version}"
            raise ArtifactCorrupt(msg, hint=_RESTORE)
        data = {file: _read(folder / file, subject, sha256) for file, sha256 in manifest.files.items()}
        return LoadedModel(manifest, data[_MODEL], GoldenRows.load(data[_GOLDEN]), _sha256(raw))

    def _alias_folder(self, name: str, alias: str) -> Path:
        if _NUMBER.fullmatch(alias):
            msg = f"an alias of model {name!r} must not be a number, got {alias!r}: it would read as a version"
            raise RegistryError(msg, hint="such as champion or challenger")
        return self._models / name / "aliases" / _checked(alias, "an alias")

    def _moves(self, name: str, alias: str) -> list[AliasMove]:
        self.versions(name)
        moves = read_moves(self._alias_folder(name, alias))
        if not moves:
            msg = f"model {name!r} has no alias {alias!r}"
            raise ModelNotFound(msg, hint=did_you_mean(alias, self.aliases(name)))
        return moves

    def _move(self, name: str, alias: str, moves: list[AliasMove], target: LoadedModel, *, previous: int) -> bool:
        now = from_us(self._clock.now_us())
        move = AliasMove(len(moves) + 1, target.manifest.version, target.manifest_sha256, previous, now)
        return append_move(self._alias_folder(name, alias), move)


_RESTORE = "restore the version from a backup, or train again; a version is never repaired in place"


def _checked(name: str, subject: str) -> str:
    if not _NAME.fullmatch(name):
        msg = f"{subject} must be made of letters, digits, '_' and '-', got {name!r}"
        raise RegistryError(msg, hint="such as fraud_v2 or champion")
    return name


def _said(version: int) -> str:
    return f"version {version}" if version else "nothing yet"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _versions(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("*") if _NUMBER.fullmatch(path.name))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
    except OSError as exc:
        msg = f"registry folder {str(folder)!r} must be writable, got {exc.strerror}"
        raise RegistryError(msg) from exc


def _claim_folder(target: Path, files: dict[str, bytes]) -> bool:
    """Make a folder with these files appear whole, or return False if the target exists."""
    aside = staging_path(target.parent)
    try:
        aside.mkdir()
        for name, data in files.items():
            write_synced(aside / name, data)
        sync_folder(aside)
        aside.rename(target)  # onto a folder with files in it this fails, and every version has files in it
        sync_folder(target.parent)
    except OSError as exc:
        if exc.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            return False
        msg = f"registry folder {str(target.parent)!r} must be writable, got {exc.strerror}"
        raise RegistryError(msg) from exc
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return True


def _parsed(data: bytes, subject: str) -> ModelManifest:
    try:
        return ModelManifest.load(data)
    except ArtifactCorrupt as exc:
        msg = f"{_MANIFEST} {subject} is damaged: {exc.message}"
        raise ArtifactCorrupt(msg, hint=exc.hint or _RESTORE) from exc


def _read(path: Path, subject: str, sha256: str | None) -> bytes:
    """Read a file once; with a hash given, check it on what was read."""
    try:
        data = path.read_bytes()
    except OSError as exc:
        msg = f"{path.name} {subject} must be readable, got {exc.strerror}"
        raise ArtifactCorrupt(msg, hint=_RESTORE) from exc
    if sha256 is not None and _sha256(data) != sha256:
        msg = f"{path.name} {subject} must have sha256 {sha256}, got {_sha256(data)}"
        raise ArtifactCorrupt(msg, hint=_RESTORE)
    return data
