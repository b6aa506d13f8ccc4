"""What a schema registry promises: writer schemas by small numbers, which messages carry. No driver here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["MAX_SCHEMA_ID", "SchemaRegistry"]

MAX_SCHEMA_ID = 2**31 - 1
"""Ids are a big-endian int32 in Confluent's wire format."""


class SchemaRegistry(Protocol):
    """Numbers the schemas of subjects.

    Guarantees: ids are from 1 to `MAX_SCHEMA_ID`; an id names one schema for ever; the same schema of the same subject
    has one id, however many processes register it at once; after `register` has returned, the schema survives a crash.
    """

    def register(self, subject: str, schema: Mapping[str, Any]) -> int:
        """Return the id of a schema; a new one if the subject does not have the schema yet.

        Two schemas are the same when their JSON is, whatever the order of the keys.

        Raises:
            ContractError: if the schema is no JSON, or the subject has no name.
            StoreError: if the registry cannot be read or written.
        """
        ...

    def schema(self, schema_id: int) -> dict[str, Any]:
        """Return the schema of an id, in a copy of its own.

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
