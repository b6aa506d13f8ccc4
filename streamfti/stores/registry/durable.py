"""Files that are whole or absent, also after a crash: written aside, synced, and made visible in one step."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

__all__ = ["claim_file", "staging_path", "sync_folder", "write_synced"]


def staging_path(folder: Path) -> Path:
    """Return a new hidden path in a folder; readers pass such names over."""
    return folder / f".tmp-{uuid.uuid4().hex}"


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and wait until the disk has it."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the folder's entries."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def claim_file(path: Path, data: bytes) -> bool:
    """Create a file whole, or return False if it exists already.

    Of several processes that claim one path, exactly one gets True: a hard link never replaces a file.
    """
    aside = staging_path(path.parent)
    write_synced(aside, data)
    try:
        path.hardlink_to(aside)
    except FileExistsError:
        return False
    finally:
        aside.unlink()
    sync_folder(path.parent)
    return True
