"""Records and, beside them, how far their groups have been applied: one atomic read. Bytes out, no maths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from streamfti.definitions.groups import FeatureGroup
from streamfti.stores.online.keys import progress_key
from streamfti.stores.online.progress import Progress
from streamfti.stores.online.redis_store import OnlineReader

__all__ = ["RecordReader"]

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

        How many partitions a source has is not known here. The keys of the first 32 are read; whenever one of the
        upper half is there, twice as many are, from then on. So every partition is found, unless events have only
        come from some beyond the 32nd and from none in between.

        Raises:
            StoreError: if the store cannot be read.
            CorruptRecord: if progress has not its length.
        """
        while True:
            progress_keys = self._progress_keys
            found = self._online.read([*keys, *progress_keys])
            if not progress_keys:
                return found, ()
            n_partitions = len(progress_keys) // len(self._groups)
            progress = tuple(_by_partition(found[len(keys) :], n_partitions))
            if all(2 * partition < n_partitions for of_group in progress for partition in of_group):
                return found[: len(keys)], progress
            if len(progress_keys) == len(self._progress_keys):
                self._progress_keys = self._keys_of(2 * n_partitions)

    def _keys_of(self, n_partitions: int) -> tuple[bytes, ...]:
        return tuple(progress_key(group, i) for group in self._groups for i in range(n_partitions))


def _by_partition(found: Sequence[bytes | None], n_partitions: int) -> Iterator[dict[int, Progress]]:
    for start in range(0, len(found), n_partitions):
        stored = enumerate(found[start : start + n_partitions])
        yield {partition: Progress.load(value) for partition, value in stored if value is not None}
