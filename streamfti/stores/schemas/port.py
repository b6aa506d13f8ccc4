"""What a schema registry promises: writer schemas by small numbers, which messages carry. No driver here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from streamfti.errors import ContractError

__all__ = ["MAX_SCHEMA_ID", "RegisteredSchema", "SchemaKind", "SchemaRegistry", "registered_schema"]

MAX_SCHEMA_ID = 2**31 - 1
"""Ids are a big-endian int32 in Confluent's wire format."""


SchemaKind = Literal["avro", "json", "protobuf"]
"""The language that a schema is written in."""


@dataclass(frozen=True, slots=True)
class RegisteredSchema:
    """A schema as text: canonical JSON of Avro or JSON Schema, or a .proto file."""

    kind: SchemaKind
    text: str

    def document(self) -> dict[str, Any]:
        """Return the JSON of an Avro or a JSON schema.

        Raises:
            ContractError: if it is another.
        """
        try:
            found = json.loads(self.text)
        except ValueError:
            found = None
        if self.kind == "protobuf" or not isinstance(found, dict):
            msg = f"the schema must be a JSON object of Avro or JSON Schema, got {self.kind}: {self.text[:80]!r}"
            raise ContractError(msg)
        return found


def registered_schema(subject: str, schema: Mapping[str, Any] | str, kind: SchemaKind) -> RegisteredSchema:
    """Return a schema in its one form, or refuse it.

    Raises:
        ContractError: if the subject has no name, a Protobuf schema is no text, or another is no JSON object.
    """
    if not subject:
        msg = "a subject must have a name, got ''"
        raise ContractError(msg, hint="the subject of a topic's values is the topic")
    if kind == "protobuf":
        if not isinstance(schema, str) or not schema:
            msg = f"the Protobuf schema of subject {subject!r} must be the text of a .proto file, got {schema!r}"
            raise ContractError(msg)
        return RegisteredSchema(kind, schema)
    try:
        text = json.dumps(dict(schema), sort_keys=True, separators=(",", ":"), allow_nan=False)  # type: ignore[arg-type]
    except (TypeError, ValueError) as exc:
        msg = f"the schema of subject {subject!r} must be a JSON object, got: {exc}"
        raise ContractError(msg) from exc
    return RegisteredSchema(kind, text)


class SchemaRegistry(Protocol):
    """Numbers the schemas of subjects.

    Guarantees: ids are from 1 to `MAX_SCHEMA_ID`; an id names one schema for ever; the same schema of the same subject
    has one id, however many processes register it at once; after `register` has returned, the schema survives a crash.
    """

    def register(self, subject: str, schema: Mapping[str, Any] | str, kind: SchemaKind = "avro") -> int:
        """Return the id of a schema; a new one if the subject does not have the schema yet.

        Two schemas are the same when their JSON is, whatever the order of the keys.

        Args:
            subject: the topic whose values have the schema.
            schema: JSON; of Protobuf, the text of the .proto file.
            kind: the language of the schema.

        Raises:
            ContractError: if the schema is none, the subject has no name, or the registry refuses the schema, such as
                one that is not compatible with the subject's others.
            StoreError: if the registry cannot be read or written.
        """
        ...

    def schema(self, schema_id: int) -> dict[str, Any]:
        """Return the JSON of an Avro or JSON schema by its id, in a copy of its own.

        Raises:
            ContractError: if nothing has that id, or it is a Protobuf schema.
            StoreError: if the registry cannot be read.
        """
        ...

    def registered(self, schema_id: int) -> RegisteredSchema:
        """Return the schema of an id, whatever its kind.

        Raises:
            ContractError: if nothing has that id.
            StoreError: if the registry cannot be read.
        """
        ...

    def subjects(self) -> dict[str, tuple[int, ...]]:
        """Return the ids of each subject, oldest first.

        Raises:
            StoreError: if the registry cannot be read.
        """
        ...
