"""The schema registry of a cluster, over HTTP: the REST API of Confluent's, which others speak too.

A topic's values have the subject `<topic>-value` there, as Confluent's serializers name it.
"""

from __future__ import annotations

import base64
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from typing_extensions import override

from streamfti.errors import ContractError, StoreError, StoreUnavailable
from streamfti.stores.schemas.port import (
    MAX_SCHEMA_ID,
    RegisteredSchema,
    SchemaKind,
    SchemaRegistry,
    registered_schema,
)

__all__ = ["HttpSchemaRegistry"]

_TIMEOUT_S = 10.0
_MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
_SUFFIX = "-value"
_KINDS: dict[str, SchemaKind] = {"AVRO": "avro", "JSON": "json", "PROTOBUF": "protobuf"}
_NAMES = {kind: name for name, kind in _KINDS.items()}


class _Refused(Exception):
    """The registry answered with an error of the 4xx kind."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status
        self.said = said


class HttpSchemaRegistry(SchemaRegistry):
    """Schemas in a registry that many clusters and languages share. Safe for many threads.

    That an id names one schema for ever, and that a registered one survives a crash, is the registry's promise; what
    has been read once is not asked for again.

    Args:
        url: `http://` or `https://`, with user and password if the registry asks for them.

    Raises:
        StoreError: if the URL is another; from the methods also StoreUnavailable, if there is no answer.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            msg = "a schema registry must be a URL such as http://registry:8081, got another"
            raise StoreError(msg)
        host = parts.netloc.rpartition("@")[2]
        self._url = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
        self._headers = {"Accept": _MEDIA_TYPE, "Content-Type": _MEDIA_TYPE}
        if parts.username is not None:
            secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(secret).decode()}"
        self._known: dict[int, RegisteredSchema] = {}

    @override
    def register(self, subject: str, schema: Mapping[str, Any] | str, kind: SchemaKind = "avro") -> int:
        wanted = registered_schema(subject, schema, kind)
        body = {"schema": wanted.text, "schemaType": _NAMES[kind]}
        try:
            answer = self._ask(f"/subjects/{_name(subject)}/versions", body)
        except _Refused as exc:
            msg = f"the schema registry must take the schema of subject {subject!r}, got {exc.status}: {exc.said}"
            hint = "its level of compatibility forbids the change" if exc.status == http.HTTPStatus.CONFLICT else ""
            raise ContractError(msg, hint=hint) from exc
        return self._integer(answer, "id")

    @override
    def schema(self, schema_id: int) -> dict[str, Any]:
        return self.registered(schema_id).document()

    @override
    def registered(self, schema_id: int) -> RegisteredSchema:
        if schema_id not in self._known:
            self._known[schema_id] = self._read(schema_id)
        return self._known[schema_id]

    def _read(self, schema_id: int) -> RegisteredSchema:
        msg = f"schema id must be a registered one, got {schema_id}"
        if not 1 <= schema_id <= MAX_SCHEMA_ID:
            raise ContractError(msg, hint=f"ids are from 1 to {MAX_SCHEMA_ID}")
        try:
            answer = self._ask(f"/schemas/ids/{schema_id}")
        except _Refused as exc:
            raise ContractError(msg, hint=f"{self._url} says: {exc.said}") from exc
        kind = _KINDS.get(answer.get("schemaType", "AVRO")) if isinstance(answer, dict) else None
        if kind is None or not isinstance(answer.get("schema"), str):
            raise self._unreadable(answer)
        try:
            schema = answer["schema"] if kind == "protobuf" else json.loads(answer["schema"])
        except ValueError as exc:
            raise self._unreadable(answer) from exc
        # An Avro schema may be a bare name; what reads it says that it is no record.
        is_json = kind != "protobuf" and not isinstance(schema, dict)
        return RegisteredSchema(kind, answer["schema"]) if is_json else registered_schema("read", schema, kind)

    @override
    def subjects(self) -> dict[str, tuple[int, ...]]:
        try:
            names = [str(n).removesuffix(_SUFFIX) for n in self._ask("/subjects") if str(n).endswith(_SUFFIX)]
            return {name: self._ids(name) for name in names}
        except _Refused as exc:
            msg = f"the schema registry at {self._url} must tell its subjects, got {exc.status}: {exc.said}"
            raise StoreError(msg) from exc

    def _ids(self, subject: str) -> tuple[int, ...]:
        path = f"/subjects/{_name(subject)}/versions"
        return tuple(self._integer(self._ask(f"{path}/{int(version)}"), "id") for version in self._ask(path))

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401  # JSON
        """Send a request, and return the JSON of the answer.

        Raises:
            _Refused: if the registry says that the request is wrong.
            StoreUnavailable: if it does not answer, or says that it cannot.
            StoreError: if the answer is no JSON, or it wants another user.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, self._headers)  # noqa: S310  # http or https, as checked
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310  # as above
                return json.loads(answer.read())
        except urllib.error.HTTPError as exc:
            raise self._error(exc) from exc
        except (OSError, http.client.HTTPException) as exc:  # URLError and time-outs are OSErrors
            msg = f"the schema registry at {self._url} must answer, got {exc}"
            raise StoreUnavailable(msg, hint="is it running there?") from exc
        except ValueError as exc:
            raise self._unreadable(exc) from exc

    def _error(self, answer: urllib.error.HTTPError) -> Exception:
        try:
            said = str(json.loads(answer.read())["message"])
        except (ValueError, KeyError, TypeError, OSError):
            said = answer.reason
        if answer.code in {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}:
            return StoreError(f"the schema registry at {self._url} must let us in, got {answer.code}: {said}")
        if answer.code >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            return StoreUnavailable(f"the schema registry at {self._url} must answer, got {answer.code}: {said}")
        return _Refused(answer.code, said)

    def _integer(self, answer: Any, key: str) -> int:  # noqa: ANN401  # JSON
        try:
            return int(answer[key])
        except (KeyError, TypeError, ValueError) as exc:
            raise self._unreadable(answer) from exc

    def _unreadable(self, answer: object) -> StoreError:
        msg = f"the schema registry at {self._url} must answer as Confluent's does, got {str(answer)[:80]!r}"
        return StoreError(msg)


def _name(subject: str) -> str:
    return quote(f"{subject}{_SUFFIX}", safe="")
