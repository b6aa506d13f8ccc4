"""The file schema registry gives one id for each schema of a subject, for ever, also to many at once. Real files."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from streamfti.errors import ContractError, CorruptRecord, StoreError
from streamfti.stores.schemas.file_registry import FileSchemaRegistry

SCHEMA = {"type": "record", "name": "Payment", "fields": [{"name": "cents", "type": "long"}]}


def schema(number: int) -> dict[str, object]:
    return {**SCHEMA, "doc": str(number)}


@pytest.fixture
def registry(tmp_path: Path) -> FileSchemaRegistry:
    return FileSchemaRegistry(tmp_path / "schemas")


def test_ids_count_from_one(registry: FileSchemaRegistry) -> None:
    assert [registry.register("payments", schema(n)) for n in range(4)] == [1, 2, 3, 4]


def test_same_schema_has_the_same_id_whatever_the_order_of_its_keys(registry: FileSchemaRegistry) -> None:
    first = registry.register("payments", SCHEMA)
    registry.register("payments", schema(1))
    assert registry.register("payments", dict(reversed(SCHEMA.items()))) == first


def test_subjects_have_ids_of_their_own(registry: FileSchemaRegistry) -> None:
    assert registry.subjects() == {}
    registry.register("payments", SCHEMA)
    registry.register("refunds", SCHEMA)
    registry.register("payments", schema(1))
    assert registry.subjects() == {"payments": (1, 3), "refunds": (2,)}


def test_another_process_reads_what_was_registered(registry: FileSchemaRegistry, tmp_path: Path) -> None:
    schema_id = registry.register("payments", SCHEMA)
    other = FileSchemaRegistry(tmp_path / "schemas")
    assert other.schema(schema_id) == SCHEMA
    assert other.register("payments", SCHEMA) == schema_id


def test_reader_sees_what_is_registered_after_it_was_made(registry: FileSchemaRegistry, tmp_path: Path) -> None:
    other = FileSchemaRegistry(tmp_path / "schemas")
    assert other.subjects() == {}
    assert other.schema(registry.register("payments", SCHEMA)) == SCHEMA


def test_schema_is_a_copy(registry: FileSchemaRegistry) -> None:
    schema_id = registry.register("payments", SCHEMA)
    registry.schema(schema_id)["name"] = "changed"
    assert registry.schema(schema_id) == SCHEMA


@pytest.mark.parametrize("schema_id", [0, -1, 2, 2**31])
def test_unknown_id_is_refused(registry: FileSchemaRegistry, schema_id: int) -> None:
    registry.register("payments", SCHEMA)
    with pytest.raises(ContractError, match=rf"must be a registered one, got {schema_id} .*: 1, from 1 on"):
        registry.schema(schema_id)


@pytest.mark.parametrize(
    ("subject", "wrong", "message"),
    [
        ("", SCHEMA, "a subject must have a name"),
        ("payments", {"a": object()}, "must be a JSON object"),
        ("payments", {"a": float("nan")}, "must be a JSON object"),
    ],
)
def test_what_is_no_schema_is_refused(
    registry: FileSchemaRegistry, subject: str, wrong: dict[str, object], message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        registry.register(subject, wrong)
    assert registry.subjects() == {}


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"id": 2, "subject": "a", "schema": {}}', '{"id": 1, "subject": ""}']
)
def test_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "1.json").write_text(content)
    with pytest.raises(CorruptRecord, match=rf"schema file {tmp_path}/1\.json must be whole and well-formed"):
        FileSchemaRegistry(tmp_path).schema(1)


def test_removed_file_is_named_and_its_id_is_not_given_again(registry: FileSchemaRegistry, tmp_path: Path) -> None:
    for number in range(3):
        registry.register("payments", schema(number))
    (tmp_path / "schemas/2.json").unlink()
    other = FileSchemaRegistry(tmp_path / "schemas")
    with pytest.raises(CorruptRecord, match=r"2\.json must exist, as .*3\.json does"):
        other.register("payments", schema(9))


def test_what_a_killed_process_left_is_no_schema(registry: FileSchemaRegistry, tmp_path: Path) -> None:
    registry.register("payments", SCHEMA)
    (tmp_path / "schemas/.2.json.tmp-0123456789abcdef").write_text("{")
    assert FileSchemaRegistry(tmp_path / "schemas").register("payments", schema(1)) == 2


def test_registration_leaves_only_the_schemas(registry: FileSchemaRegistry, tmp_path: Path) -> None:
    registry.register("payments", SCHEMA)
    registry.register("payments", SCHEMA)
    (path,) = (tmp_path / "schemas").iterdir()
    assert json.loads(path.read_text()) == {"id": 1, "subject": "payments", "schema": SCHEMA}


def test_root_that_is_a_file_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "schemas").write_text("")
    registry = FileSchemaRegistry(tmp_path / "schemas")
    with pytest.raises(StoreError, match="cannot create"):
        registry.register("payments", SCHEMA)
    with pytest.raises(StoreError, match="cannot list"):
        registry.subjects()


def register_all(root: Path, numbers: list[int]) -> dict[int, int]:
    registry = FileSchemaRegistry(root)
    return {number: registry.register("payments", schema(number)) for number in numbers}


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_registering_at_once_gives_each_schema_one_id(tmp_path: Path, kind: str) -> None:
    numbers = list(range(20))
    orders = [numbers, numbers[::-1], numbers[10:] + numbers[:10], numbers[::2] + numbers[1::2]]
    pool = (
        ThreadPoolExecutor(4)
        if kind == "threads"
        else ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn"))
    )
    with pool:
        answers = list(pool.map(register_all, [tmp_path] * 4, orders))
    assert all(answer == answers[0] for answer in answers)
    assert sorted(answers[0].values()) == list(range(1, 21))
    assert FileSchemaRegistry(tmp_path).subjects() == {"payments": tuple(range(1, 21))}
