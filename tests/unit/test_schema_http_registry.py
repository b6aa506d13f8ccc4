"""What the HTTP schema registry asks, and how a registry's refusals and failures come out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streamfti.errors import ContractError, StoreError, StoreUnavailable
from streamfti.stores.schemas.http_registry import HttpSchemaRegistry
from tests.servers.schema_registry import SchemaRegistryServer, running_schema_registry

SCHEMA = {"type": "record", "name": "Payment", "fields": []}


@pytest.fixture
def server() -> Iterator[SchemaRegistryServer]:
    with running_schema_registry() as running:
        yield running


def test_the_subject_is_that_of_the_topics_values(server: SchemaRegistryServer) -> None:
    registry = HttpSchemaRegistry(server.url + "/")
    registry.register("payments", SCHEMA)
    server.register("payments-key", "AVRO", '"string"')
    assert server.requests == ["POST /subjects/payments-value/versions"]
    assert list(registry.subjects()) == ["payments"]


def test_a_schema_is_asked_for_once(server: SchemaRegistryServer) -> None:
    registry = HttpSchemaRegistry(server.url)
    schema_id = registry.register("payments", SCHEMA)
    for _ in range(3):
        assert registry.schema(schema_id) == SCHEMA
    assert server.requests[1:] == [f"GET /schemas/ids/{schema_id}"]


def test_a_schema_that_is_a_bare_name_is_no_object(server: SchemaRegistryServer) -> None:
    server.register("names-value", "AVRO", '"string"')
    with pytest.raises(ContractError, match=r"must be a JSON object of Avro or JSON Schema, got avro: '\"string\"'"):
        HttpSchemaRegistry(server.url).schema(1)


def test_an_incompatible_schema_is_refused_with_the_registrys_word(server: SchemaRegistryServer) -> None:
    registry = HttpSchemaRegistry(server.url)
    registry.register("payments", SCHEMA)
    with pytest.raises(ContractError, match=r"got 409: Schema being registered is incompatible \(its level of compat"):
        registry.register("payments", "syntax", "protobuf")


def test_the_user_is_that_of_the_url_and_stands_in_no_message(server: SchemaRegistryServer) -> None:
    server.user = "me:se cr@t"
    HttpSchemaRegistry(server.url.replace("//", "//me:se%20cr%40t@")).register("payments", SCHEMA)
    with pytest.raises(StoreError, match=r"must let us in, got 401: Unauthorized") as caught:
        HttpSchemaRegistry(server.url.replace("//", "//me:wrong@")).subjects()
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize(
    ("broken", "error", "message"),
    [
        ((500, b'{"error_code": 50001, "message": "Error in the backend"}'), StoreUnavailable, "got 500: Error in the"),
        ((503, b"<html>"), StoreUnavailable, "got 503: Service Unavailable"),
        ((200, b"<html>"), StoreError, "must answer as Confluent's does"),
        ((200, b"[]"), StoreError, "must answer as Confluent's does"),
        ((200, b'{"schema": 7}'), StoreError, "must answer as Confluent's does"),
        ((200, b'{"schema": "{", "schemaType": "AVRO"}'), StoreError, "must answer as Confluent's does"),
        ((200, b'{"schema": "{}", "schemaType": "XML"}'), StoreError, "must answer as Confluent's does"),
    ],
)
def test_a_registry_that_fails_is_a_store_error(
    server: SchemaRegistryServer, broken: tuple[int, bytes], error: type[StoreError], message: str
) -> None:
    server.broken = broken
    with pytest.raises(error, match=message):
        HttpSchemaRegistry(server.url).schema(1)


def test_a_registry_that_does_not_answer_may_be_asked_again(server: SchemaRegistryServer) -> None:
    registry = HttpSchemaRegistry("http://127.0.0.1:9")
    with pytest.raises(StoreUnavailable, match=r"http://127.0.0.1:9 must answer, got .*refused") as caught:
        registry.subjects()
    assert caught.value.retryable
    assert not server.requests


@pytest.mark.parametrize("url", ["registry:8081", "file:///etc/passwd", "http://", ""])
def test_a_registry_is_a_url_of_http(url: str) -> None:
    with pytest.raises(StoreError, match="must be a URL such as http://registry:8081"):
        HttpSchemaRegistry(url)
