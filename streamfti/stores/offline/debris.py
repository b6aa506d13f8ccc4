"""What killed writers left in a log: files that no commit names. Found here; the writer removes them.

A file is surely debris when the chain of its partition has gone past its first offset without naming it: its range
can no longer be committed by anyone. A file that starts at the chain's end is not surely debris, as a writer that is
believed dead may still be about to commit it; it becomes so with the next commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from streamfti.stores.offline.commits import Commit, folder_names
from streamfti.stores.offline.layout import COMMITS, DataPath, commit_offset

__all__ = ["Debris", "find_debris"]


@dataclass(frozen=True, slots=True)
class Debris:
    """A file that no commit names, and where its range starts."""

    path: Path
    partition: int
    first_offset: int


def find_debris(folder: Path, committed: Mapping[int, list[Commit]]) -> list[Debris]:
    """Return the files below a topic's folder that the given commits do not name.

    The commits must have been read before: what is committed meanwhile starts at or above their positions.

    Raises:
        StoreError: if a folder cannot be listed.
    """
    named = {file.path for chain in committed.values() for commit in chain for file in commit.files}
    return [*_data_files(folder, named), *_unnamed_commits(folder)]


def _data_files(folder: Path, named: set[str]) -> list[Debris]:
    found: list[Debris] = []
    for date_folder in (name for name in folder_names(folder) if name.startswith("event_date=")):
        for name in folder_names(folder / date_folder):
            path = f"{date_folder}/{name}"
            said = DataPath.parse(path)
            if said is not None and path not in named:
                found.append(Debris(folder / path, said.partition, said.first_offset))
    return found


def _unnamed_commits(folder: Path) -> list[Debris]:
    found: list[Debris] = []
    for place in (name for name in folder_names(folder / COMMITS) if name.startswith("p") and name[1:].isdecimal()):
        for name in folder_names(folder / COMMITS / place):
            first_offset = commit_offset(name)
            if name.startswith(".") and first_offset is not None:
                found.append(Debris(folder / COMMITS / place / name, int(place[1:]), first_offset))
    return found
