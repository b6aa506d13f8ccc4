"""A schema registry over HTTP for tests: the part of Confluent's documented REST API that is used, in memory.

It is no Confluent Schema Registry. That one and its like need a Java machine or are on no package index that these
tests may use; what is tested against this one is the protocol as it is documented.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

__all__ = ["SchemaRegistryServer", "running_schema_registry"]


class SchemaRegistryServer(ThreadingHTTPServer):
    """Ids count from 1; one schema has one id, under whatever subjects."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.schemas: list[tuple[str, str]] = []
        self.versions: dict[str, list[int]] = {}
        self.user: str | None = None
        self.broken: tuple[int, bytes] | None = None
        """What is answered to everything, if anything."""
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def register(self, subject: str, kind: str, text: str) -> tuple[int, Any]:
        if kind != "PROTOBUF":
            try:
                json.loads(text)
            except ValueError:
                return 422, {"error_code": 42201, "message": "Invalid schema"}
        with self.lock:
            if any(self.schemas[i - 1][0] != kind for i in self.versions.get(subject, [])):
                return 409, {"error_code": 409, "message": "Schema being registered is incompatible"}
            if (kind, text) not in self.schemas:
                self.schemas.append((kind, text))
            schema_id = self.schemas.index((kind, text)) + 1
            ids = self.versions.setdefault(subject, [])
            if schema_id not in ids:
                ids.append(schema_id)
        return 200, {"id": schema_id}

    def read(self, path: list[str]) -> tuple[int, Any]:
        match path:
            case ["schemas", "ids", number] if 0 < int(number) <= len(self.schemas):
                kind, text = self.schemas[int(number) - 1]
                return 200, {"schema": text} | ({} if kind == "AVRO" else {"schemaType": kind})
            case ["schemas", "ids", _]:
                return 404, {"error_code": 40403, "message": "Schema not found"}
            case ["subjects"]:
                return 200, list(self.versions)
            case ["subjects", subject, "versions"] if subject in self.versions:
                return 200, list(range(1, len(self.versions[subject]) + 1))
            case ["subjects", subject, "versions", number] if subject in self.versions:
                schema_id = self.versions[subject][int(number) - 1]
                answer = {"subject": subject, "version": int(number), "id": schema_id}
                return 200, answer | {"schema": self.schemas[schema_id - 1][1]}
        return 404, {"error_code": 40401, "message": "Subject not found"}


class _Handler(BaseHTTPRequestHandler):
    server: SchemaRegistryServer

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: Any) -> None:  # noqa: ANN401  # JSON
        self.server.requests.append(f"{self.command} {self.path}")
        path = [unquote(part) for part in self.path.strip("/").split("/")]
        if self.server.broken is not None:
            status, data = self.server.broken
        elif self.server.user is not None and not self._is_user():
            status, data = 401, b'{"error_code": 401, "message": "Unauthorized"}'
        elif body is None:
            status, found = self.server.read(path)
            data = json.dumps(found).encode()
        else:
            status, found = self.server.register(path[1], body.get("schemaType", "AVRO"), body["schema"])
            data = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _is_user(self) -> bool:
        kind, _, secret = self.headers.get("Authorization", "").partition(" ")
        return kind == "Basic" and base64.b64decode(secret).decode() == self.server.user

    def log_message(self, *_: object) -> None:
        """Log nothing: tests look at `requests`."""


@contextmanager
def running_schema_registry() -> Iterator[SchemaRegistryServer]:
    """Run a registry on a free port while the block runs."""
    with SchemaRegistryServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
