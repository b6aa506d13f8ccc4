"""JSON: one object a message, bare or behind Confluent's five bytes. Columnar first; one by one, the reference.

Strict, so that nothing is read as something that was not written: integers have no fraction and fit 64 bits, a number
is no text, a key stands once, NaN is no number, and nothing follows the object. A time is a text in ISO 8601 with a
zone, no finer than microseconds, or an integer of microseconds; a decimal is a number or a text of one, taken over
exactly. Keys that the event does not have are ignored; a field without a key is null.

A schema that a message names is not looked up: the text says what it is.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import polars as pl

from streamfti.clock import to_us
from streamfti.definitions.decimals import exact_unscaled, parse_decimal
from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import EventSchema, Field
from streamfti.definitions.sources import KafkaSource
from streamfti.feature_pipeline.avro_schema import FRAME, MAGIC
from streamfti.feature_pipeline.batches import DeadLetter, Message
from streamfti.feature_pipeline.decoded import (
    COLUMNAR_FROM,
    INVALID,
    MALFORMED,
    NO_SCHEMA_ID,
    Decoded,
    FormatDecoder,
    Rejection,
    rows_frame,
    shown,
)
from streamfti.feature_pipeline.json_columns import JsonColumns
from streamfti.stores.schemas.port import MAX_SCHEMA_ID

__all__ = ["JsonDecoder", "json_body", "json_integer", "json_object", "json_row", "json_values"]

_INT64 = range(-(2**63), 2**63)
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)  # RFC 3339, down to microseconds


class JsonDecoder(FormatDecoder):
    """Keeps the orders of keys that it has met; everything else is pure."""

    def __init__(self) -> None:
        self._columns: dict[str, JsonColumns] = {}

    def decode(self, source: KafkaSource, messages: Sequence[Message], dead: list[DeadLetter]) -> list[Decoded]:
        """Return what could be read, by schema id, and add a dead letter for each other message."""
        groups: dict[int, tuple[list[Message], list[bytes]]] = defaultdict(lambda: ([], []))
        for message in messages:
            try:
                schema_id, body = json_body(message.value)
            except Rejection as exc:
                dead.append(exc.letter(message, None))
                continue
            groups[schema_id][0].append(message)
            groups[schema_id][1].append(body)
        columns = self._columns.setdefault(source.name, JsonColumns(source.schema, _keys))
        return [_decode(source.schema, columns, i, group, bodies, dead) for i, (group, bodies) in groups.items()]


def json_body(value: bytes | None) -> tuple[int, bytes]:
    """Return the schema id that a message names, `NO_SCHEMA_ID` without one, and its text.

    Raises:
        Rejection: if it is empty, or its id is none.
    """
    if not value:
        raise Rejection(MALFORMED, "$", "a message must be a JSON object, got an empty message")
    if value[0] != MAGIC or len(value) < FRAME.size:
        return NO_SCHEMA_ID, value
    schema_id: int = FRAME.unpack_from(value)[1]
    if schema_id > MAX_SCHEMA_ID:
        raise Rejection(MALFORMED, "$", f"a schema id must be at most {MAX_SCHEMA_ID}, got {schema_id}")
    return schema_id, value[FRAME.size :]


def _decode(
    schema: EventSchema,
    columns: JsonColumns,
    schema_id: int,
    messages: Sequence[Message],
    bodies: Sequence[bytes],
    dead: list[DeadLetter],
) -> Decoded:
    places = list(range(len(bodies)))
    frames: list[pl.DataFrame] = []
    if len(bodies) >= COLUMNAR_FROM:
        frames, places = columns.decode(bodies)
    rows: list[dict[str, Any]] = []
    read: list[int] = []
    for place in places:
        try:
            rows.append(json_row(schema, bodies[place]))
        except Rejection as exc:
            dead.append(exc.letter(messages[place], schema_id or None))
        else:
            read.append(place)
    alone = rows_frame(schema, rows).with_columns(pl.Series("_place", read, pl.Int64))
    frame = pl.concat([*frames, alone]).sort("_place")
    return Decoded(schema_id, [messages[place] for place in frame["_place"]], frame.drop("_place"))


class _Number(str):
    """A number as it was written."""

    __slots__ = ()


class _Duplicate(ValueError):
    """A key that stands twice in an object."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        msg = f"the key {shown(twice)} twice in one object"
        raise _Duplicate(msg)
    return found


def _no_number(text: str) -> NoReturn:
    msg = f"{text}, which is no JSON"
    raise ValueError(msg)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_Number, parse_float=_Number, parse_constant=_no_number
)


def json_object(body: bytes) -> dict[str, Any]:
    """Return a message's object; its numbers are texts of a type of their own.

    Raises:
        Rejection: if the bytes are no UTF-8, no JSON, or no object.
    """
    try:
        found = _DECODER.decode(body.decode())
    except (ValueError, RecursionError) as exc:  # UnicodeDecodeError is a ValueError
        why = "arrays or objects too deep" if isinstance(exc, RecursionError) else shown(str(exc))
        raise Rejection(MALFORMED, "$", f"a message must be a JSON object, got {why}") from exc
    if not isinstance(found, dict):
        raise Rejection(MALFORMED, "$", f"a message must be a JSON object, got {shown(_came(found))}")
    return found


def _keys(body: bytes) -> list[str] | None:
    """Return the keys of an object in their order, or None if it is none."""
    try:
        return list(json_object(body))
    except Rejection:
        return None


def json_row(schema: EventSchema, body: bytes) -> dict[str, Any]:
    """Return the physical values of one message, read alone.

    Raises:
        Rejection: if it is no JSON object, lacks a required field, or one has a value of another type.
    """
    return json_values(schema.fields, json_object(body))


def json_values(fields: Iterable[Field], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the physical values of some fields from an object of `json_object`.

    Raises:
        Rejection: if it lacks a required one, or one has a value of another type.
    """
    row: dict[str, Any] = {}
    for field in fields:
        if field.name not in found and not field.type.nullable:
            detail = f"{field} must be {field.type}, got no key {field.name!r}"
            raise Rejection(INVALID, f"$.{field.name}", detail)
        row[field.name] = _value(field, found.get(field.name))
    return row


def _value(field: Field, value: Any) -> Any:  # noqa: ANN401  # JSON
    """Return a physical value."""
    read = None if value is None else _READ[field.type.dtype](field, value)
    if read is None and value is not None:
        raise Rejection.of(field, _came(value))
    return read


def _came(value: object) -> str:
    """Return a value as it stood in the text, or nearly so."""
    if isinstance(value, _Number):
        return str(value)
    try:
        return json.dumps(value)
    except RecursionError:
        return "arrays or objects too deep"


def _text(_: Field, value: object) -> str | None:
    if type(value) is not str:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, as an escape
        return None
    return value


def json_integer(value: object) -> int | None:
    """Return a number of `json_object` that is an integer of 64 bits; None for everything else."""
    if not isinstance(value, _Number) or len(value) > 20 or not value.removeprefix("-").isdecimal():
        return None
    return int(value) if int(value) in _INT64 else None


def _integer(_: Field, value: object) -> int | None:
    return json_integer(value)


def _float(_: Field, value: object) -> float | None:
    return float(value) if isinstance(value, _Number) else None


def _bool(_: Field, value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _time(field: Field, value: object) -> int | None:
    if isinstance(value, _Number):
        return _integer(field, value)
    if not isinstance(value, str) or _TIME.fullmatch(value) is None:
        return None
    try:
        return to_us(datetime.fromisoformat(value.upper()))
    except (ValueError, OverflowError):
        return None


def _decimal(field: Field, value: object) -> int | None:
    number = parse_decimal(value) if isinstance(value, str) else None
    if number is None:
        return None
    unscaled = exact_unscaled(number, field.type.precision, field.type.scale)
    if unscaled is None:
        detail = f"{field} must fit {field.type} exactly, got {shown(str(value))}"
        raise Rejection(INVALID, f"$.{field.name}", detail)
    return unscaled


_READ = {
    DType.STRING: _text,
    DType.INT64: _integer,
    DType.FLOAT64: _float,
    DType.BOOL: _bool,
    DType.DATETIME: _time,
    DType.DECIMAL: _decimal,
}
