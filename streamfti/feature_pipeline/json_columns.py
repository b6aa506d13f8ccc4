"""Columnar decoding of JSON objects: one regular expression for each order of keys, and columns from its groups.

The expression describes a part of JSON in which there is nothing to misread: the keys in one order, each once, and
values in their plain forms. What it does not match is no verdict: such a message is decoded alone. An engine that
parses JSON into given types was tried and is no match: polars' `json_decode` reads a float into an integer field,
takes the last of two equal keys, and in one run read a tenth of the messages a second.

The orders of keys are learned from the messages; a producer writes few.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

import polars as pl

from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import EventSchema, Field
from streamfti.feature_pipeline.decimal_columns import plain_decimal_pattern, plain_decimals
from streamfti.feature_pipeline.decoded import COLUMNAR_FROM, physical_type, utf8_texts

__all__ = ["JsonColumns"]

_MOST_ORDERS = 16
_SAMPLES = 4
"""So many messages of a batch that no known order matched are looked at for another."""
_BLANK = r"[ \t\n\r]*"
_TEXT = r'"((?:[^"\\\x00-\x1f]|\\[^\x00-\x1f])*)"'
_INTEGER = r"(-?(?:0|[1-9][0-9]{0,17}))"  # 18 digits fit 64 bits
_NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_TIME = (
    r'"((?:19[7-9][0-9]|[2-9][0-9]{3})-[0-9]{2}-[0-9]{2}[T ][0-2][0-9]:[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?'
    r'(?:Z|[+-](?:0[0-9]|1[0-4]):[0-5][0-9]))"'
)
_ANY = rf'(?:"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{{4}}))*"|{_NUMBER}|true|false|null)'
"""A value of a key that the event does not have: anything but arrays and objects."""
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_@$ :.-]+")

Keys = Callable[[bytes], "list[str] | None"]


class JsonColumns:
    """Decodes the messages of one event class, and remembers the orders of keys that it has met.

    Args:
        schema: of the event.
        keys: returns the keys of an object in their order, or None for what is no object.
    """

    def __init__(self, schema: EventSchema, keys: Keys) -> None:
        self._schema = schema
        self._keys = keys
        self._orders: dict[tuple[str, ...], str] = {}

    def decode(self, bodies: Sequence[bytes]) -> tuple[list[pl.DataFrame], list[int]]:
        """Return frames of physical values with the column `_place`, and the places of all other bodies.

        Each body is in one frame, read exactly, or among the others, which are to be decoded alone.
        """
        texts = utf8_texts(pl.Series("text", bodies, pl.Binary))
        left = pl.DataFrame({"_place": pl.Series(range(len(bodies)), dtype=pl.Int64), "text": texts}).drop_nulls()
        not_text = texts.is_null().arg_true().to_list()
        frames: list[pl.DataFrame] = []
        for order, pattern in list(self._orders.items()):
            left = self._matched(order, pattern, left, frames)
        for sample in range(_SAMPLES):
            if left.height < COLUMNAR_FROM:
                break
            learned = self._learned(bodies[left["_place"][left.height * sample // _SAMPLES]])
            if learned is not None:
                left = self._matched(learned, self._orders[learned], left, frames)
        return frames, [*not_text, *left["_place"].to_list()]

    def _learned(self, body: bytes) -> tuple[str, ...] | None:
        """Return the order of the keys of a body if it is new and can be described."""
        order = tuple(self._keys(body) or ())
        required = {f.name for f in self._schema.fields if not f.type.nullable}
        is_plain = all(_PLAIN_KEY.fullmatch(key) for key in order)
        if not order or order in self._orders or not is_plain or not required <= set(order):
            return None
        if len(self._orders) == _MOST_ORDERS:
            del self._orders[next(iter(self._orders))]
        self._orders[order] = _pattern(self._schema, order)
        return order

    def _matched(
        self, order: Sequence[str], pattern: str, left: pl.DataFrame, frames: list[pl.DataFrame]
    ) -> pl.DataFrame:
        """Add a frame of the texts that a pattern matches and whose values could be read; return the others."""
        if left.is_empty():
            return left
        groups = left["text"].str.extract_groups(pattern).struct.unnest()
        is_match = groups.to_series(0).is_not_null()
        groups = groups.filter(is_match)
        columns, is_read = self._columns(order, groups)
        places = left["_place"].filter(is_match)
        frames.append(pl.DataFrame([*columns, places]).filter(is_read))
        return left.filter(~left["_place"].is_in(places.filter(is_read).implode()))

    def _columns(self, order: Sequence[str], groups: pl.DataFrame) -> tuple[list[pl.Series], pl.Series]:
        """Return the columns of the event, in order, and which rows could be read."""
        is_read = pl.Series([True]).new_from_index(0, groups.height)
        fields = {f.name: f for f in self._schema.fields}
        found: dict[str, pl.Series] = {}
        group = 1
        for key in order:
            if key in fields:
                written = [groups.to_series(group + i) for i in range(_GROUPS[fields[key].type.dtype])]
                group += len(written)
                column = _READ[fields[key].type.dtype](fields[key], *written)
                was_written = pl.select(pl.any_horizontal(w.is_not_null() for w in written)).to_series()
                is_read &= column.is_not_null() | ~was_written
                found[key] = column
        return [self._column(f, found, groups.height) for f in self._schema.fields], is_read

    def _column(self, field: Field, found: dict[str, pl.Series], height: int) -> pl.Series:
        column = found.get(field.name)
        column = pl.Series([None] * height) if column is None else column
        return column.cast(physical_type(field)).alias(field.name)


def _pattern(schema: EventSchema, order: Sequence[str]) -> str:
    fields = {f.name: f for f in schema.fields}
    parts = [
        f'"{re.escape(key)}"{_BLANK}:{_BLANK}{_value_pattern(fields[key]) if key in fields else _ANY}' for key in order
    ]
    return rf"\A{_BLANK}(\{{){_BLANK}" + f"{_BLANK},{_BLANK}".join(parts) + rf"{_BLANK}\}}{_BLANK}\z"


def _value_pattern(field: Field) -> str:
    decimal = f"({plain_decimal_pattern(field.type)})"
    pattern = {
        DType.STRING: _TEXT,
        DType.INT64: _INTEGER,
        DType.FLOAT64: f"({_NUMBER})",
        DType.BOOL: "(true|false)",
        DType.DATETIME: f"(?:{_INTEGER}|{_TIME})",
        DType.DECIMAL: f'(?:{decimal}|"{decimal}")',
    }[field.type.dtype]
    return f"(?:{pattern}|null)" if field.type.nullable else pattern


def _texts(_: Field, written: pl.Series) -> pl.Series:
    """Take the escapes out; null where one is none."""
    places = written.str.contains("\\", literal=True).fill_null(value=False).arg_true()
    if places.is_empty():
        return written
    return written.clone().scatter(places, [_unescaped(text) for text in written.gather(places)])


def _unescaped(text: str) -> str | None:
    try:
        found: str = json.loads(f'"{text}"')
        found.encode()
    except ValueError:  # no such escape, or half of a surrogate pair
        return None
    return found


def _integers(_: Field, written: pl.Series) -> pl.Series:
    return written.cast(pl.Int64)


def _floats(_: Field, written: pl.Series) -> pl.Series:
    return written.cast(pl.Float64, strict=False)


def _bools(_: Field, written: pl.Series) -> pl.Series:
    return written == "true"


def _times(_: Field, micros: pl.Series, iso: pl.Series) -> pl.Series:
    if iso.null_count() == iso.len():
        return micros.cast(pl.Int64)
    with_t = iso.str.replace(" ", "T", literal=True)
    times = with_t.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", time_unit="us", strict=False).to_physical()
    return micros.cast(pl.Int64).fill_null(times)


def _decimals(field: Field, number: pl.Series, text: pl.Series) -> pl.Series:
    return plain_decimals(number.fill_null(text), field.type)


_READ: dict[DType, Callable[..., pl.Series]] = {
    DType.STRING: _texts,
    DType.INT64: _integers,
    DType.FLOAT64: _floats,
    DType.BOOL: _bools,
    DType.DATETIME: _times,
    DType.DECIMAL: _decimals,
}
_GROUPS = {DType.STRING: 1, DType.INT64: 1, DType.FLOAT64: 1, DType.BOOL: 1, DType.DATETIME: 2, DType.DECIMAL: 2}
"""How many groups of the pattern a value may stand in."""
