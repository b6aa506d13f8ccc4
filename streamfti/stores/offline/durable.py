"""Files that are whole or absent, also after a power cut; and the one door where `OSError` becomes `StoreError`.

Knows folders and bytes, and nothing of what they mean.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamfti.errors import StoreError

__all__ = ["create_whole", "link_new", "make_folder", "store_errors", "sync", "write_synced"]

_HINTS = {
    errno.ENOSPC: "the disk is full: free some space and start again, what was committed is intact",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EDQUOT: "the disk quota is used up: free some space and start again, what was committed is intact",
    errno.EACCES: "check the owner and the permissions of the folder",
    errno.EPERM: "check the permissions of the folder, and that its file system has hard links",
    errno.EROFS: "the file system is mounted read-only",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EIO: "the device reports errors: check it before going on",
}


@contextmanager
def store_errors(action: str, path: Path) -> Iterator[None]:
    """Run a block of file operations; an OSError leaves it as a StoreError that names the action and the file.

    Raises:
        StoreError: if the operating system refused.
    """
    try:
        yield
    except OSError as exc:
        where = exc.filename or path
        msg = f"cannot {action} {where}: {exc.strerror or exc}"
        raise StoreError(msg, hint=_HINTS.get(exc.errno or 0, "")) from exc


def sync(path: Path) -> None:
    """Force a file's bytes, or a folder's entries, to the device.

    Raises:
        StoreError: if the operating system refused.
    """
    with store_errors("sync", path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(path: Path) -> None:
    """Create a folder and those above it, where missing, durably.

    Raises:
        StoreError: if the operating system refused.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
    with store_errors("create", path):
        path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync(folder.parent)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and force its bytes to the device; its entry in the folder is not yet durable.

    Raises:
        StoreError: if the operating system refused.
    """
    with store_errors("write", path), path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def link_new(existing: Path, name: Path) -> bool:
    """Give a written file its name, if nobody has that name yet, in one step; return whether it was given.

    Raises:
        StoreError: if the operating system refused for another reason.
    """
    with store_errors("create", name):
        try:
            os.link(existing, name)
        except FileExistsError:
            return False
    return True


def create_whole(path: Path, content: bytes, *, temporary: Path) -> bool:
    """Create a file with all its bytes at once, durably, unless it exists; return whether it was created.

    Among any number of processes, exactly one gets True. `temporary` is a path in the same folder that nobody
    else uses; a kill in the middle leaves at most that behind.

    Raises:
        StoreError: if the operating system refused.
    """
    try:
        write_synced(temporary, content)
        created = link_new(temporary, path)
    finally:
        with store_errors("remove", temporary):
            temporary.unlink(missing_ok=True)
    sync(path.parent)
    return created
