"""Columnar decoding of Avro messages: many bare bodies are re-framed as one container and read by polars at once.

About ten times the speed of decoding them one by one. A container does not mark where a record ends, so a body that
is too long or too short could shift the records after it without an error. That is excluded: the length that each
decoded record must have had is computed from its values and compared with the length of its body. Avro bodies of
these types have one shortest form; if every length agrees, every record was read from its own bytes alone.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["decode_container"]

_SYNC = b"\x00" * 16
_VARINT_LIMITS = np.array([1 << (7 * i) for i in range(1, 10)], np.uint64)


def decode_container(schema: Mapping[str, Any], bodies: Sequence[bytes]) -> pl.DataFrame | None:
    """Return the records as a frame in their order, or None if that cannot be shown to be exact.

    None is no verdict on the data: the caller decodes one by one and finds which body is bad.

    Args:
        schema: the writer's schema: a record of strings, longs, doubles, booleans and unions of null and one of them.
        bodies: Avro bodies written with it, at least one.
    """
    try:
        frame = pl.read_avro(io.BytesIO(_container(schema, bodies)))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None
    if frame.height != len(bodies):
        return None
    expected = _encoded_bytes(schema, frame)
    if expected is None or not np.array_equal(expected, np.fromiter(map(len, bodies), np.int64, len(bodies))):
        return None
    return frame


def _long(value: int) -> bytes:
    """Return a non-negative number as Avro writes a long: zigzag, then seven bits a byte."""
    value <<= 1
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _container(schema: Mapping[str, Any], bodies: Sequence[bytes]) -> bytes:
    """Return an Avro object container of one block, as the Avro 1.11 specification lays it out."""
    text = json.dumps(schema).encode()
    data = b"".join(bodies)
    meta = [(b"avro.schema", text), (b"avro.codec", b"null")]
    header = b"".join(_long(len(k)) + k + _long(len(v)) + v for k, v in meta)
    return b"".join(
        [b"Obj\x01", _long(len(meta)), header, _long(0), _SYNC, _long(len(bodies)), _long(len(data)), data, _SYNC]
    )


def _encoded_bytes(schema: Mapping[str, Any], frame: pl.DataFrame) -> NDArray[np.int64] | None:
    """Return int64[n], the shortest length of each record, or None if a type is not among those known here."""
    total = np.zeros(frame.height, np.int64)
    for field in schema["fields"]:
        series, avro_type = frame[field["name"]], field["type"]
        if isinstance(avro_type, list):
            members = [t for t in avro_type if t != "null"]
            if len(members) != 1 or len(avro_type) > 2:
                return None
            total += 1  # the branch of the union
            avro_type = members[0]
        size = _value_bytes(avro_type, series)
        if size is None:
            return None
        total += np.where(series.is_not_null().to_numpy(), size, 0)
    return total


def _value_bytes(avro_type: Any, series: pl.Series) -> NDArray[np.int64] | int | None:  # noqa: ANN401  # JSON
    name = avro_type["type"] if isinstance(avro_type, dict) else avro_type
    if name == "boolean":
        return 1
    if name == "double":
        return 8
    if name == "long":
        return _varint_bytes(series.to_physical().fill_null(0).to_numpy())
    if name == "string":
        n_bytes = series.str.len_bytes().fill_null(0).cast(pl.Int64).to_numpy()
        length: NDArray[np.int64] = n_bytes + _varint_bytes(n_bytes)
        return length
    return None


def _varint_bytes(values: NDArray[np.int64]) -> NDArray[np.int64]:
    zigzag = ((values << 1) ^ (values >> 63)).view(np.uint64)
    return np.searchsorted(_VARINT_LIMITS, zigzag, side="right") + 1
