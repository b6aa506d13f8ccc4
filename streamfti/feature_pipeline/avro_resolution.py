"""Schema evolution: how what somebody wrote with an Avro schema becomes the fields of an event.

A writer may have more fields, in any order, and other types where Avro promotes them: int as long, int, long and
float as double, bytes as string; also an enum as a string, milliseconds as a time, and decimals of other digits,
whose values are judged one by one. A field that the writer lacks is null where it may be; otherwise the whole schema
is refused. A field is found by its name, or by an alias that the writer gave it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fastavro
import fastavro.types

from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import EventSchema, Field
from streamfti.feature_pipeline.decoded import SCHEMA, Rejection, shown

__all__ = ["ResolvedField", "ResolvedWriter", "record_of", "resolve_writer", "without_logical_types"]

_READABLE: Mapping[DType, frozenset[str]] = {
    DType.STRING: frozenset({"string", "bytes", "enum"}),
    DType.INT64: frozenset({"int", "long"}),
    DType.FLOAT64: frozenset({"int", "long", "float", "double"}),
    DType.BOOL: frozenset({"boolean"}),
    DType.DATETIME: frozenset({"timestamp-micros", "timestamp-millis"}),
    DType.DECIMAL: frozenset({"decimal"}),
}
_COLUMNAR = frozenset({"string", "bytes", "int", "long", "float", "double", "boolean", "enum"})
_MEANT = ("timestamp-", "local-timestamp-", "time-", "date", "decimal", "duration")
"""Logical types that are not to be read as the number or the bytes beneath; others, such as uuid, may be ignored."""


@dataclass(frozen=True, slots=True)
class ResolvedField:
    """Where the values of one field of an event come from.

    Attributes:
        field: the event's field.
        written: the name of the writer's; None if it has none, and all values are null.
        kind: what was written: a word of `_READABLE`.
        scale: of decimals, as written.
        symbols: of enums.
    """

    field: Field
    written: str | None
    kind: str = ""
    scale: int = 0
    symbols: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ResolvedWriter:
    """A writer's schema that can be read as an event.

    Attributes:
        fields: for each field of the event, in order.
        parsed: the schema without logical types, as fastavro reads it.
        container: the schema for the columnar decoder, or None if it has types that cannot be read in columns. Ints
            and enums stand there as longs: their bytes are the same.
    """

    fields: tuple[ResolvedField, ...]
    parsed: fastavro.types.Schema
    container: Mapping[str, Any] | None


def resolve_writer(schema: EventSchema, registered: Any) -> ResolvedWriter:  # noqa: ANN401  # whatever was registered
    """Return how events are read from what was written with a schema.

    Raises:
        Rejection: if it is no Avro record, or a field is missing or of another type.
    """
    plain = without_logical_types(registered)
    try:
        parsed = fastavro.parse_schema(plain)
        named = _named_types(registered)
        written = {f["name"]: f for f in registered["fields"]}
        aliases = {alias: name for name, f in written.items() for alias in f.get("aliases", ())}
    except Exception as exc:  # what somebody registered raises anything
        msg = f"it must be an Avro record schema, got {type(exc).__name__}: {shown(str(exc))}"
        raise Rejection(SCHEMA, "$", msg) from exc
    fields = tuple(
        _resolved(field, written.get(field.name, written.get(aliases.get(field.name, ""))), named)
        for field in schema.fields
    )
    return ResolvedWriter(fields, parsed, _container(plain, named))


def _resolved(field: Field, written: Mapping[str, Any] | None, named: Mapping[str, Any]) -> ResolvedField:
    path = f"$.{field.name}"
    if written is None:
        if field.type.nullable:
            return ResolvedField(field, None)
        raise Rejection(SCHEMA, path, f"it must have the field {field}, which is required")
    members = [_named(member, named) for member in _members(written["type"]) if not _is_null(member)]
    kinds = {_kind(member) for member in members}
    scales = {int(member.get("scale", 0)) for member in members if _kind(member) == "decimal"}
    is_one_unit = field.type.dtype not in {DType.DATETIME, DType.DECIMAL} or len(kinds) == 1
    if not kinds or not kinds <= _READABLE[field.type.dtype] or not is_one_unit or len(scales) > 1:
        got = shown(written["type"])
        raise Rejection(SCHEMA, path, f"field {field} must be written as {_as_written(field)}, got {got}")
    symbols = members[0]["symbols"] if kinds == {"enum"} and len(members) == 1 else ()
    kind = next(iter(kinds)) if len(kinds) == 1 else ""
    return ResolvedField(field, written["name"], kind, scales.pop() if scales else 0, tuple(symbols))


def _as_written(field: Field) -> str:
    return " or ".join(sorted(_READABLE[field.type.dtype]))


def _members(avro_type: Any) -> Sequence[Any]:  # noqa: ANN401  # JSON
    return avro_type if isinstance(avro_type, list) else [avro_type]


def _is_null(member: Any) -> bool:  # noqa: ANN401  # JSON
    return member == "null" or (isinstance(member, dict) and member.get("type") == "null")


def _kind(member: Any) -> str:  # noqa: ANN401  # JSON
    """Return the word for a type that is no union."""
    if not isinstance(member, dict):
        return str(member)
    logical = member.get("logicalType")
    if isinstance(logical, str) and logical.startswith(_MEANT):
        return logical
    return member["type"] if isinstance(member["type"], str) else "nested"


def _named_types(avro_type: Any) -> dict[str, Any]:  # noqa: ANN401  # JSON
    """Return the named types that a schema defines anywhere, by name, with and without their namespace."""
    found: dict[str, Any] = {}
    if isinstance(avro_type, dict):
        if "name" in avro_type and avro_type.get("type") in ("enum", "fixed", "record"):  # not a set: it may be a dict
            name = avro_type["name"]
            found |= {name: avro_type, name.rpartition(".")[2]: avro_type}
            found[f"{avro_type.get('namespace', '')}.{name}"] = avro_type
        for part in (avro_type.get("fields"), avro_type.get("type"), avro_type.get("items"), avro_type.get("values")):
            found |= _named_types(part)
    elif isinstance(avro_type, list):
        for part in avro_type:
            found |= _named_types(part)
    return found


def _named(member: Any, named: Mapping[str, Any]) -> Any:  # noqa: ANN401  # JSON
    """Return what a name stands for; everything else as it is."""
    return named.get(member, member) if isinstance(member, str) else member


def record_of(registered: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the schema of a field of a record that is a record itself, and may be null.

    Raises:
        Rejection: if there is no such field, or it is no record.
    """
    named = _named_types(registered)
    types = {field["name"]: field["type"] for field in registered["fields"]}
    members = [_named(member, named) for member in _members(types.get(name)) if not _is_null(member)]
    if len(members) != 1 or not isinstance(members[0], dict) or members[0].get("type") != "record":
        raise Rejection(SCHEMA, f"$.{name}", f"it must have a record {name!r}, got {shown(types.get(name))}")
    found: Mapping[str, Any] = members[0]
    return found


def _container(plain: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, Any] | None:
    fields = []
    for field in plain["fields"]:
        members = _members(field["type"])
        values = [_kind(without_logical_types(_named(member, named))) for member in members if not _is_null(member)]
        if len(values) != 1 or len(members) > 2 or values[0] not in _COLUMNAR:
            return None
        value = {"int": "long", "enum": "long"}.get(values[0], values[0])
        union = ["null" if _is_null(member) else value for member in members]
        fields.append({"name": field["name"], "type": union if isinstance(field["type"], list) else value})
    return {"type": "record", "name": "Written", "fields": fields}


def without_logical_types(written: Any) -> Any:  # noqa: ANN401  # JSON
    """Times and decimals are read as the numbers and bytes that they are: a datetime cannot hold every long."""
    if isinstance(written, dict):
        return {k: without_logical_types(v) for k, v in written.items() if k != "logicalType"}
    if isinstance(written, list):
        return [without_logical_types(v) for v in written]
    return written
