"""Aliases: names such as `champion` for one version of a model, moved by compare-and-set, with history.

An alias is a folder of numbered moves. A move is one immutable small file; the highest number is where the alias
points now. Moving is creating the next number, which only one process can do: nothing is locked, so no crash leaves
a lock behind, and the history is the same files.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from streamfti.errors import ArtifactCorrupt, RegistryError
from streamfti.stores.registry.durable import claim_file, sync_folder

__all__ = ["AliasMove", "append_move", "read_moves"]

_RESTORE = "restore the alias's folder from a backup; a move is never repaired in place"


@dataclass(frozen=True, slots=True)
class AliasMove:
    """One move of an alias."""

    number: int
    """From 1 up, without gaps."""
    version: int
    manifest_sha256: str
    """Of the version's manifest when the alias was moved: what the alias promises its readers."""
    previous: int
    """Number of the move that a rollback returns to; 0 if there is none."""
    moved_at: datetime


def read_moves(folder: Path) -> list[AliasMove]:
    """Return all moves of an alias, oldest first; empty if the alias does not exist.

    Raises:
        ArtifactCorrupt: if a move's file is damaged or missing; the message names it.
    """
    n_moves = max((int(path.stem) for path in folder.glob("*.json") if path.stem.isdecimal()), default=0)
    return [_read_move(folder / f"{number:06d}.json", number) for number in range(1, n_moves + 1)]


def append_move(folder: Path, move: AliasMove) -> bool:
    """Make the move durable and visible, or return False if its number is taken: the alias moved meanwhile.

    Raises:
        RegistryError: if the folder cannot be written.
    """
    document = {**asdict(move), "moved_at": move.moved_at.isoformat()}
    data = (json.dumps(document, sort_keys=True) + "\n").encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
        return claim_file(folder / f"{move.number:06d}.json", data)
    except OSError as exc:
        msg = f"alias folder {str(folder)!r} must be writable, got {exc.strerror}"
        raise RegistryError(msg, hint="check its owner, its mode and the space on its disk") from exc


def _read_move(path: Path, number: int) -> AliasMove:
    try:
        document = json.loads(path.read_bytes())
        moved_at = datetime.fromisoformat(document.pop("moved_at")).astimezone(UTC)
        move = AliasMove(moved_at=moved_at, **document)
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as exc:
        msg = f"alias file {path.name!r} in {str(path.parent)!r} must be a move of the alias: {exc}"
        raise ArtifactCorrupt(msg, hint=_RESTORE) from exc
    if move.number != number or type(move.version) is not int or move.previous not in range(number):
        msg = f"alias file {path.name!r} in {str(path.parent)!r} must hold move {number}, got {move}"
        raise ArtifactCorrupt(msg, hint=_RESTORE)
    return move
