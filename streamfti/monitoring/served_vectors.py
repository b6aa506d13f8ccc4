"""Feature vectors as they were served, in memory and in Parquet files: what `verify` compares with the log.

A file holds reads of one group, one row a read:

    <entity key fields>      by name, in the types of the event; null where the request named no entity
    _group, _version         the group that was read, and its version
    _fingerprint             of the feature service that served the row; of the group, where it was read without one
    _query_time_us           int64
    _read_at_us              int64, the wall clock at the read
    _applied                 list of (partition, next_offset): the events that had been applied when the row was read
    <qualified feature>      its value; null where there is none
    <qualified feature>:status   uint8 of `Status`

The applied offsets must come from the same atomic read as the values, as the progress in an answer of a server does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from streamfti.compute.values import FeatureColumn, Status
from streamfti.definitions.aggregations import Feature
from streamfti.definitions.dtypes import DType
from streamfti.definitions.groups import FeatureGroup
from streamfti.errors import ContractError, StoreError

__all__ = ["ServedFeatures", "VectorFile", "VectorWriter", "vector_files"]

_STATUS = ":status"
_KEY_DTYPES: Mapping[DType, pl.DataType] = {
    DType.STRING: pl.String(),
    DType.INT64: pl.Int64(),
    DType.BOOL: pl.Boolean(),
}
_VALUE_DTYPES: Mapping[DType, pl.DataType] = {
    DType.STRING: pl.String(),
    DType.INT64: pl.Int64(),
    DType.FLOAT64: pl.Float64(),
}
_ROW_DTYPES: Mapping[str, pl.DataType] = {
    "_group": pl.String(),
    "_version": pl.Int32(),
    "_fingerprint": pl.String(),
    "_query_time_us": pl.Int64(),
    "_read_at_us": pl.Int64(),
    "_applied": pl.List(pl.Struct({"partition": pl.Int32(), "next_offset": pl.Int64()})),
}


@dataclass(frozen=True, slots=True)
class ServedFeatures:
    """n reads of one group, as they were answered.

    Attributes:
        keys: n rows with the columns of the entity key; null where the request named no entity.
        query_time_us: int64[n].
        columns: the served features by qualified name, each [n].
        applied: by partition, int64[n]: the offset after the last event applied when the row was read.
        read_at_us: int64[n], the wall clock at the read; None where it is not known.
        is_comparable: bool[n]: false where another definition served the row; None if that is nowhere so.
    """

    keys: pl.DataFrame
    query_time_us: NDArray[np.int64]
    columns: Mapping[str, FeatureColumn]
    applied: Mapping[int, NDArray[np.int64]]
    read_at_us: NDArray[np.int64] | None = None
    is_comparable: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.query_time_us)


class VectorWriter:
    """Writes reads of one group to a new file. A context manager: the file is whole after it.

    Args:
        path: the file; one that exists is replaced.
        group: the group that is read.
        features: the features of it that are served.
        fingerprint: of what serves them, `service_fingerprint` or `group_fingerprint`.

    Raises:
        StoreError: if the file cannot be written.
    """

    def __init__(self, path: Path, group: FeatureGroup, features: Sequence[Feature], fingerprint: str) -> None:
        self._path, self._group, self._features, self._fingerprint = path, group, tuple(features), fingerprint
        self._writer: pq.ParquetWriter | None = None

    def write(self, served: ServedFeatures) -> None:
        """Append reads, whose `read_at_us` is known, as one row group.

        Raises:
            StoreError: if the file cannot be written.
        """
        table = self._frame(served).to_arrow()
        try:
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
            self._writer.write_table(table)
        except OSError as exc:
            msg = f"served vectors must be writable to {self._path}, got {exc.strerror or exc}"
            raise StoreError(msg) from exc

    def _frame(self, served: ServedFeatures) -> pl.DataFrame:
        n = len(served)
        key_types = {f.name: _KEY_DTYPES[f.type.dtype] for f in self._group.entity_fields}
        rows: dict[str, Any] = {name: served.keys[name].cast(dtype) for name, dtype in key_types.items()}
        rows |= {
            "_group": pl.repeat(self._group.name, n, dtype=pl.String(), eager=True),
            "_version": pl.repeat(self._group.version, n, dtype=pl.Int32(), eager=True),
            "_fingerprint": pl.repeat(self._fingerprint, n, dtype=pl.String(), eager=True),
            "_query_time_us": served.query_time_us,
            "_read_at_us": served.read_at_us,
            "_applied": _applied_lists(served.applied, n),
        }
        for feature in self._features:
            column = served.columns[feature.qualified_name]
            absent = pl.Series(column.status >= Status.EXPIRED)
            values = _values(column, feature)
            rows[feature.qualified_name] = values.zip_with(~absent, values.clear(1)) if n else values
            rows[feature.qualified_name + _STATUS] = column.status
        return pl.DataFrame(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()


def _applied_lists(applied: Mapping[int, NDArray[np.int64]], n: int) -> pl.Series:
    """Return n lists of (partition, next offset), ascending; partitions that have not begun are left out."""
    long = pl.concat(
        [
            pl.DataFrame(
                {"row": np.arange(n), "partition": np.full(n, p, np.int32), "next_offset": offsets},
                schema_overrides={"row": pl.Int64()},
            )
            for p, offsets in sorted(applied.items())
        ]
        or [pl.DataFrame(schema={"row": pl.Int64(), "partition": pl.Int32(), "next_offset": pl.Int64()})]
    ).filter(pl.col("next_offset") > 0)
    lists = long.group_by("row").agg(pl.struct("partition", "next_offset").sort_by("partition").alias("_applied"))
    rows = pl.DataFrame({"row": np.arange(n)}, schema_overrides={"row": pl.Int64()})
    return rows.join(lists, on="row", how="left", maintain_order="left")["_applied"].fill_null([])


class VectorFile:
    """A file of reads of one group, as it was written by `VectorWriter` or by somebody else in the same columns.

    Attributes:
        path: the file.
        group_name: whose reads these are; empty if there are none.
        rows: how many there are.

    Raises:
        ContractError: if it is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = pq.ParquetFile(path)
        except (OSError, pa.ArrowException) as exc:
            msg = f"{path} must be a Parquet file of served vectors, got: {exc}"
            raise ContractError(msg) from exc
        self.rows = int(self._file.metadata.num_rows)
        self._columns = list(self._file.schema_arrow.names)
        missing = [name for name in _ROW_DTYPES if name not in self._columns]
        if missing:
            msg = f"{path} must have the columns {', '.join(_ROW_DTYPES)}, got none named {missing[0]!r}"
            raise ContractError(msg, hint="streamfti.monitoring.served_vectors.VectorWriter writes such files")
        self.group_name = self._only_group()

    def _only_group(self) -> str:
        names: set[str] = set()
        for batch in self._file.iter_batches(columns=["_group"]):
            names.update(batch.column(0).unique().to_pylist())
        if len(names) > 1:
            msg = f"{self.path} must hold reads of one group, got {', '.join(sorted(map(str, names)))}"
            raise ContractError(msg)
        return str(next(iter(names), ""))

    def features_of(self, group: FeatureGroup) -> tuple[Feature, ...]:
        """Return the features of the group that the file has, in the order of the group.

        Raises:
            ContractError: if it has a value without a status, or lacks a field of the entity key.
        """
        for name in group.entity:
            if name not in self._columns:
                msg = f"{self.path} must have the entity key {name!r} of {group.name!r}, got {', '.join(self._columns)}"
                raise ContractError(msg)
        found = tuple(f for f in group.features if f.qualified_name in self._columns)
        for feature in found:
            if feature.qualified_name + _STATUS not in self._columns:
                msg = f"{self.path} must have a column {feature.qualified_name + _STATUS!r}, got none"
                raise ContractError(msg)
        return found

    def highest_applied(self) -> dict[int, int]:
        """Return by partition the highest offset after an event that any of the reads had applied."""
        highest: dict[int, int] = {}
        for batch in self._file.iter_batches(columns=["_applied"]):
            for partition, offsets in _applied_by_partition(_series(batch)).items():
                highest[partition] = max(highest.get(partition, 0), int(offsets.max()))
        return highest

    def read(self, group: FeatureGroup, fingerprints: frozenset[str], rows: int) -> Iterator[ServedFeatures]:
        """Iterate over the reads in their order, at most so many rows at a time.

        Args:
            group: the group of the file.
            fingerprints: those under which its rows can be compared.
            rows: about how many are held in memory.

        Raises:
            ContractError: if a column has another type than it must have.
        """
        features = self.features_of(group)
        waiting: list[pl.DataFrame] = []
        for batch in self._file.iter_batches(batch_size=rows):
            frame = pl.DataFrame(pa.Table.from_batches([batch]))
            if waiting and sum(map(len, waiting)) + len(frame) > rows:
                yield self._served(group, features, fingerprints, pl.concat(waiting))
                waiting = []
            waiting.append(frame)
        if waiting:
            yield self._served(group, features, fingerprints, pl.concat(waiting))

    def _served(
        self, group: FeatureGroup, features: Sequence[Feature], fingerprints: frozenset[str], frame: pl.DataFrame
    ) -> ServedFeatures:
        types = {f.name: _KEY_DTYPES[f.type.dtype] for f in group.entity_fields}
        try:
            keys = frame.select(pl.col(name).cast(dtype, strict=True) for name, dtype in types.items())
            about = frame.select(pl.col(name).cast(dtype, strict=True) for name, dtype in _ROW_DTYPES.items())
            columns = {f.qualified_name: _feature_column(frame, f) for f in features}
        except pl.exceptions.PolarsError as exc:
            msg = f"{self.path} must hold served vectors of {group.name!r}, got: {exc}"
            raise ContractError(msg) from exc
        own = about["_fingerprint"].is_in(list(fingerprints)) & (about["_version"] == group.version)
        return ServedFeatures(
            keys,
            about["_query_time_us"].to_numpy(),
            columns,
            _applied_by_partition(about["_applied"]),
            about["_read_at_us"].to_numpy(),
            own.fill_null(value=False).to_numpy(),
        )


def _feature_column(frame: pl.DataFrame, feature: Feature) -> FeatureColumn:
    values = frame[feature.qualified_name].cast(_VALUE_DTYPES[feature.dtype], strict=True)
    values = values.fill_null("" if feature.dtype is DType.STRING else 0)
    status = frame[feature.qualified_name + _STATUS].cast(pl.UInt8(), strict=True)
    return FeatureColumn(values.to_numpy(), status.to_numpy())


def _values(column: FeatureColumn, feature: Feature) -> pl.Series:
    values = column.values.tolist() if feature.dtype is DType.STRING else column.values
    return pl.Series(values, dtype=_VALUE_DTYPES[feature.dtype])


def _series(batch: pa.RecordBatch) -> pl.Series:
    return pl.DataFrame(pa.Table.from_batches([batch])).to_series()


def _applied_by_partition(lists: pl.Series) -> dict[int, NDArray[np.int64]]:
    flat = pl.DataFrame({"applied": lists}).with_row_index("row").explode("applied").drop_nulls("applied")
    long = flat.select("row", pl.col("applied").struct.unnest())
    found: dict[int, NDArray[np.int64]] = {}
    for partition in long["partition"].unique().sort().to_list():
        own = long.filter(pl.col("partition") == partition)
        offsets = np.zeros(len(lists), np.int64)
        offsets[own["row"].to_numpy()] = own["next_offset"].to_numpy()
        found[int(partition)] = offsets
    return found


def vector_files(path: Path) -> list[VectorFile]:
    """Return the file, or the Parquet files of a folder, by name; files without rows are left out.

    Raises:
        ContractError: if there is none, or one is no file of served vectors.
    """
    paths = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not paths:
        msg = f"served vectors must be a Parquet file or a folder of such files, got {path}"
        raise ContractError(msg)
    return [file for file in map(VectorFile, paths) if file.rows]
