"""Event schemas as Protobuf: the message that producers compile, its text, and its class in this process.

Every field is `optional`, so that one which was not set is seen, and not read as 0; the event class says which must be
set. Field numbers follow the order of the class: add new fields at its end. Times are microseconds, and decimals are
text, as Protobuf has neither.
"""

from __future__ import annotations

from functools import lru_cache

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.message import Message as ProtobufMessage

from streamfti.definitions.decimals import from_unscaled
from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import EventSchema, Field

__all__ = ["PACKAGE", "message_class", "proto_text"]

PACKAGE = "streamfti.events"

_TYPES: dict[DType, tuple[FieldDescriptorProto.Type.ValueType, str]] = {
    DType.STRING: (FieldDescriptorProto.TYPE_STRING, "string"),
    DType.INT64: (FieldDescriptorProto.TYPE_INT64, "int64"),
    DType.FLOAT64: (FieldDescriptorProto.TYPE_DOUBLE, "double"),
    DType.BOOL: (FieldDescriptorProto.TYPE_BOOL, "bool"),
    DType.DATETIME: (FieldDescriptorProto.TYPE_INT64, "int64"),
    DType.DECIMAL: (FieldDescriptorProto.TYPE_STRING, "string"),
}


def proto_text(schema: EventSchema) -> str:
    """Return the .proto file of an event class."""
    lines = ['syntax = "proto3";', "", f"package {PACKAGE};", "", f"message {schema.name} {{"]
    for number, field in enumerate(schema.fields, 1):
        lines.append(f"  optional {_TYPES[field.type.dtype][1]} {field.name} = {number};  // {_said(field)}")
    return "\n".join([*lines, "}", ""])


def _said(field: Field) -> str:
    kinds = {
        DType.DATETIME: "microseconds since 1970-01-01T00:00:00Z",
        DType.DECIMAL: f"{field.type.required} as text, such as {from_unscaled(15, field.type.scale)}",
    }
    words = [kinds.get(field.type.dtype, ""), "may be absent" if field.type.nullable else "required"]
    return "; ".join(filter(None, words))


@lru_cache(maxsize=256)
def message_class(schema: EventSchema) -> type[ProtobufMessage]:
    """Return the class of an event's message; the same one for the same schema."""
    name = schema.name
    file = FileDescriptorProto(name=f"{name}.proto", package=PACKAGE, syntax="proto3")
    message = file.message_type.add(name=name)
    for place, field in enumerate(schema.fields):
        message.field.add(
            name=field.name,
            number=place + 1,
            type=_TYPES[field.type.dtype][0],
            label=FieldDescriptorProto.LABEL_OPTIONAL,
            proto3_optional=True,
            oneof_index=place,
        )
        message.oneof_decl.add(name=f"_{field.name}")  # what a compiler makes of `optional`
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
