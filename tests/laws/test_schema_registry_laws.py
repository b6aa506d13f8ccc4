"""What every schema registry promises, wherever it keeps its schemas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from streamfti.errors import ContractError
from streamfti.stores.schemas.opening import open_schema_registry
from streamfti.stores.schemas.port import MAX_SCHEMA_ID, RegisteredSchema, SchemaKind, SchemaRegistry
from tests.servers.schema_registry import running_schema_registry

Open = Callable[[], SchemaRegistry]
"""Makes one more registry on the same schemas, as another process would."""

SCHEMA: dict[str, Any] = {"type": "record", "name": "Payment", "fields": [{"name": "cents", "type": "long"}]}
PROTO = 'syntax = "proto3";\nmessage Payment {\n  optional int64 cents = 1;  // ä\n}\n'


def schema(number: int) -> dict[str, Any]:
    return {**SCHEMA, "doc": str(number)}


@pytest.fixture(params=["files", "http"])
def open_registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    if request.param == "files":
        yield lambda: open_schema_registry(None, tmp_path / "schemas")
    else:
        with running_schema_registry() as server:
            yield lambda: open_schema_registry(server.url, tmp_path)


def test_an_id_names_its_schema_for_every_process(open_registry: Open) -> None:
    ids = [open_registry().register("payments", schema(n)) for n in range(4)]
    assert len(set(ids)) == 4
    assert all(1 <= i <= MAX_SCHEMA_ID for i in ids)
    assert [open_registry().schema(i) for i in ids] == [schema(n) for n in range(4)]


def test_the_same_schema_of_a_subject_has_one_id_whatever_the_order_of_its_keys(open_registry: Open) -> None:
    first = open_registry().register("payments", SCHEMA)
    open_registry().register("payments", schema(1))
    assert open_registry().register("payments", dict(reversed(SCHEMA.items()))) == first


def test_subjects_have_their_ids_oldest_first(open_registry: Open) -> None:
    registry = open_registry()
    assert registry.subjects() == {}
    ids = [registry.register("payments", schema(n)) for n in (2, 1)]
    other = registry.register("a/b ä", schema(3))
    registry.register("payments", schema(2))
    assert open_registry().subjects() == {"payments": tuple(ids), "a/b ä": (other,)}


@pytest.mark.parametrize(
    ("kind", "written", "text"),
    [
        ("json", {"type": "object", "$id": "x"}, '{"$id":"x","type":"object"}'),
        ("avro", {"type": "enum", "name": "E", "symbols": []}, '{"name":"E","symbols":[],"type":"enum"}'),
        ("protobuf", PROTO, PROTO),
    ],
)
def test_a_schema_of_any_kind_comes_back(open_registry: Open, kind: SchemaKind, written: Any, text: str) -> None:  # noqa: ANN401  # JSON or text
    schema_id = open_registry().register("payments", written, kind)
    assert open_registry().registered(schema_id) == RegisteredSchema(kind, text)


def test_a_protobuf_schema_is_no_json(open_registry: Open) -> None:
    schema_id = open_registry().register("payments", PROTO, "protobuf")
    with pytest.raises(ContractError, match="must be a JSON object of Avro or JSON Schema, got protobuf"):
        open_registry().schema(schema_id)


def test_a_schema_is_a_copy(open_registry: Open) -> None:
    registry = open_registry()
    schema_id = registry.register("payments", SCHEMA)
    registry.schema(schema_id)["name"] = "changed"
    assert registry.schema(schema_id) == SCHEMA


def test_a_reader_sees_what_is_registered_after_it_was_made(open_registry: Open) -> None:
    registry = open_registry()
    assert registry.subjects() == {}
    assert registry.schema(open_registry().register("payments", SCHEMA)) == SCHEMA


@pytest.mark.parametrize("schema_id", [0, -1, 77, MAX_SCHEMA_ID, 2**31])
def test_an_unknown_id_is_refused(open_registry: Open, schema_id: int) -> None:
    open_registry().register("payments", SCHEMA)
    with pytest.raises(ContractError, match=f"schema id must be a registered one, got {schema_id}"):
        open_registry().registered(schema_id)


@pytest.mark.parametrize(
    ("subject", "wrong", "kind", "message"),
    [
        ("", SCHEMA, "avro", "a subject must have a name"),
        ("payments", {"a": object()}, "avro", "must be a JSON object"),
        ("payments", {"a": float("nan")}, "json", "must be a JSON object"),
        ("payments", SCHEMA, "protobuf", r"must be the text of a \.proto file"),
        ("payments", "", "protobuf", r"must be the text of a \.proto file"),
    ],
)
def test_what_is_no_schema_is_refused(
    open_registry: Open, subject: str, wrong: dict[str, Any] | str, kind: SchemaKind, message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        open_registry().register(subject, wrong, kind)
    assert open_registry().subjects() == {}


def test_registering_at_once_gives_each_schema_one_id(open_registry: Open) -> None:
    def register_all(numbers: list[int]) -> dict[int, int]:
        registry = open_registry()
        return {number: registry.register("payments", schema(number)) for number in numbers}

    numbers = list(range(8))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(register_all, [numbers, numbers[::-1], numbers[4:] + numbers[:4], numbers]))
    assert all(answer == answers[0] for answer in answers)
    assert sorted(open_registry().subjects()["payments"]) == sorted(answers[0].values())
