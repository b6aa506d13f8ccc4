"""The online store on Redis: the only importer of `redis`. Bytes in, bytes out: it knows keys, not features.

Readers and writers are separate objects: serving cannot write. Errors of the driver leave as StoreError, through one
door.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Self
from urllib.parse import urlsplit

import hiredis
import redis
import redis.connection
import redis.exceptions
from redis._parsers.hiredis import NOT_ENOUGH_DATA

from streamfti.definitions.groups import FeatureGroup
from streamfti.errors import FencedWriter, StoreError, StoreUnavailable
from streamfti.stores.online.keys import progress_prefix, record_prefix, side_prefix
from streamfti.stores.online.progress import Progress
from streamfti.stores.online.slot_writes import SideWrite, SlotWrites

__all__ = ["OnlineReader", "OnlineWriter", "SingleKeys", "delete_values", "has_values"]

_TIMEOUT_S = 5.0
_SCAN_KEYS = 1_000  # looked at by one SCAN: long enough to be quick, short enough not to hold up readers
_GLOB = re.compile(rb"[*?\[\]\\]")


class _Parser(redis.connection.DefaultParser):  # type: ignore[misc,valid-type]  # chosen when the driver is loaded
    """The driver's parser, with a way to read many replies at once: one by one, reading took as long as all else."""

    def read_replies(self, n: int) -> list[Any]:
        """Return the next n replies; those that are errors are exceptions in the list."""
        replies: list[Any] = []
        while True:
            replies += islice(iter(self._reader.gets, NOT_ENOUGH_DATA), n - len(replies))
            if len(replies) == n:
                return replies
            self.read_from_socket()


def _client(url: str, timeout_s: float) -> redis.Redis:
    with _translated(url):
        pool = redis.ConnectionPool.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, parser_class=_Parser, protocol=2
        )
        return redis.Redis.from_pool(pool)


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Turn errors of the driver into ours; the address is named, the password never."""
    try:
        yield
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as exc:
        msg = f"the online store at {_address(url)} must answer, got {type(exc).__name__}"
        raise StoreUnavailable(msg, hint="is Redis running there? `streamfti dev up` starts one") from exc
    except (redis.exceptions.RedisError, ValueError, OSError) as exc:
        msg = f"the online store at {_address(url)} refused: {exc}"
        raise StoreError(msg) from exc


def _address(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}{parts.path}" if parts.hostname else parts.path


class SingleKeys:
    """Single keys, read and written one by one: for what is written down once. A context manager."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = _client(url, _TIMEOUT_S)

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key.

        Raises:
            StoreError: if the store cannot be used.
        """
        with _translated(self._url):
            found: Any = self._client.get(key)
        value: bytes | None = found
        return value

    def set(self, key: bytes, value: bytes) -> None:
        """Set a key.

        Raises:
            StoreError: if the store cannot be used.
        """
        with _translated(self._url):
            self._client.set(key, value)

    def set_new(self, key: bytes, value: bytes) -> bool:
        """Set a key if it is not there; return whether it was not.

        Raises:
            StoreError: if the store cannot be used.
        """
        with _translated(self._url):
            return bool(self._client.set(key, value, nx=True))

    def now_us(self) -> int:
        """Return the store's own time.

        Raises:
            StoreError: if the store cannot be used.
        """
        with _translated(self._url):
            found: Any = self._client.time()
        seconds, us = found
        return int(seconds) * 1_000_000 + int(us)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()


def has_values(url: str, group: FeatureGroup) -> bool:
    """Return whether a group version has a record or any progress; looks at every key of the store if it has none.

    Raises:
        StoreError: if the store cannot be used.
    """
    client = _client(url, _TIMEOUT_S)
    with _translated(url), client:
        return any(True for prefix in _prefixes(group) for _ in _keys(client, prefix))


def delete_values(url: str, group: FeatureGroup) -> int:
    """Delete the progress and the records, side records too, of a group version, and return how many keys that were.

    The progress goes first: a feature pipeline that runs is fenced by that, and one that starts after a death in
    between does not take the records that are left for whole. What the group means stays written down.

    Raises:
        StoreError: if the store cannot be used.
    """
    client, deleted = _client(url, _TIMEOUT_S), 0
    with _translated(url), client:
        for prefix in _prefixes(group):
            for keys in _keys(client, prefix):
                deleted += int(client.unlink(*keys))
    return deleted


def _prefixes(group: FeatureGroup) -> tuple[bytes, ...]:
    return progress_prefix(group), record_prefix(group), side_prefix(group)


def _keys(client: redis.Redis, prefix: bytes) -> Iterator[list[bytes]]:
    """Iterate over the keys with a prefix, some at a time, never none."""
    pattern, cursor = _GLOB.sub(rb"\\\g<0>", prefix) + b"*", None
    while cursor != 0:
        found: Any = client.scan(cursor or 0, match=pattern, count=_SCAN_KEYS)
        cursor, keys = found
        if keys:
            yield keys


class OnlineReader:
    """Reads values by key. Safe to use from many threads."""

    def __init__(self, url: str, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._url = url
        self._client = _client(url, timeout_s)

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of keys in their order, None where there is none, in one atomic MGET.

        Raises:
            StoreUnavailable: if the store does not answer in time.
            StoreError: if it refuses.
        """
        if not keys:
            return []
        with _translated(self._url):
            values: Any = self._client.mget(keys)
        return list(values)

    def close(self) -> None:
        """Give back the connections; the reader cannot be used after."""
        self._client.close()


class OnlineWriter:
    """Writes slots and the progress that they stand for in one transaction, and notices every other writer.

    One writer owns the progress keys that it was started with. They are WATCHed from the moment when they are known
    to hold what this writer wrote until its next EXEC: if anything changes them in between (a successor, a rolled-back
    replica after a reconnect) the EXEC does nothing and `commit` raises FencedWriter. Not thread-safe.

    After any error the writer is spent. The driver would connect anew without a word, and a new connection watches
    nothing.
    """

    def __init__(self, url: str, progress_keys: Sequence[bytes], *, timeout_s: float = _TIMEOUT_S) -> None:
        self._url = url
        self._keys = list(progress_keys)
        self._client = _client(url, timeout_s)
        self._guard = [("WATCH", *self._keys), ("MGET", *self._keys)] if self._keys else []
        self._usable = True
        with _translated(url):
            self._connection: Any = self._client.connection_pool.get_connection()  # its methods have no types
        replies = self._exchange(self._guard)
        self._stored: dict[bytes, bytes | None] = dict(zip(self._keys, replies[-1] if replies else [], strict=True))

    @property
    def progress(self) -> dict[bytes, Progress]:
        """What is stored under the progress keys; a key without anything is left out."""
        return {key: Progress.load(stored) for key, stored in self._stored.items() if stored is not None}

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of keys in their order, None where there is none.

        Raises:
            StoreError: if the store does not answer, or refuses, or a key holds something else than a string: MGET
                would read that as nothing, and the first write of a transaction that cannot be taken back fail.
        """
        if not keys:
            return []
        values, n_there = self._exchange([("MGET", *keys), ("EXISTS", *keys)])
        if n_there > sum(value is not None for value in values):
            msg = f"the {len(keys)} keys from {keys[0]!r} on at {_address(self._url)} must be records, got another type"
            raise StoreError(msg, hint="who else writes there? `TYPE key` tells")
        return list(values)

    def commit(
        self,
        slots: SlotWrites,
        expiries_ms: Mapping[bytes, int],
        progress: Mapping[bytes, Progress],
        side: Sequence[SideWrite] = (),
    ) -> None:
        """Write slots, side records and progress together: either all of it is stored, or nothing is.

        Sent as one block, in this order:

        1. MULTI
        2. SETRANGE for each slot, whole, which makes a repetition harmless
        3. SET for each side record, whole, with its expiry
        4. PEXPIRE for each record that is due for it
        5. SET for the progress of each partition
        6. EXEC, which does nothing if a watched progress key has changed
        7. WATCH and MGET of all progress keys, which starts the next guard and reads back this one

        A death of the process before 6 leaves the store as it was and the batch is replayed; after 6, the progress
        says that the batch is done. If the connection is lost in between, the outcome is unknown, StoreUnavailable
        is raised, and a restart reads it from the store.

        Raises:
            FencedWriter: if another writer has moved the progress, or the store was rolled back.
            StoreError: if the store does not answer, or refuses; nothing must be taken as written.
        """
        stored = {key: value.dump() for key, value in progress.items()}
        last: list[tuple[Any, ...]] = [("SET", key, data, *_expiry(ms)) for key, data, ms in side]  # 3.
        last += [("PEXPIRE", key, ms) for key, ms in expiries_ms.items()]  # 4.
        last += [("SET", key, value) for key, value in stored.items()]  # 5.
        last += [("EXEC",), *self._guard]  # 6. and 7.
        block = b"".join((_packed([("MULTI",)]), slots.commands(), _packed(last)))  # 1. and 2.
        *_, executed, _, values = self._exchange_block(block, 1 + len(slots) + len(last))
        self._usable = False
        if executed is None:
            self._raise_fenced("somebody else wrote the progress of this pipeline")
        refused = _first_error(executed)
        if refused is not None:
            msg = f"the online store at {_address(self._url)} refused a part of a transaction: {refused}"
            raise StoreError(msg, hint="a key of another type stands where a record belongs?") from refused
        self._stored |= stored
        if dict(zip(self._keys, values, strict=True)) != self._stored:
            self._raise_fenced("the stored progress is not what this pipeline wrote")
        self._usable = True

    def close(self) -> None:
        """Close the connection, which drops the guard."""
        self._connection.disconnect()
        self._client.close()

    def _raise_fenced(self, what: str) -> None:
        msg = f"this feature pipeline must be the only writer of its partitions, but {what}"
        raise FencedWriter(msg, hint="stop the other one; a restart goes on from the stored progress")

    def _exchange(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands as one block and return their replies."""
        return self._exchange_block(_packed(commands), len(commands))

    def _exchange_block(self, block: bytes, n: int) -> list[Any]:
        """Send a block of n commands and return their replies."""
        if not (self._usable and self._connection.is_connected):
            msg = f"the writer of the online store at {_address(self._url)} must not be used after an error"
            raise StoreError(msg, hint="make a new one: it begins with what is stored")
        self._usable = False
        with _translated(self._url):
            self._send(block)
            replies = self._receive(n)
        self._usable = True
        return replies

    def _send(self, block: bytes) -> None:
        """Send; without the driver's health check, which would connect anew where it fails."""
        self._connection.send_packed_command([block], check_health=False)

    def _receive(self, n: int) -> list[Any]:
        """Read n replies; the first error is raised after all of them are read, so that the stream stays in step."""
        try:
            replies = self._connection._parser.read_replies(n)  # noqa: SLF001  # ours, and handed out nowhere else
        except OSError as exc:
            raise redis.exceptions.ConnectionError from exc
        failed = _first_error(replies)
        if failed is not None:
            raise failed
        return list(replies)


def _first_error(replies: Sequence[Any]) -> Exception | None:
    """Return the first reply that is an error; looks at the types first, as there are many replies of few types."""
    if not any(issubclass(kind, Exception) for kind in set(map(type, replies))):
        return None
    return next(reply for reply in replies if isinstance(reply, Exception))


def _expiry(ms: int | None) -> tuple[str | int, ...]:
    return () if ms is None else ("PX", ms)


def _packed(commands: Sequence[tuple[Any, ...]]) -> bytes:
    return b"".join(map(hiredis.pack_command, commands))
