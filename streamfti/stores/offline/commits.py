"""The manifest of the offline log: commits, and the chain that they form in each partition.

A row is in the log when a commit names its file, and not before. The commits of a partition form a chain: the first
starts at offset 0, each next one where the one before it ends. A commit is named by its first offset alone and created
once, so two writers that go on from the same position cannot both commit. No Parquet is read or written here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from streamfti.errors import ContractError, CorruptRecord
from streamfti.stores.offline.durable import store_errors
from streamfti.stores.offline.layout import COMMITS, DataPath, commit_folder, commit_name, commit_offset

__all__ = ["FORMAT", "Commit", "LogFile", "chains", "folder_names", "load_object", "positions"]

FORMAT = 1
"""Version of the layout of commits and snapshots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFile:
    """One data file: rows of one partition with one UTC event date."""

    path: str
    """Relative to the folder of the topic."""
    rows: int
    size_bytes: int
    footer_crc32: int
    """Parquet keeps checksums of its pages, and none of the footer that says what they mean."""
    min_event_time_us: int
    max_event_time_us: int
    """Inclusive, as the least one is."""

    def __post_init__(self) -> None:
        _ = self._said
        for name in ("rows", "size_bytes", "footer_crc32", "min_event_time_us", "max_event_time_us"):
            _whole_number(name, getattr(self, name))

    @property
    def _said(self) -> DataPath:
        said = DataPath.parse(self.path)
        if said is None or str(said) != self.path:
            msg = f"path must be that of a data file, got {self.path!r}"
            raise ValueError(msg)
        return said

    @property
    def partition(self) -> int:
        """The Kafka partition of its rows."""
        return self._said.partition

    @property
    def first_offset(self) -> int:
        """Its rows have at least this offset."""
        return self._said.first_offset

    @property
    def next_offset(self) -> int:
        """Its rows have offsets below this one."""
        return self._said.next_offset

    @property
    def event_date(self) -> date:
        """The UTC date of the event times of its rows."""
        return self._said.event_date


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What became part of the log in one step: every row of one partition with an offset in [first, next).

    Offsets without a row are dead letters, markers of transactions, or no longer in the topic. `files` may be empty.
    """

    topic: str
    event: str
    columns_fingerprint: str
    partition: int
    first_offset: int
    next_offset: int
    rows: int
    files: tuple[LogFile, ...]
    processed_at_us: int

    def __post_init__(self) -> None:
        for name in ("partition", "first_offset", "next_offset", "rows", "processed_at_us"):
            _whole_number(name, getattr(self, name))
        if self.next_offset <= self.first_offset:
            msg = f"next_offset must be above first_offset {self.first_offset}, got {self.next_offset}"
            raise ValueError(msg)
        if self.rows != sum(file.rows for file in self.files):
            msg = f"rows must be those of the files, got {self.rows}"
            raise ValueError(msg)
        for file in self.files:
            if (file.partition, file.first_offset, file.next_offset) != self._range:
                msg = f"files must hold partition and offsets {self._range}, got {file.path!r}"
                raise ValueError(msg)

    @property
    def _range(self) -> tuple[int, int, int]:
        return self.partition, self.first_offset, self.next_offset

    @property
    def path(self) -> str:
        """Where it lies, relative to the folder of the topic."""
        return f"{commit_folder(self.partition)}/{commit_name(self.first_offset)}"

    def dump(self) -> bytes:
        """Return its JSON."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def load(cls, content: bytes) -> Commit:
        """Read what `dump` gave.

        Raises:
            ValueError: if it is not that.
            ContractError: if a newer release wrote it.
        """
        values = load_object(content)
        files = tuple(LogFile(**file) for file in values.pop("files"))
        return cls(files=files, **values)


def load_object(content: str | bytes) -> dict[str, Any]:
    """Return a JSON object without its format version, after a look at that.

    Raises:
        ValueError: if it is no JSON object.
        ContractError: if a newer release wrote it.
    """
    values = json.loads(content)
    if not isinstance(values, dict):
        msg = f"it must be a JSON object, got {type(values).__name__}"
        raise ValueError(msg)  # noqa: TRY004  # its bytes are wrong, as every other flaw of them is
    version = values.pop("format", None)
    if isinstance(version, int) and version > FORMAT:
        msg = f"the format of the log must be at most {FORMAT}, got {version}"
        raise ContractError(msg, hint="a newer StreamFTI wrote it: upgrade this one")
    if version != FORMAT:
        msg = f"format must be {FORMAT}, got {version!r}"
        raise ValueError(msg)
    return values


def _whole_number(name: str, value: object) -> None:
    if type(value) is not int or (value < 0 and "event_time" not in name):
        msg = f"{name} must be a whole number, got {value!r}"
        raise ValueError(msg)


def folder_names(folder: Path) -> list[str]:
    """Return the names in a folder, sorted; none if there is no such folder.

    Raises:
        StoreError: if it cannot be listed.
    """
    with store_errors("list", folder):
        try:
            return sorted(entry.name for entry in folder.iterdir())
        except FileNotFoundError:
            return []


def chains(folder: Path, topic: str) -> dict[int, list[Commit]]:
    """Return the commits of each partition, in order of their offsets; a consistent state even beside live writers.

    Raises:
        CorruptRecord: if a commit is damaged, or a chain has a gap or an overlap.
        ContractError: if a newer release wrote one.
        StoreError: if the folder cannot be read.
    """
    found: dict[int, list[Commit]] = {}
    for name in folder_names(folder / COMMITS):
        if name.startswith("p") and name[1:].isdecimal():
            commits = _chain(folder, topic, int(name[1:]))
            if commits:
                found[int(name[1:])] = commits
    return found


def _chain(folder: Path, topic: str, partition: int) -> list[Commit]:
    """Follow the chain of one partition.

    The names are listed first: whatever is listed then has all its predecessors, so it must be reached by following.
    """
    place = folder / commit_folder(partition)
    listed = [name for name in folder_names(place) if not name.startswith(".") and commit_offset(name) is not None]
    commits = list(_follow(folder, topic, partition))
    reached = {commit_name(commit.first_offset) for commit in commits}
    for name in listed:
        if name not in reached:
            before = [commit for commit in commits if commit_name(commit.first_offset) < name]
            raise _broken(place / name, before[-1] if before else None, folder)
    return commits


def _follow(folder: Path, topic: str, partition: int) -> Iterator[Commit]:
    position = 0
    while (commit := _read(folder / commit_folder(partition) / commit_name(position))) is not None:
        if (commit.topic, commit.partition, commit.first_offset) != (topic, partition, position):
            msg = (
                f"commit {folder / commit.path} must be of topic {topic!r}, partition {partition}, "
                f"offset {position}, got {commit.topic!r}, {commit.partition}, {commit.first_offset}"
            )
            raise CorruptRecord(
                msg, hint="topics whose names differ in case alone need a file system that tells them apart"
            )
        yield commit
        position = commit.next_offset


def _read(path: Path) -> Commit | None:
    try:
        with store_errors("read", path):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                return None
        return Commit.load(content)
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        msg = f"commit {path} must be whole and well-formed, got: {exc}"
        raise CorruptRecord(msg, hint="restore it from a backup of the log") from exc


def _broken(stray: Path, before: Commit | None, folder: Path) -> CorruptRecord:
    offset = commit_offset(stray.name)
    if before is None:
        msg = f"the first commit of a partition must start at offset 0, got {stray}"
    else:
        kind = "a gap" if before.next_offset < (offset or 0) else "an overlap"
        msg = (
            f"commit {stray} must start where the one before it ends, which is {before.next_offset} "
            f"by {folder / before.path}, got {kind}"
        )
    return CorruptRecord(msg, hint="a file was removed, or two logs were merged: restore the folder from a backup")


def positions(commits: Mapping[int, list[Commit]]) -> dict[int, int]:
    """Return for each partition the offset at which the log goes on."""
    return {partition: chain[-1].next_offset for partition, chain in commits.items()}
