"""How a command finds the servers that `dev up` runs on a folder; the standard library and first-party only.

The file is a hint for commands on the same machine, not a registry: nothing else may read addresses from it.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamfti.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FILE_NAME", "Addresses", "announce", "read_running"]

FILE_NAME = "servers.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where the servers of a data folder are.

    Attributes:
        redis_url: for Redis clients.
        bootstrap_servers: for Kafka clients.
        kafka_in_memory: whether the broker is known to lose its topics when it stops.
        pid: the process that owns them: they are gone when it is gone.
    """

    redis_url: str
    bootstrap_servers: str
    kafka_in_memory: bool
    pid: int


@contextmanager
def announce(data_dir: Path, addresses: Addresses) -> Iterator[None]:
    """Write the addresses into the data folder, and remove them on leaving.

    The file appears whole or not at all. After a SIGKILL of the owner it stays; readers see that its pid is gone.
    """
    path = data_dir / FILE_NAME
    data_dir.mkdir(parents=True, exist_ok=True)
    _write_private(path, json.dumps(asdict(addresses), indent=2) + "\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def read_running(data_dir: Path) -> Addresses | None:
    """Return the addresses that a living `dev up` announced in the folder, None when there is none.

    Raises:
        ContractError: if the file is there but is not what `announce` writes.
    """
    path = data_dir / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    addresses = _parse(text, path)
    return addresses if _alive(addresses.pid) else None


def _parse(text: str, path: Path) -> Addresses:
    try:
        addresses = Addresses(**json.loads(text))
    except (ValueError, TypeError) as error:
        msg = f"{path} must be a file of `dev up`, got: {error}"
        raise ContractError(msg, hint="stop `dev up` if it runs, and remove the file") from error
    if type(addresses.pid) is not int or addresses.pid <= 0:
        msg = f"{path} must name the process that owns the servers, got pid {addresses.pid!r}"
        raise ContractError(msg, hint="stop `dev up` if it runs, and remove the file")
    return addresses


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read: an address may carry a password."""
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # there, but another user's
        return True
    return True
