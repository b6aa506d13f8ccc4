"""Each message has exactly one outcome in each wire format, and the columnar decoders give what the references give."""

from __future__ import annotations

import decimal
import json
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import streamfti as fti
from streamfti.clock import from_us, to_us
from streamfti.definitions.sources import WireFormat
from streamfti.feature_pipeline.avro_schema import avro_schema, frame_message
from streamfti.feature_pipeline.batches import EventBatch, Message, MessageBatch
from streamfti.feature_pipeline.decoded import COLUMNAR_FROM
from streamfti.feature_pipeline.decoding import EventDecoder
from streamfti.feature_pipeline.encoding import event_encoder
from streamfti.feature_pipeline.json_columns import JsonColumns
from streamfti.stores.schemas.file_registry import FileSchemaRegistry
from streamfti.testing.strategies import event_streams

NOW_US = to_us(datetime(2026, 5, 1, 12, tzinfo=UTC))
FORMATS: tuple[WireFormat, ...] = ("avro", "json", "protobuf")
QUICK = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)


class Reading(fti.Event):
    at: fti.EventTime
    sensor: str
    count: int | None
    level: float
    is_ok: bool
    price: Annotated[decimal.Decimal, fti.Decimal(6, 2)]
    rate: Annotated[decimal.Decimal, fti.Decimal(4, 4)] | None
    seen: datetime | None
    note: str | None


SOURCES = {name: fti.KafkaSource(f"readings-{name}", Reading, format=name) for name in FORMATS}
REGISTRY = FileSchemaRegistry(Path(tempfile.mkdtemp()))
SCHEMA_ID = REGISTRY.register("readings", avro_schema(SOURCES["avro"].schema))


def decode(source: fti.KafkaSource, values: Sequence[bytes | None], decoder: EventDecoder | None = None) -> EventBatch:
    messages = [Message(0, offset, NOW_US, None, value) for offset, value in enumerate(values)]
    decoder = EventDecoder(REGISTRY) if decoder is None else decoder
    return decoder.decode(MessageBatch(source, messages, {0: len(messages)}))


def one_by_one(source: fti.KafkaSource, values: Sequence[bytes | None]) -> list[tuple[Any, ...]]:
    """Return for each value its row or its reason and path, each decoded alone."""
    found: list[tuple[Any, ...]] = []
    for value in values:
        batch = decode(source, [value])
        fields = batch.frame.drop("_offset").rows()
        found += fields or [(letter.reason, letter.path) for letter in batch.dead_letters]
    return found


def together(source: fti.KafkaSource, values: Sequence[bytes | None]) -> list[tuple[Any, ...]]:
    """Return the same for the values in one batch, large enough for the columnar decoders."""
    copies = -(-COLUMNAR_FROM // max(1, len(values)))
    batch = decode(source, list(values) * copies)
    outcomes: dict[int, tuple[Any, ...]] = {}
    for row, offset in zip(batch.frame.drop("_offset").rows(), batch.frame["_offset"], strict=True):
        assert outcomes.setdefault(offset, row) is row
    for letter in batch.dead_letters:
        assert letter.message.offset not in outcomes
        assert letter.detail
        outcomes[letter.message.offset] = (letter.reason, letter.path)
    assert sorted(outcomes) == list(range(len(values) * copies))
    first = [outcomes[offset] for offset in range(len(values))]
    assert [outcomes[offset] for offset in sorted(outcomes)] == first * copies
    return first


FRAMED = st.binary(max_size=24).map(lambda body: frame_message(SCHEMA_ID, body))


@pytest.mark.parametrize("name", FORMATS)
@given(st.lists(st.none() | st.binary(max_size=30) | FRAMED, min_size=1, max_size=4))
@QUICK
def test_any_bytes_whatever_have_one_outcome(name: WireFormat, values: list[bytes | None]) -> None:
    assert together(SOURCES[name], values) == one_by_one(SOURCES[name], values)


EVENTS = event_streams(Reading, st.integers(0, 2**50), max_size=5)
ENCODERS = {name: event_encoder(source, REGISTRY) for name, source in SOURCES.items()}


@pytest.mark.parametrize("name", FORMATS)
@given(EVENTS)
@QUICK
def test_an_event_is_decoded_as_it_was_made(name: WireFormat, events: list[fti.Event]) -> None:
    values = [ENCODERS[name](event) for event in events]
    assert [row[:-3] for row in together(SOURCES[name], values)] == [tuple(e.values().values()) for e in events]


@pytest.mark.parametrize("name", FORMATS)
@given(EVENTS, st.data())
@QUICK
def test_damaged_events_have_the_outcome_that_they_have_alone(
    name: WireFormat, events: list[fti.Event], data: st.DataObject
) -> None:
    values = []
    for event in events:
        value = bytearray(ENCODERS[name](event))
        place = data.draw(st.integers(0, len(value) - 1))
        match data.draw(st.sampled_from(("keep", "change", "cut", "insert"))):
            case "change":
                value[place] = data.draw(st.sampled_from(b'"\\,:{}0-.eE \x00\x7f\xff') | st.integers(0, 255))
            case "cut":
                del value[place : place + data.draw(st.integers(1, 4))]
            case "insert":
                value[place:place] = data.draw(st.binary(max_size=3))
        values.append(bytes(value))
    assert together(SOURCES[name], values) == one_by_one(SOURCES[name], values)


NUMBERS = st.sampled_from([
    "0", "-0", "-0.0", "1", "1.0", "01", "1e2", "1E-2", ".5", "5.", "+1", "1e400", "-1e400", "0.1",
    "9223372036854775807", "9223372036854775808", "-9223372036854775808", "999999999999999999",
    "111111111111111111111111111111", "9999.99", "10000", "1.005", "1.10", "1.100", "NaN", "Infinity", "-Infinity",
    "0.99999", "0.9999", "179769313486231580793e289", "2.5e-324", "123456789.123456789", "4.35",
    "2.2250738585072011e-308", "5e-324",
])  # fmt: skip
TIMES = st.sampled_from([
    "2026-05-01T12:00:00Z", "2026-05-01T12:00:00+02:00", "2026-05-01T12:00:00.123456Z",
    "2026-05-01T12:00:00.1234567Z", "2026-05-01t12:00:00z", "2026-05-01T12:00:00", "2026-02-30T12:00:00Z",
    "2026-05-01T24:00:00Z", "2024-02-29T00:00:00.5-00:30", "2026-05-01T12:00:60Z", "1969-12-31T23:59:59Z",
    "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "2026-05-01T12:00Z",
    "2026-05-01", "2026-05-01T12:00:00+14:59", "2026-05-01 12:00:00Z",
])  # fmt: skip
TEXTS = st.text(st.characters(codec="utf-8"), max_size=4) | st.sampled_from(["\\", '"', "\ud800", "\x00", "\x7f", "ä"])
QUOTED = st.one_of(
    TEXTS.map(json.dumps),
    TEXTS.filter(lambda t: t != "\ud800").map(lambda t: json.dumps(t, ensure_ascii=False)),
    st.sampled_from(['"\\x"', '"\\u12"', '"\\ud83d\\ude00"', '"\\/"', '"\t"', "'a'"]),
    NUMBERS.map(lambda n: f'"{n}"'),
    TIMES.map(json.dumps),
)
ANYTHING = st.one_of(
    NUMBERS, QUOTED, st.sampled_from(["true", "false", "null", "[]", "{}", '{"a":1,"a":2}', "[1]", "", "True"])
)
GOOD = {
    "at": TIMES.map(json.dumps) | st.just(str(NOW_US)), "sensor": QUOTED, "count": NUMBERS, "level": NUMBERS,
    "is_ok": st.sampled_from(["true", "false"]), "price": NUMBERS | NUMBERS.map(json.dumps),
    "rate": NUMBERS | st.just("null"), "seen": TIMES.map(json.dumps) | st.just("null"),
    "note": QUOTED | st.just("null"),
}  # fmt: skip
PLAIN = {"at": str(NOW_US), "sensor": '"s"', "count": "3", "level": "0.5", "is_ok": "true", "price": "1.5"}


@st.composite
def json_texts(draw: st.DrawFn) -> bytes:
    """Return nearly JSON objects of nearly readings."""
    values = dict(PLAIN)
    for name in draw(st.lists(st.sampled_from(sorted(GOOD)), max_size=2)):
        values[name] = draw(st.one_of(GOOD[name], ANYTHING))
    pairs = list(values.items())
    if draw(st.booleans()):
        extra = draw(st.sampled_from(["more", "a.b", "k$", "count", "sensor", "ä", "\\u0061t"]))
        pairs.insert(draw(st.integers(0, len(pairs))), (extra, draw(ANYTHING)))
    if draw(st.booleans()):
        pairs = draw(st.permutations(pairs))
    if draw(st.integers(0, 5)) == 0:
        pairs = pairs[1:]
    blank = draw(st.sampled_from(["", " ", "\n\t ", "\u00a0"]))
    inside = f"{blank},".join(f'"{key}"{blank}:{value}' for key, value in pairs)
    after = draw(st.sampled_from(["", "", "", "x", "{}", " ", "\x00", ","]))
    text = f"{blank}{{{inside}{blank}}}{after}".encode(errors="surrogatepass")
    before = draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\x00\x00\x00\x00\x05", b"\x00\xff\xff\xff\xff"]))
    return before + text


@given(st.lists(json_texts(), min_size=1, max_size=5))
@settings(QUICK, max_examples=300)
def test_json_in_columns_is_json_one_by_one(values: list[bytes]) -> None:
    assert together(SOURCES["json"], values) == one_by_one(SOURCES["json"], values)


@given(EVENTS.filter(bool))
@QUICK
def test_what_producers_write_is_read_in_columns(events: list[fti.Event]) -> None:
    """Also with escapes, and when what is read first is no JSON."""
    values = [b"{", *[ENCODERS["json"](event) for event in events] * COLUMNAR_FROM]
    columns = JsonColumns(SOURCES["json"].schema, lambda body: None if body == b"{" else list(json.loads(body)))
    frames, left = columns.decode(values)
    assert left == [0]
    assert sum(frame.height for frame in frames) == len(values) - 1


def test_what_a_decoder_has_learned_changes_no_outcome() -> None:
    """Orders of keys, one after the other, through one decoder, beyond those that it remembers."""
    decoder, source = EventDecoder(REGISTRY), SOURCES["json"]
    for first in range(40):
        pairs = [f'"x{first}": 1', *(f'"{k}": {v}' for k, v in PLAIN.items())]
        value = f"{{{', '.join(pairs)}}}".encode()
        batch = decode(source, [value] * COLUMNAR_FROM, decoder)
        assert batch.frame["price"].to_list() == [decimal.Decimal("1.50")] * COLUMNAR_FROM
        assert_frame_equal(batch.frame, decode(source, [value] * COLUMNAR_FROM).frame)
    assert from_us(NOW_US) == batch.frame["at"][0]
