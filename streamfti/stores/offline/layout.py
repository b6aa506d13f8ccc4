"""Where everything of the offline log lies: folders and names, and how they are read back. No I/O, no drivers.

    <root>/<topic>/
        event_date=2013-01-31/p0-<first offset>-<next offset>-<writer id>.parquet   rows of one partition, one UTC date
        _commits/p0/<first offset>.json                                             names the files of one offset range

Offsets have 20 digits, so that names sort as numbers do. A name that starts with "." is being written. Names are
injective: two topics, partitions, dates, ranges or writers never share one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

from streamfti.errors import ContractError

__all__ = ["COMMITS", "DataPath", "commit_folder", "commit_name", "commit_offset", "temporary_name", "topic_folder"]

COMMITS = "_commits"
"""The folder of the commits; tools that read Hive folders skip names with a leading underscore."""

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_DATA_PATH = re.compile(
    r"event_date=([0-9]{4}-[0-9]{2}-[0-9]{2})/p([0-9]{1,10})-([0-9]{20})-([0-9]{20})-([0-9a-f]{16})\.parquet"
)
_COMMIT_NAME = re.compile(r"([0-9]{20})\.json")


def topic_folder(topic: str) -> str:
    """Return the folder name of a topic: the topic's own name, which Kafka keeps free of separators.

    Raises:
        ContractError: if it is no legal name of a Kafka topic.
    """
    if not _TOPIC.fullmatch(topic) or topic in {".", ".."}:
        msg = f"a topic must be 1 to 249 of a-z, A-Z, 0-9, '.', '_', '-', and not '.' or '..', got {topic!r}"
        raise ContractError(msg, hint="Kafka itself takes no other names")
    return topic


def commit_folder(partition: int) -> str:
    """Return the folder of a partition's commits, relative to the topic's."""
    return f"{COMMITS}/p{partition}"


def commit_name(first_offset: int) -> str:
    """Return the name of the commit of the range that starts at an offset.

    The end of the range is no part of it: of two writers that start at one offset, one can commit.
    """
    return f"{first_offset:020d}.json"


def commit_offset(name: str) -> int | None:
    """Return the first offset that a commit's name says, or None if it is no commit's name."""
    found = _COMMIT_NAME.fullmatch(name.removeprefix(".").split(".tmp-")[0])
    return int(found[1]) if found else None


def temporary_name(name: str, writer_id: str) -> str:
    """Return the name under which one writer writes a file that will get `name`."""
    return f".{name}.tmp-{writer_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPath:
    """The path of a data file relative to its topic's folder, and what it says."""

    event_date: date
    partition: int
    first_offset: int
    next_offset: int
    writer_id: str
    """16 hexadecimal digits, new for each writer: a writer that was replaced cannot overwrite its successor's file."""

    @classmethod
    def parse(cls, text: str) -> DataPath | None:
        """Read a path, or that of the file while it was being written; None if it is no data file's."""
        folder, _, name = text.rpartition("/")
        found = _DATA_PATH.fullmatch(f"{folder}/{name.removeprefix('.').split('.tmp-')[0]}")
        if not found:
            return None
        try:
            event_date = date.fromisoformat(found[1])
        except ValueError:
            return None
        return cls(
            event_date=event_date,
            partition=int(found[2]),
            first_offset=int(found[3]),
            next_offset=int(found[4]),
            writer_id=found[5],
        )

    @property
    def folder(self) -> str:
        """The Hive folder of its event date."""
        return f"event_date={self.event_date.isoformat()}"

    @property
    def name(self) -> str:
        """The file's name inside its folder."""
        return f"p{self.partition}-{self.first_offset:020d}-{self.next_offset:020d}-{self.writer_id}.parquet"

    def __str__(self) -> str:
        return f"{self.folder}/{self.name}"
