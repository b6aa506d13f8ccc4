"""A few hundred entities of odd keys on a real Redis: written as the pipeline does, read as serving does, deleted."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import redis

import streamfti as fti
from streamfti.clock import ManualClock, to_us
from streamfti.compute.point_in_time import point_in_time
from streamfti.compute.stored_state import stored_state
from streamfti.definitions.groups import FeatureGroup
from streamfti.dev.redis_server import RedisServer
from streamfti.feature_pipeline.group_state import GroupState
from streamfti.inference_pipeline.feature_reader import FeatureReader
from streamfti.inference_pipeline.request_contract import QueryTime, RequestContract
from streamfti.inference_pipeline.tables import InputColumn
from streamfti.stores.online.keys import progress_key
from streamfti.stores.online.meaning import register_group
from streamfti.stores.online.progress import Progress
from streamfti.stores.online.redis_store import OnlineReader, OnlineWriter, delete_values, has_values
from streamfti.testing.event_frames import event_frame, frame_schema
from streamfti.testing.naive import PlacedEvent

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
TEXTS = [
    "", " ", "\0", "\0\0", "\n", "\r\n", "$3\r\nabc\r\n", "*1\r\n", "0", "-0", "1", "true", "null", ":", "1:", ":1",
    "1:a", "1:a1:b", "{", "}", "{a}", "{a}:e:", "*", "?", "[a-z]", "\\", "\\*", "fti:", "e:", "p:0", "meta", "é",
    "e\u0301", "ß", "ss", "ẞ", "😀", "👩👧", "\u202eabc", "\ufeff", "\uffff", "\U0010ffff", "ﷺ", "'; drop", '"',
    "k" * 10_240, "k" * 10_239, "é" * 5_120,
]  # fmt: skip
NUMBERS = [0, 1, -1, 10, 2**63 - 1, -(2**63)]


class Visit(fti.Event):
    at: fti.EventTime
    person: str
    place: int
    cents: int


visits = fti.KafkaSource("visits", Visit)


@fti.feature_group(source=visits, entity="person")
class ByPerson:
    n = fti.count().over("1h")
    last = fti.last(Visit.cents).over("1h")


@fti.feature_group(source=visits, entity=("person", "place"))
class ByBoth:
    n = fti.count().over("1h")
    last = fti.last(Visit.cents).over("1h")


GROUPS: list[Any] = [ByPerson, ByBoth]  # mypy ignores what class decorators return


def test_every_entity_is_read_as_it_was_written_and_none_for_another(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    entities = list(itertools.product(TEXTS, NUMBERS))
    events = [
        PlacedEvent(Visit(at=NOW - timedelta(minutes=i % 50 + 1), person=text, place=number, cents=i), 0, i)
        for i, (text, number) in enumerate(entities)
    ]
    frame = event_frame(visits.schema, events, ingest_time_us=to_us(NOW))
    for group in GROUPS:
        write(redis_server.url, group, frame)

    service = fti.FeatureService("s", GROUPS)
    online = OnlineReader(redis_server.url)
    columns: dict[str, list[Any]] = {
        "person": [text for text, _ in entities],
        "place": [number for _, number in entities],
    }
    given = {name: InputColumn.of(name, values) for name, values in columns.items()}
    table = RequestContract.of_service(service).check(given)
    served = FeatureReader(service, online).read(table, QueryTime.of(None, ManualClock(NOW))).matrix.by_name()
    online.close()

    schema = frame_schema(visits.schema)
    keys = pl.DataFrame(columns, schema={name: schema[name] for name in columns})
    at_us = np.full(len(entities), to_us(NOW), np.int64)
    for group in GROUPS:
        for name, expected in point_in_time(group, group.features, frame, keys, at_us).items():
            assert served[name].values.tolist() == expected.values.tolist(), name
            assert served[name].status.tolist() == expected.status.tolist(), name
    assert served["ByBoth.last_1h"].values.tolist() == list(range(len(entities)))
    assert served["ByPerson.n_1h"].values.tolist() == [len(NUMBERS)] * len(entities)

    records = sum(1 for key in redis_client.scan_iter(count=1000) if b":e:" in key[: key.index(b"}") + 4])
    assert records == len(TEXTS) + len(entities)
    deleted = delete_values(redis_server.url, GROUPS[0])
    assert deleted == len(TEXTS) + 1  # and the progress
    assert not has_values(redis_server.url, GROUPS[0])
    assert has_values(redis_server.url, GROUPS[1])


def write(url: str, group: FeatureGroup, frame: pl.DataFrame) -> None:
    register_group(url, group, stored_state(group))
    writer = OnlineWriter(url, [progress_key(group, 0)])
    change = GroupState(group, writer.read).apply(frame, to_us(NOW))
    progress = {progress_key(group, 0): Progress(frame.height, to_us(NOW) - 1, to_us(NOW), to_us(NOW))}
    writer.commit(change.slots, change.expiries_ms, progress)
    writer.close()
