"""Records and, beside them, how far their groups have been applied: one atomic read. Bytes out, no maths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.sources import HISTORY_PARTITION
from streamfti.stores.online.keys import progress_key
from streamfti.stores.online.progress import Progress
from streamfti.stores.online.redis_store import OnlineReader

__all__ = ["RecordReader"]

_HISTORY_LANES = (HISTORY_PARTITION, HISTORY_PARTITION + 1)  # a group has at most two sources
_FIRST_PARTITIONS = 32  # a key that is not there costs the store about a microsecond


class RecordReader:
    """Reads the records of some groups. Safe to use from many threads.

    Every read is one MGET whatever the number of groups and keys, so all that it returns, the progress too, is of one
    moment of the store.
    """

    def __init__(self, groups: Sequence[FeatureGroup], online: OnlineReader) -> None:
        self._groups = tuple(groups)
        self._online = online
        self._progress_keys = self._keys_of(_FIRST_PARTITIONS)

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the records of keys in their order, None where there is none.

        Raises:
            StoreError: if the store cannot be read.
        """
        return self._online.read(keys)

    def read_with_progress(
        self, keys: Sequence[bytes]
    ) -> tuple[list[bytes | None], tuple[Mapping[int, Progress], ...]]:
        """Return the records of keys, and by group, in order, the progress in each partition that has begun.

        How many partitions a source has is not known here. The keys of the first 32, and of history, are read;
        whenever one of the upper half of the 32 is there, twice as many are, from then on. So every partition is
        found, unless events have only come from some beyond the 32nd and from none in between.

        Raises:
            StoreError: if the store cannot be read.
            CorruptRecord: if progress has not its length.
        """
        while True:
            progress_keys = self._progress_keys
            found = self._online.read([*keys, *progress_keys])
            if not progress_keys:
                return found, ()
            n = len(progress_keys) // len(self._groups) - len(_HISTORY_LANES)
            partitions = _partitions(n)
            progress = tuple(_by_partition(found[len(keys) :], partitions))
            begun = {partition for of_group in progress for partition in of_group}.difference(_HISTORY_LANES)
            if all(2 * partition < n for partition in begun):
                return found[: len(keys)], progress
            if len(progress_keys) == len(self._progress_keys):
                self._progress_keys = self._keys_of(2 * n)

    def _keys_of(self, n_partitions: int) -> tuple[bytes, ...]:
        return tuple(progress_key(group, i) for group in self._groups for i in _partitions(n_partitions))


def _partitions(n: int) -> list[int]:
    """Return the first n partitions of a topic, and that of history; of two topics, their lanes."""
    return [*range(n), *_HISTORY_LANES]


def _by_partition(found: Sequence[bytes | None], partitions: Sequence[int]) -> Iterator[dict[int, Progress]]:
    for start in range(0, len(found), len(partitions)):
        stored = zip(partitions, found[start : start + len(partitions)], strict=True)
        yield {partition: Progress.load(value) for partition, value in stored if value is not None}
