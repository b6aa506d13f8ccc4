"""What a source's format means for its schema, its messages, and what its dead letters say."""

from __future__ import annotations

import decimal
import importlib.resources
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import pytest
from google.protobuf import descriptor_pb2

import streamfti as fti
from streamfti.clock import to_us
from streamfti.definitions.sources import WireFormat
from streamfti.errors import DefinitionError
from streamfti.feature_pipeline.avro_schema import frame_message
from streamfti.feature_pipeline.batches import DeadLetter, Message, MessageBatch
from streamfti.feature_pipeline.decoding import EventDecoder
from streamfti.feature_pipeline.encoding import event_encoder, wire_schema
from streamfti.feature_pipeline.protobuf_schema import message_class, proto_text
from streamfti.stores.schemas.file_registry import FileSchemaRegistry

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
NOW_US = to_us(NOW)
FORMATS: tuple[WireFormat, ...] = ("avro", "json", "protobuf")


class Payment(fti.Event):
    at: fti.EventTime
    card: str
    items: int
    amount: Annotated[decimal.Decimal, fti.Decimal(6, 2)]
    rate: float | None
    paid: bool | None


PAYMENT = Payment(at=NOW, card="ä", items=3, amount=decimal.Decimal("1.50"), rate=None, paid=True)


def source(name: WireFormat) -> fti.KafkaSource:
    return fti.KafkaSource("payments", Payment, format=name)


def letter_of(folder: Path, name: WireFormat, value: bytes | None) -> DeadLetter:
    batch = MessageBatch(source(name), [Message(0, 7, NOW_US, None, value)], {0: 8})
    found = EventDecoder(FileSchemaRegistry(folder)).decode(batch)
    assert found.frame.is_empty()
    (letter,) = found.dead_letters
    return letter


def test_a_format_is_one_of_three() -> None:
    assert fti.KafkaSource("payments", Payment).format == "avro"
    with pytest.raises(DefinitionError, match=r"format of source 'payments' must be avro, json or protobuf, got 'xml'"):
        fti.KafkaSource("payments", Payment, format="xml")  # type: ignore[arg-type]  # what is tested


def test_names_are_those_that_the_format_knows() -> None:
    odd = type("Odd", (fti.Event,), {"__annotations__": {"at": fti.EventTime, "größe": int}, "__module__": __name__})
    assert fti.KafkaSource("odd", odd, format="json").schema.name == "Odd"
    others: tuple[WireFormat, ...] = ("avro", "protobuf")
    for name in others:
        with pytest.raises(DefinitionError, match=r"must be of ASCII letters, got 'größe'"):
            fti.KafkaSource("odd", odd, format=name)


@pytest.mark.parametrize("name", FORMATS)
def test_the_schema_is_registered_in_the_format_and_the_event_comes_back(tmp_path: Path, name: WireFormat) -> None:
    registry = FileSchemaRegistry(tmp_path)
    value = event_encoder(source(name), registry)(PAYMENT)
    assert registry.registered(1).kind == name
    batch = EventDecoder(registry).decode(MessageBatch(source(name), [Message(0, 0, NOW_US, None, value)], {0: 1}))
    assert not batch.dead_letters
    assert batch.frame.select(list(PAYMENT.values())).rows() == [tuple(PAYMENT.values().values())]


def test_json_is_readable_by_anybody(tmp_path: Path) -> None:
    value = event_encoder(source("json"), FileSchemaRegistry(tmp_path))(PAYMENT)
    assert value.decode() == (
        '{"at":"2026-05-01T12:00:00+00:00","card":"ä","items":3,"amount":"1.50","rate":null,"paid":true}'
    )
    schema = wire_schema(source("json"))
    assert isinstance(schema, dict)
    assert schema["required"] == ["at", "card", "items", "amount"]
    assert schema["properties"]["rate"] == {"type": ["number", "null"]}


def test_the_proto_text_is_that_of_the_message_that_is_decoded(tmp_path: Path) -> None:
    """Compiled by the compiler that users have; comments and names of the compiler's own making aside."""
    path, found = tmp_path / "payment.proto", tmp_path / "found"
    path.write_text(proto_text(source("protobuf").schema))
    include = importlib.resources.files("grpc_tools") / "_proto"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{tmp_path}", f"-I{include}", f"--descriptor_set_out={found}",
         str(path)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    (compiled,) = descriptor_pb2.FileDescriptorSet.FromString(found.read_bytes()).file
    ours = descriptor_pb2.DescriptorProto()
    message_class(source("protobuf").schema).DESCRIPTOR.CopyToProto(ours)
    for field in compiled.message_type[0].field:
        field.ClearField("json_name")
    for field in ours.field:
        field.ClearField("json_name")
    assert compiled.message_type[0] == ours
    assert compiled.package == "streamfti.events"
    assert "  optional string amount = 4;  // decimal(6, 2) as text, such as 0.15; required\n" in path.read_text()


JSON = {"at": NOW_US, "card": "c", "items": 3, "amount": "1.50"}


@pytest.mark.parametrize(
    ("value", "reason", "path", "detail"),
    [
        (None, "malformed", "$", "got an empty message"),
        (b"", "malformed", "$", "got an empty message"),
        (b"{", "malformed", "$", "must be a JSON object, got Expecting"),
        (b"[1]", "malformed", "$", "must be a JSON object, got ["),
        (b'"\xff"', "malformed", "$", "can't decode byte 0xff"),
        (b'{"a": 1, "a": 2}', "malformed", "$", "the key a twice in one object"),
        (b'{"a": NaN}', "malformed", "$", "NaN, which is no JSON"),
        (b"{} {}", "malformed", "$", "Extra data"),
        (b"[" * 100_000, "malformed", "$", "too deep"),
        (b"\x00\xff\xff\xff\xff{}", "malformed", "$", "a schema id must be at most"),
        ({"items": 3.5}, "invalid", "$.items", "Payment.items must be int64, got 3.5"),
        ({"items": 3.0}, "invalid", "$.items", "Payment.items must be int64, got 3.0"),
        ({"items": "3"}, "invalid", "$.items", 'Payment.items must be int64, got "3"'),
        ({"items": 2**63}, "invalid", "$.items", "got 9223372036854775808"),
        ({"items": True}, "invalid", "$.items", "got true"),
        ({"items": None}, "invalid", "$.items", "Payment.items must be int64, got null"),
        ({"card": 5}, "invalid", "$.card", "Payment.card must be string, got 5"),
        ({"card": "\ud800"}, "invalid", "$.card", "Payment.card must be string"),
        ({"card": {"a": "x" * 500}}, "invalid", "$.card", "(509 characters)"),
        ({"amount": 1.005}, "invalid", "$.amount", "Payment.amount must fit decimal(6, 2) exactly, got 1.005"),
        ({"amount": "a lot"}, "invalid", "$.amount", "Payment.amount must be decimal(6, 2), got"),
        ({"rate": "1.5"}, "invalid", "$.rate", 'Payment.rate must be float64 or null, got "1.5"'),
        ({"paid": 1}, "invalid", "$.paid", "Payment.paid must be bool or null, got 1"),
        ({"at": "2026-05-01T12:00:00"}, "invalid", "$.at", 'Payment.at must be datetime, got "2026-05-01T12:00:00"'),
        ({"at": -1}, "invalid", "$.at", "must be from 1970 on and before the year 10000, got 1969-12-31T23:59:59.9"),
        ({"at": NOW_US + 10**9}, "future", "$.at", "at most 30 s ahead of the broker, got 2026-05-01T12:16:40"),
    ],
)  # fmt: skip
def test_json_that_is_no_event_says_where_and_what_came(
    tmp_path: Path, value: bytes | dict[str, object] | None, reason: str, path: str, detail: str
) -> None:
    data = json.dumps({**JSON, **value}).encode() if isinstance(value, dict) else value
    letter = letter_of(tmp_path, "json", data)
    assert (letter.reason, letter.path) == (reason, path)
    assert detail in letter.detail


def test_json_without_a_required_key_says_which(tmp_path: Path) -> None:
    letter = letter_of(tmp_path, "json", json.dumps({k: v for k, v in JSON.items() if k != "items"}).encode())
    assert (letter.reason, letter.path, letter.schema_id) == ("invalid", "$.items", None)
    assert letter.detail == "Payment.items must be int64, got no key 'items'"


def test_the_id_of_framed_json_is_kept(tmp_path: Path) -> None:
    value = frame_message(41, json.dumps(JSON).encode())
    batch = MessageBatch(source("json"), [Message(0, 0, NOW_US, None, value)] * 1, {0: 1})
    assert EventDecoder(FileSchemaRegistry(tmp_path)).decode(batch).frame["_schema_id"].to_list() == [41]
    assert letter_of(tmp_path, "json", frame_message(41, b"{}")).schema_id == 41


@pytest.mark.parametrize(
    ("value", "reason", "path", "detail"),
    [
        (None, "malformed", "$", "got an empty message"),
        (b"\x00\x00\x00\x00\x01", "malformed", "$", "a message index, got 5 bytes"),
        (frame_message(1, b"\x80"), "malformed", "$", "a whole message index"),
        (frame_message(1, b"\xfe\x7f"), "malformed", "$", "at most 64 indexes"),
        (frame_message(1, b"\x00\xff"), "malformed", "$", "the body must be Protobuf, got 1 bytes"),
        (frame_message(1, b"\x00"), "invalid", "$.at", "Payment.at must be datetime, got null"),
        (frame_message(1, b"\x00\x22\x011"), "invalid", "$.at", "got null"),
        (frame_message(1, b"\x00\x22\x01x"), "invalid", "$.amount", "must fit decimal(6, 2) exactly, got x"),
    ],
)
def test_protobuf_that_is_no_event_says_where_and_what_came(
    tmp_path: Path, value: bytes | None, reason: str, path: str, detail: str
) -> None:
    letter = letter_of(tmp_path, "protobuf", value)
    assert (letter.reason, letter.path) == (reason, path)
    assert detail in letter.detail


def test_a_message_may_stand_anywhere_in_its_proto_file(tmp_path: Path) -> None:
    """The indexes 1, 0: the first message inside of the second."""
    first = event_encoder(source("protobuf"), FileSchemaRegistry(tmp_path))(PAYMENT)
    nested = first[:5] + b"\x04\x02\x00" + first[6:]
    batch = MessageBatch(
        source("protobuf"), [Message(0, i, NOW_US, None, v) for i, v in enumerate((first, nested))], {0: 2}
    )
    assert EventDecoder(FileSchemaRegistry(tmp_path)).decode(batch).frame["items"].to_list() == [3, 3]
