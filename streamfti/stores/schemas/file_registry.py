"""The schema registry of one machine: `<root>/<id>.json`, one immutable file for each schema."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from typing_extensions import override

from streamfti.errors import ContractError, CorruptRecord, StoreError
from streamfti.stores.offline.durable import create_whole, make_folder, store_errors, sync
from streamfti.stores.schemas.port import (
    MAX_SCHEMA_ID,
    RegisteredSchema,
    SchemaKind,
    SchemaRegistry,
    registered_schema,
)

__all__ = ["FileSchemaRegistry"]


@dataclass(frozen=True, slots=True)
class _Entry:
    subject: str
    schema: RegisteredSchema


class FileSchemaRegistry(SchemaRegistry):
    """Schemas in a local folder, for any number of processes of one machine.

    Ids are claimed in order, without holes: who claims the id n has seen all below it, so no schema gets two ids.
    Files never change, so each is read once.

    Args:
        root: a folder on a file system with hard links; made by the first registration.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._entries: dict[int, _Entry] = {}

    @override
    def register(self, subject: str, schema: Mapping[str, Any] | str, kind: SchemaKind = "avro") -> int:
        """Return the id of a schema; a new one if the subject does not have the schema yet.

        Commit order; a kill after any step leaves a whole registry, and at most a file whose name starts with ".":

        1. Read every schema that is there; one that is the same ends here.
        2. Write the new one under a temporary name and force it to the device.
        3. Give it the lowest free id as its name; if somebody else took that, go back to 1.
        4. Remove the temporary name and force the folder to the device.

        Raises:
            ContractError: if the schema is none, or the subject has no name.
            CorruptRecord: if a file is damaged or missing.
            StoreError: if the folder cannot be read or written, or no id is left.
        """
        wanted = _Entry(subject, registered_schema(subject, schema, kind))
        make_folder(self._root)
        while True:
            known = self._read_all()
            for schema_id, entry in known.items():
                if entry == wanted:
                    sync(self._root)  # the process that created it may not have come to that
                    return schema_id
            if self._create(len(known) + 1, wanted):
                return len(known) + 1

    @override
    def schema(self, schema_id: int) -> dict[str, Any]:
        return self.registered(schema_id).document()

    @override
    def registered(self, schema_id: int) -> RegisteredSchema:
        entry = self._read(schema_id)
        if entry is None:
            msg = f"schema id must be a registered one, got {schema_id}"
            raise ContractError(msg, hint=f"ids in {self._root}: {len(self._read_all())}, from 1 on")
        return entry.schema

    @override
    def subjects(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for schema_id, entry in self._read_all().items():
            found[entry.subject] = (*found.get(entry.subject, ()), schema_id)
        return found

    def _path(self, schema_id: int) -> Path:
        return self._root / f"{schema_id}.json"

    def _create(self, schema_id: int, entry: _Entry) -> bool:
        if schema_id > MAX_SCHEMA_ID:
            msg = f"schema ids must be at most {MAX_SCHEMA_ID}, got no free one"
            raise StoreError(msg)
        schema = entry.schema.text if entry.schema.kind == "protobuf" else entry.schema.document()
        kind = {} if entry.schema.kind == "avro" else {"kind": entry.schema.kind}  # no word means Avro
        content = {"id": schema_id, "subject": entry.subject, "schema": schema, **kind}
        temporary = self._root / f".{schema_id}.json.tmp-{secrets.token_hex(8)}"
        return create_whole(self._path(schema_id), json.dumps(content, sort_keys=True).encode(), temporary=temporary)

    def _read_all(self) -> dict[int, _Entry]:
        """Follow the ids from 1 on. What was listed before must be reached, or a file below it is gone."""
        listed = max(self._listed(), default=0)
        found: dict[int, _Entry] = {}
        while (entry := self._read(len(found) + 1)) is not None:
            found[len(found) + 1] = entry
        if len(found) < listed:
            msg = f"schema file {self._path(len(found) + 1)} must exist, as {self._path(listed)} does, got no such file"
            raise CorruptRecord(msg, hint="restore it from a backup: messages carry its id")
        return found

    def _listed(self) -> list[int]:
        with store_errors("list", self._root):
            try:
                stems = [path.stem for path in self._root.iterdir() if path.suffix == ".json"]
            except FileNotFoundError:
                return []
        return [int(stem) for stem in stems if stem.isdecimal()]

    def _read(self, schema_id: int) -> _Entry | None:
        if schema_id not in self._entries:
            entry = self._load(schema_id)
            if entry is None:
                return None
            self._entries[schema_id] = entry
        return self._entries[schema_id]

    def _load(self, schema_id: int) -> _Entry | None:
        path = self._path(schema_id)
        with store_errors("read", path):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                return None
        try:
            return _checked(schema_id, json.loads(content))
        except (ValueError, TypeError, KeyError, ContractError) as exc:
            msg = f"schema file {path} must be whole and well-formed, got: {exc}"
            raise CorruptRecord(msg, hint="restore it from a backup: messages carry its id") from exc


def _checked(schema_id: int, values: dict[str, Any]) -> _Entry:
    if values["id"] != schema_id:
        msg = f"the id in it must be {schema_id}, got {values['id']!r}"
        raise ValueError(msg)
    kind = values.get("kind", "avro")
    if kind not in get_args(SchemaKind):
        msg = f"the kind in it must be avro, json or protobuf, got {kind!r}"
        raise ValueError(msg)
    return _Entry(values["subject"], registered_schema(values["subject"], values["schema"], kind))
