"""One Parquet file: written, and read back with an explicit schema. The only place that knows the Parquet driver."""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from streamfti.errors import ContractError, CorruptRecord, StoreError
from streamfti.stores.offline.commits import LogFile
from streamfti.stores.offline.durable import store_errors

__all__ = ["read_data_file", "write_data_file"]

_RESTORE = "restore it from a backup of the log"


def write_data_file(path: Path, table: pa.Table, facts: Mapping[str, str]) -> tuple[int, int]:
    """Write a table whole, with page checksums and statistics, and the facts as metadata.

    Returns the file's size in bytes and the CRC-32 of its footer. Nothing is forced to the device yet.

    Raises:
        StoreError: if the file cannot be written.
    """
    described = table.replace_schema_metadata({f"streamfti.{name}": value for name, value in facts.items()})
    try:
        with store_errors("write", path):
            pq.write_table(described, path, compression="zstd", write_page_checksum=True, write_statistics=True)
            return path.stat().st_size, _footer_crc32(path)
    except pa.ArrowException as exc:
        msg = f"cannot write {path}: {exc}"
        raise StoreError(msg) from exc


def _footer_crc32(path: Path) -> int:
    """Return the CRC-32 of the footer, its length and the magic number behind it."""
    with path.open("rb") as file:
        size_bytes = file.seek(0, os.SEEK_END)
        file.seek(max(0, size_bytes - 8))
        footer_bytes = int.from_bytes(file.read(4), "little")
        file.seek(max(0, size_bytes - 8 - footer_bytes))
        return zlib.crc32(file.read())


def read_data_file(folder: Path, file: LogFile, schema: pa.Schema, columns: Collection[str]) -> pa.Table:
    """Return the wanted columns of a data file as the schema says them, in its order.

    A nullable column that the file does not have is null in every row: it was added to the event later.

    Raises:
        CorruptRecord: if the file is missing, or not what its commit says.
        ContractError: if its columns cannot be read as the schema says.
        StoreError: if the operating system refused.
    """
    path = folder / file.path
    wanted = pa.schema([field for field in schema if field.name in columns])
    with _corruption(path):
        _check_whole(path, file)
        with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
            present = [name for name in wanted.names if name in parquet.schema_arrow.names]
            stored = parquet.read(columns=present, use_threads=False)
            rows = parquet.metadata.num_rows
    if rows != file.rows:
        msg = f"data file {path} must hold {file.rows} rows, as its commit says, got {rows}"
        raise CorruptRecord(msg)
    return pa.Table.from_arrays([_column(path, stored, field, rows) for field in wanted], schema=wanted)


def _check_whole(path: Path, file: LogFile) -> None:
    size_bytes = path.stat().st_size
    if size_bytes != file.size_bytes:
        msg = f"data file {path} must have {file.size_bytes} bytes, as its commit says, got {size_bytes}"
        raise CorruptRecord(msg, hint=_RESTORE)
    if _footer_crc32(path) != file.footer_crc32:
        msg = f"the footer of data file {path} must have the checksum that its commit says, got another"
        raise CorruptRecord(msg, hint=_RESTORE)


@contextmanager
def _corruption(path: Path) -> Iterator[None]:
    """Translate what reading raises: a file that is gone or unreadable is corruption, a refusal is not."""
    try:
        yield
    except FileNotFoundError as exc:
        msg = f"data file {path} must exist, as a commit names it, got no such file"
        raise CorruptRecord(msg, hint=_RESTORE) from exc
    except (OSError, pa.ArrowException) as exc:
        if isinstance(exc, OSError) and exc.errno is not None:
            msg = f"cannot read {path}: {exc.strerror}"
            raise StoreError(msg) from exc
        msg = f"data file {path} must be a readable Parquet file, got: {exc}"
        raise CorruptRecord(msg, hint=_RESTORE) from exc


def _column(path: Path, stored: pa.Table, field: pa.Field, rows: int) -> pa.ChunkedArray:
    if field.name not in stored.column_names:
        if not field.nullable:
            msg = f"column {field.name!r} must be in data file {path}, as it is not nullable, got none"
            raise ContractError(msg, hint=f"declare the later-added field as {field.name}: ... | None")
        return pa.chunked_array([pa.nulls(rows, field.type)])
    column = stored.column(field.name)
    if column.type != field.type:
        msg = f"column {field.name!r} of data file {path} must be {field.type}, got {column.type}"
        raise ContractError(msg, hint="a field keeps its type: add a new field instead")
    if column.null_count and not field.nullable:
        msg = f"column {field.name!r} of data file {path} must have no nulls, got {column.null_count}"
        raise ContractError(msg, hint=f"declare the field as {field.name}: ... | None")
    return column
