"""Which schema registry: that of a URL, else the files of this machine."""

from __future__ import annotations

from pathlib import Path

from streamfti.stores.schemas.file_registry import FileSchemaRegistry
from streamfti.stores.schemas.http_registry import HttpSchemaRegistry
from streamfti.stores.schemas.port import SchemaRegistry

__all__ = ["open_schema_registry"]


def open_schema_registry(url: str | None, folder: Path) -> SchemaRegistry:
    """Return the registry at a URL, or without one that of a folder. Nothing is read yet.

    Raises:
        StoreError: if the URL is none of HTTP.
    """
    return FileSchemaRegistry(folder) if url is None else HttpSchemaRegistry(url)
