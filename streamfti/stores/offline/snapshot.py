"""A pinned state of one source's log: the files that were committed when it was taken. No I/O."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from streamfti.errors import ContractError, CorruptRecord
from streamfti.stores.offline.commits import FORMAT, Commit, LogFile, load_object, positions

__all__ = ["LogSnapshot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSnapshot:
    """What the log of a topic holds at one moment. Files never change, so it reads the same for ever."""

    topic: str
    positions: dict[int, int]
    """By partition, the offset below which every event is in the files."""
    files: tuple[LogFile, ...]
    """By partition, then offset, then event date."""

    @classmethod
    def of(cls, topic: str, commits: Mapping[int, list[Commit]]) -> LogSnapshot:
        """Return the snapshot of the given chains."""
        files = tuple(file for partition in sorted(commits) for commit in commits[partition] for file in commit.files)
        return cls(topic=topic, positions=dict(sorted(positions(commits).items())), files=files)

    @property
    def rows(self) -> int:
        """The number of events."""
        return sum(file.rows for file in self.files)

    @property
    def id(self) -> str:
        """The sha256 (hex) of its canonical JSON: two snapshots with one id read the same."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Return its canonical JSON."""
        values = {"format": FORMAT, **asdict(self), "positions": {str(p): n for p, n in self.positions.items()}}
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> LogSnapshot:
        """Read what `to_json` gave.

        Raises:
            CorruptRecord: if it is not that.
            ContractError: if a newer release wrote it.
        """
        try:
            values = load_object(text)
            files = tuple(LogFile(**file) for file in values.pop("files"))
            offsets = {int(partition): int(offset) for partition, offset in values.pop("positions").items()}
            return cls(files=files, positions=offsets, topic=str(values.pop("topic")), **values)
        except ContractError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            msg = f"a snapshot of the offline log must be the JSON of one, got: {exc}"
            raise CorruptRecord(msg) from exc
