"""Dead letters on a real broker: listed, shown, and replayed once each, whatever is asked in which order."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result
from confluent_kafka import Producer

from streamfti.cli import main
from streamfti.definitions.catalog import load_catalog
from streamfti.dev.kafka_broker import KafkaServer
from streamfti.dev.redis_server import RedisServer
from streamfti.feature_pipeline.letter_topic import StoredLetter, read_letters
from streamfti.stores.offline.log import OfflineLog

DEFINITIONS = """
import streamfti as fti

class Payment(fti.Event):
    at: fti.EventTime
    card: str
    cents: int{nullable}

payments = fti.KafkaSource("{topic}", Payment, format="json")

@fti.feature_group(source=payments, entity="card")
class Cards:
    n = fti.count().over("5m")
"""
GOOD = {"at": "2026-01-01T12:00:00Z", "card": "c1", "cents": 5}
NULL = {**GOOD, "cents": None}


@dataclass
class Project:
    """A source of JSON events with a pipeline that is run until it has caught up."""

    folder: Path
    topic: str
    bootstrap_servers: str
    redis_url: str

    def define(self, *, nullable: bool) -> None:
        text = DEFINITIONS.format(topic=self.topic, nullable=" | None" if nullable else "")
        (self.folder / "definitions.py").write_text(text)

    def send(self, *values: object) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap_servers})
        for value in values:
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            producer.produce(self.topic, data, key=b"k", partition=1)
        assert producer.flush(30) == 0

    def invoke(self, *words: str) -> Result:
        n = 2 if words[0] in {"run", "dlq"} else 1
        options = {"STREAMFTI_HOME": str(self.folder / "home"), "REDIS_URL": self.redis_url}
        options["KAFKA_BOOTSTRAP_SERVERS"] = self.bootstrap_servers
        return CliRunner().invoke(main, [*words[:n], str(self.folder / "definitions.py"), *words[n:]], env=options)

    def done(self, *words: str) -> Any:  # noqa: ANN401  # JSON
        result = self.invoke(*words, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def run(self) -> None:
        self.done("run", "features", "--until-caught-up")

    def dlq(self, command: str, *words: str) -> Any:  # noqa: ANN401  # JSON
        return self.done("dlq", command, "--source", self.topic, *words)

    def letters(self) -> list[StoredLetter]:
        source = load_catalog(self.folder / "definitions.py").source(self.topic)
        return list(read_letters(self.bootstrap_servers, source))

    def events(self) -> int:
        source = load_catalog(self.folder / "definitions.py").source(self.topic)
        return OfflineLog(self.folder / "home/log").read(source).height


@pytest.fixture
def project(
    tmp_path: Path,
    kafka: KafkaServer,
    make_topic: Callable[..., str],
    redis_client: redis.Redis,
    redis_server: RedisServer,
) -> Project:
    redis_client.ping()  # empty, and there
    topic = make_topic(2, name_hint="payments", config={"retention.ms": "-1"})
    found = Project(tmp_path, topic, kafka.bootstrap_servers, redis_server.url)
    found.define(nullable=False)
    found.done("apply")
    return found


def test_letters_are_counted_and_listed_newest_last(project: Project) -> None:
    project.send(GOOD, b"{", NULL, b"[]", {**GOOD, "cents": "5"})
    project.run()
    found = project.dlq("list")
    assert (found["total"], found["reasons"]) == (4, {"malformed": 2, "invalid": 2})
    assert found["topic"] == f"{project.topic}.dead-letters"
    by_offset = {letter["source_offset"]: letter for letter in found["letters"]}
    assert by_offset[2] == by_offset[2] | {
        "reason": "invalid", "path": "$.cents", "detail": "Payment.cents must be int64, got null",
        "source_partition": 1, "schema_id": None, "replays": 0, "value_bytes": len(json.dumps(NULL)),
    }  # fmt: skip
    assert [x["reason"] for x in project.dlq("list", "--reason", "malformed")["letters"]] == ["malformed"] * 2
    (newest,) = project.dlq("list", "--limit", "1")["letters"]
    assert newest == found["letters"][-1]
    assert project.dlq("list", "--limit", "0")["letters"] == []
    shown = project.invoke("dlq", "list", "--source", project.topic).stdout
    assert f"{project.topic}.dead-letters: 4 dead letters (" in shown
    assert "$.cents" in shown


def test_no_letters_are_none(project: Project) -> None:
    assert project.dlq("list") == {"topic": f"{project.topic}.dead-letters", "total": 0, "reasons": {}, "letters": []}
    assert project.dlq("replay")["replayed"] == {}


def test_a_letter_is_shown_with_what_it_holds(project: Project) -> None:
    project.send(NULL, b"{", b"\xff\x00")
    project.run()
    places = {x["source_offset"]: x["letter"] for x in project.dlq("list")["letters"]}
    shown = project.dlq("show", places[0])
    assert (shown["payload"], shown["key"], shown["path"]) == (NULL, "k", "$.cents")
    assert project.dlq("show", places[1])["payload"] == "{"
    assert project.dlq("show", places[2])["payload"] == "\\xff\x00"
    assert (
        "Payment.cents must be int64, got null"
        in project.invoke("dlq", "show", "--source", project.topic, places[0]).stdout
    )
    missing = project.invoke("dlq", "show", "--source", project.topic, "0/99")
    assert missing.exit_code == 1
    assert "must have the letter 0/99, got none there" in missing.stderr
    assert project.invoke("dlq", "show", "--source", project.topic, "15").exit_code == 2


def test_a_replayed_letter_that_is_valid_now_becomes_an_event_once(project: Project) -> None:
    project.send(NULL, GOOD, NULL)
    project.run()
    assert project.events() == 1
    project.define(nullable=True)  # the definition is put right; its group does not read the field
    log = project.folder / "home/log"
    log.rename(project.folder / "home/old")  # another schema of the log
    assert project.dlq("replay", "--dry-run") == {
        "topic": project.topic, "dry_run": True, "replayed": {"invalid": 2}, "before": {}, "not_chosen": {},
    }  # fmt: skip
    assert project.dlq("replay")["replayed"] == {"invalid": 2}
    second = project.dlq("replay")
    assert (second["replayed"], second["before"]) == ({}, {"invalid": 2})
    text = project.invoke("dlq", "replay", "--source", project.topic).stdout
    assert f"replayed 0 dead letters to {project.topic}" in text
    assert "replayed before, or passed over: 2 (invalid: 2)" in text


def test_a_letter_that_fails_again_is_a_new_one_that_counts_its_replays(project: Project) -> None:
    project.send(b"{", NULL)
    project.run()
    for replays in (1, 2):
        assert project.dlq("replay")["replayed"] == {"malformed": 1, "invalid": 1}
        project.run()
        newest = project.letters()[-2:]
        assert {(x.reason, x.replays, x.key, x.source_partition) for x in newest} == {
            ("malformed", replays, b"k", 1), ("invalid", replays, b"k", 1),
        }  # fmt: skip
        assert {x.value for x in newest} == {b"{", json.dumps(NULL).encode()}
    assert len(project.letters()) == 6


@pytest.mark.parametrize(("header", "replays"), [(b"many", 0), (b"", 0), (None, 0), (b"7", 7), (b"9" * 40, 0)])
def test_a_foreign_header_of_replays_stops_nothing(project: Project, header: bytes | None, replays: int) -> None:
    producer = Producer({"bootstrap.servers": project.bootstrap_servers})
    producer.produce(project.topic, b"{", headers={"streamfti-replays": header, "other": b"x"})
    assert producer.flush(30) == 0
    project.run()
    assert [x.replays for x in project.letters()] == [replays]


def test_reasons_and_ranges_are_replayed_apart(project: Project) -> None:
    project.send(b"{", NULL, b"[", NULL)
    project.run()
    letters = project.letters()
    malformed = [x.offset for x in letters if x.reason == "malformed"]
    first = project.dlq("replay", "--reason", "malformed", "--to-offset", str(malformed[0] + 1))
    assert (first["replayed"], first["not_chosen"]) == ({"malformed": 1}, {"malformed": 1, "invalid": 2})
    assert project.dlq("replay", "--reason", "malformed")["replayed"] == {"malformed": 1}
    assert project.dlq("replay") == {
        "topic": project.topic, "dry_run": False,
        "replayed": {"invalid": 2}, "before": {"malformed": 2}, "not_chosen": {},
    }  # fmt: skip
    assert project.dlq("replay", "--again", "--from-offset", str(malformed[1]), "--reason", "malformed")[
        "replayed"
    ] == {"malformed": 1}
