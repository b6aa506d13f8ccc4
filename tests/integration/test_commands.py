"""The commands on real servers: from a new project to features online, and what goes wrong on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
import redis
from click.testing import CliRunner, Result
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from streamfti.cli import main
from streamfti.clock import SystemClock
from streamfti.definitions.catalog import load_catalog
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.sources import KafkaSource
from streamfti.dev.kafka_broker import KafkaServer
from streamfti.dev.process import free_port
from streamfti.dev.redis_server import RedisServer
from streamfti.errors import FencedWriter
from streamfti.feature_pipeline.materialize import materialize
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.online.keys import progress_key, record_prefix
from streamfti.stores.online.progress import Progress

T = TypeVar("T")

_WAIT_S = 60.0


class Eventually(Protocol):
    """As in conftest."""

    def __call__(self, predicate: Callable[[], T], within: float = 10.0) -> T: ...


@dataclass(frozen=True)
class Project:
    """A project as `init` writes it, on a topic of its own."""

    folder: Path
    topic: str
    environ: dict[str, str]
    online: redis.Redis

    @property
    def definitions(self) -> Path:
        return self.folder / "definitions.py"

    @property
    def source(self) -> KafkaSource:
        return load_catalog(self.definitions).source(self.topic)

    @property
    def group(self) -> FeatureGroup:
        return load_catalog(self.definitions).group("CardSpend")

    @property
    def log(self) -> OfflineLog:
        return OfflineLog(self.folder / "home" / "log")

    def _words(self, arguments: Sequence[str]) -> list[str]:
        n = 2 if arguments[0] == "run" else 1
        return [*arguments[:n], str(self.definitions), *arguments[n:]]

    def invoke(self, *arguments: str, stdin: bytes | None = None) -> Result:
        """Run a command in this process; it gets the definition file."""
        return CliRunner().invoke(main, self._words(arguments), env=dict(self.environ), input=stdin)

    def done(self, *arguments: str, stdin: bytes | None = None) -> Result:
        """Run a command that must succeed."""
        result = self.invoke(*arguments, stdin=stdin)
        assert result.exit_code == 0, result.output
        return result

    def produce(self, *arguments: str) -> Result:
        return self.done("produce", "--source", self.topic, str(self.folder / "events.jsonl"), *arguments)

    def catch_up(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads(self.done("run", "features", "--until-caught-up", "--json").stdout)
        return summary

    def records(self) -> dict[bytes, bytes]:
        """Return the stored records of the group, by key."""
        prefix = record_prefix(self.group)
        values: dict[bytes, Any] = {
            key: self.online.get(key) for key in self.online.scan_iter() if key.startswith(prefix)
        }
        return values

    def progress(self) -> dict[int, Progress]:
        found: dict[int, Any] = {p: self.online.get(progress_key(self.group, p)) for p in range(4)}
        return {p: Progress.load(value) for p, value in found.items() if value is not None}

    @contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Run a command in a process of its own, which is gone afterwards."""
        words = [sys.executable, "-m", "streamfti.cli", *self._words(arguments)]
        environ = {**os.environ, **self.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(words, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def project(tmp_path: Path, kafka: KafkaServer, redis_server: RedisServer, redis_client: redis.Redis) -> Project:
    assert CliRunner().invoke(main, ["init", str(tmp_path)]).exit_code == 0
    topic = f"payments-{os.urandom(6).hex()}"
    path = tmp_path / "definitions.py"
    path.write_text(path.read_text().replace('KafkaSource("payments"', f'KafkaSource("{topic}"'))
    environ = {
        "STREAMFTI_HOME": str(tmp_path / "home"),
        "REDIS_URL": redis_server.url,
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
    }
    return Project(tmp_path, topic, environ, redis_client)


@pytest.fixture
def applied(project: Project) -> Project:
    project.done("apply")
    return project


def test_from_a_new_project_to_features_online(project: Project) -> None:
    created = project.done("apply", "--partitions", "3").stdout
    assert [line.split()[:3] for line in created.splitlines()] == [
        ["created", "topic", project.topic],
        ["created", "topic", f"{project.topic}.dead-letters"],
        ["created", "schema", project.topic],
        ["created", "group", "CardSpend"],
    ]
    assert project.produce().stdout.startswith(f"1,000 events to {project.topic} in ")
    with project.started("run", "features", "--until-caught-up", "--json") as process:
        out, _ = process.communicate(timeout=_WAIT_S)
    assert process.returncode == 0
    summary = json.loads(out)
    assert (summary["events"], summary["dead_letters"]) == (1000, 0)
    assert summary["sources"] == {project.topic: {"events": 1000, "dead_letters": 0}}

    logged = project.log.read(project.source)
    lines = [json.loads(line) for line in (project.folder / "events.jsonl").read_text().splitlines()]
    assert sorted(logged["amount_cents"].to_list()) == sorted(line["amount_cents"] for line in lines)
    cards = {line["card"] for line in lines}
    assert {key.rpartition(b":")[2].decode() for key in project.records()} == cards
    assert {p: progress.next_offset for p, progress in project.progress().items()} == project.log.positions(
        project.source
    )


def test_apply_again_changes_nothing(applied: Project) -> None:
    again = applied.done("apply", "--partitions", "9").stdout.splitlines()
    assert [line.split()[0] for line in again] == ["exists"] * 4
    assert "partitions: 4" in again[0]
    document = json.loads(applied.done("apply", "--json").stdout)
    assert {item["is_new"] for item in document} == {False}
    assert [item["kind"] for item in document] == [line.split()[1] for line in again]


def test_topic_configuration_reaches_the_broker_or_is_refused_by_it(project: Project) -> None:
    project.done("apply", "--partitions", "1", "--topic-config", "retention.ms=604800000")
    admin = AdminClient({"bootstrap.servers": project.environ["KAFKA_BOOTSTRAP_SERVERS"]})
    assert len(admin.list_topics(timeout=10).topics[project.topic].partitions) == 1


def test_plan_follows_apply(project: Project) -> None:
    def state() -> tuple[int, str]:
        plan = json.loads(project.done("plan", "--json").stdout)
        return plan["sources"][0]["partitions"], plan["groups"][0]["state"]

    assert state() == (0, "new")
    project.done("apply")
    assert state() == (4, "same")


def test_a_changed_meaning_is_refused_and_leaves_nothing_behind(applied: Project) -> None:
    text = applied.definitions.read_text()
    other = text.replace('KafkaSource("payments-', 'KafkaSource("other-')
    largest = "largest_cents = fti.max(Payment.amount_cents).over"
    applied.definitions.write_text(other.replace(f'{largest}("24h"', f'{largest}("12h"'))
    plan = applied.invoke("plan", "--json")
    assert plan.exit_code == 1
    assert json.loads(plan.stdout)["groups"][0]["state"] == "changed"
    assert plan.stderr.splitlines()[1] == "hint: set version=2 for the changed group"
    refused = applied.invoke("apply")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: feature group 'CardSpend' version 1 must keep its meaning")
    assert json.loads(plan.stdout)["sources"][0]["partitions"] == 0
    assert json.loads(applied.invoke("plan", "--json").stdout)["sources"][0]["partitions"] == 0


@pytest.mark.parametrize("engine", ["bytewax", "plain"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_with_everything_durable(
    applied: Project, eventually: Eventually, engine: str, number: signal.Signals
) -> None:
    with applied.started("run", "features", "--engine", engine, "--log-max-age", "1d") as process:
        applied.produce()
        eventually(lambda: sum(p.next_offset for p in applied.progress().values()) == 1000, _WAIT_S)
        assert applied.log.positions(applied.source) == {}
        process.send_signal(number)
        out, err = process.communicate(timeout=_WAIT_S)
    assert process.returncode == 0, err
    assert out.startswith("1,000 events and 0 dead letters in ")
    assert err.startswith(f"reading {applied.topic}: partition 0 from the oldest, 1 from")
    assert applied.log.read(applied.source).height == 1000


def test_a_run_shows_its_metrics(applied: Project) -> None:
    applied.produce()
    with applied.started("run", "features", "--metrics-port", "0") as process:
        assert process.stderr is not None
        process.stderr.readline()
        line = process.stderr.readline()
        assert line.startswith("metrics at http://127.0.0.1:")
        with urllib.request.urlopen(line.split()[2], timeout=10) as answer:  # noqa: S310  # its own address
            assert b"streamfti_events_total" in answer.read()


def test_a_port_that_is_taken_is_one_line(applied: Project, redis_server: RedisServer) -> None:
    result = applied.invoke("run", "features", "--until-caught-up", "--metrics-port", str(redis_server.port))
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "hint: --metrics-port 0 takes a free port"


@pytest.mark.parametrize("command", [("run", "features"), ("apply",)])
@pytest.mark.parametrize("variable", ["REDIS_URL", "KAFKA_BOOTSTRAP_SERVERS"])
def test_a_server_that_does_not_answer_is_one_line(applied: Project, command: tuple[str, ...], variable: str) -> None:
    where = f"127.0.0.1:{free_port()}"
    applied.environ[variable] = f"redis://:hidden@{where}/0" if variable == "REDIS_URL" else where
    clock = SystemClock()
    began = clock.monotonic()
    with applied.started(*command) as process:
        out, err = process.communicate(timeout=_WAIT_S)
    assert (process.returncode, out) == (1, "")
    first, second = err.splitlines()
    assert first.startswith("error: the ")
    assert where in first
    assert "hidden" not in err
    assert "`streamfti dev up` starts one" in second
    assert clock.monotonic() - began < 20


def test_a_run_without_topics_says_what_to_do(project: Project) -> None:
    result = project.invoke("run", "features")
    assert result.exit_code == 1
    assert "hint: `streamfti apply` creates the topics of a definition file" in result.stderr


def test_names_that_are_not_defined_are_told(applied: Project) -> None:
    for arguments in (
        ("run", "features", "--source", f"{applied.topic}x"),
        ("produce", "--source", f"{applied.topic}x", "-"),
        ("materialize", "--group", "CardSpent"),
    ):
        result = applied.invoke(*arguments)
        assert result.exit_code == 1
        assert result.stderr.splitlines()[1].startswith("hint: did you mean ")
    result = applied.invoke("produce", "--source", applied.topic, "-", "--key", "crad")
    assert result.stderr.splitlines()[1] == "hint: did you mean 'card'?"


_GOOD = b'{"card": "c", "merchant": "m", "amount_cents": 5, "at": "2026-01-31T12:00:00Z"}\n'
_BAD = b'{"card": "c", "merchant": "m", "amount_cents": "5", "at": "2026-01-31T12:00:00Z"}\n'


def test_produce_stops_at_a_line_that_is_no_event(applied: Project) -> None:
    result = applied.invoke("produce", "--source", applied.topic, "-", stdin=_GOOD + _GOOD + _BAD + _GOOD)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "error: line 3: Payment.amount_cents must be int64, got '5'\n"
        "hint: the 2 events before it were sent; --skip-invalid leaves such rows out\n"
    )
    assert applied.catch_up()["events"] == 2


def test_produce_can_leave_out_what_is_no_event(applied: Project) -> None:
    result = applied.done("produce", "--source", applied.topic, "-", "--skip-invalid", stdin=_BAD + _GOOD + _BAD)
    assert result.stdout.endswith("; 2 rows were no events and were left out\n")
    assert applied.catch_up()["events"] == 1


def test_history_carries_its_event_time_as_the_brokers(applied: Project) -> None:
    applied.done("produce", "--source", applied.topic, "-", "--ingest-time-from-event", "--key", "card", stdin=_GOOD)
    applied.catch_up()
    frame = applied.log.read(applied.source)
    assert frame["_ingest_time_us"].to_list() == frame["at"].to_physical().to_list()


def test_a_rate_is_kept(applied: Project) -> None:
    clock = SystemClock()
    began = clock.monotonic()
    applied.done("produce", "--source", applied.topic, "-", "--rate", "50/s", stdin=_GOOD * 26)
    assert clock.monotonic() - began >= 0.5


def _send_raw(project: Project, partition: int, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": project.environ["KAFKA_BOOTSTRAP_SERVERS"]})
    producer.produce(project.topic, value=value, partition=partition)
    assert producer.flush(30) == 0


@pytest.fixture
def streamed(applied: Project) -> Project:
    """Entities over all partitions, several commits of the log, and dead letters at the end of two partitions."""
    for _ in range(3):
        applied.produce()
        applied.catch_up()
    _send_raw(applied, 1, b"no event")
    _send_raw(applied, 2, b"no event either")
    assert applied.catch_up()["dead_letters"] == 2
    return applied


def _without_processing_time(progress: dict[int, Progress]) -> dict[int, tuple[int, int, int]]:
    return {p: (v.next_offset, v.newest_event_time_us, v.newest_ingest_time_us) for p, v in progress.items()}


def test_materialize_gives_what_the_stream_gave_byte_for_byte(streamed: Project) -> None:
    records, progress = streamed.records(), streamed.progress()
    assert len(records) == 20
    streamed.online.flushall()
    refused = streamed.invoke("run", "features", "--until-caught-up")
    assert refused.exit_code == 1
    assert "--group CardSpend` once" in refused.stderr

    result = streamed.done("materialize", "--group", "CardSpend")
    assert result.stdout.startswith("CardSpend: 3,000 events; the stream goes on in partition 0 from ")
    assert streamed.records() == records
    assert _without_processing_time(streamed.progress()) == _without_processing_time(progress)
    assert {p: v.next_offset for p, v in streamed.progress().items()} == streamed.log.positions(streamed.source)
    assert all(streamed.online.pttl(key) > 0 for key in records)

    assert streamed.catch_up()["events"] == 0
    streamed.produce()
    assert streamed.catch_up()["events"] == 1000
    through_stream = streamed.records()
    streamed.done("materialize", "--group", "CardSpend", "--force-rebuild")
    assert streamed.records() == through_stream


def test_materialize_refuses_a_group_with_values_and_touches_nothing(streamed: Project) -> None:
    records, progress = streamed.records(), streamed.progress()
    result = streamed.invoke("materialize", "--group", "CardSpend")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[1].endswith("use --force-rebuild to fill it anew")
    for partition in progress:
        streamed.online.delete(progress_key(streamed.group, partition))
    assert streamed.invoke("materialize", "--group", "CardSpend").exit_code == 1
    assert streamed.records() == records


def test_materialize_of_an_empty_log_deletes_nothing(streamed: Project, tmp_path: Path) -> None:
    records = streamed.records()
    streamed.environ["STREAMFTI_HOME"] = str(tmp_path / "wrong")
    result = streamed.invoke("materialize", "--group", "CardSpend", "--force-rebuild")
    assert result.exit_code == 1
    assert "is --home the right folder?" in result.stderr
    assert streamed.records() == records


@pytest.mark.parametrize("chunk_rows", [1, 97, 10_000])
def test_the_size_of_chunks_makes_no_difference(streamed: Project, chunk_rows: int) -> None:
    records, progress = streamed.records(), streamed.progress()
    seen: list[int] = []
    materialize(
        streamed.group,
        streamed.log,
        redis_url=streamed.environ["REDIS_URL"],
        clock=SystemClock(),
        force_rebuild=True,
        chunk_rows=chunk_rows,
        on_progress=lambda done, of: seen.append(of - done),
    )
    assert streamed.records() == records
    assert _without_processing_time(streamed.progress()) == _without_processing_time(progress)
    assert seen == sorted(set(seen), reverse=True)
    assert seen[-1] == 0


class _Killed(Exception):
    """Stands for the end of the process."""


def test_a_materialize_that_was_cut_short_is_refused_by_all_but_a_rebuild(streamed: Project) -> None:
    records = streamed.records()
    streamed.online.flushall()

    def die(_done: int, _of: int) -> None:
        raise _Killed

    with pytest.raises(_Killed):
        materialize(
            streamed.group,
            streamed.log,
            redis_url=streamed.environ["REDIS_URL"],
            clock=SystemClock(),
            chunk_rows=50,
            on_progress=die,
        )
    assert set(streamed.progress()) == {0}
    for command in (("run", "features"), ("materialize", "--group", "CardSpend")):
        assert streamed.invoke(*command).exit_code == 1
    streamed.done("materialize", "--group", "CardSpend", "--force-rebuild")
    assert streamed.records() == records


def test_a_materialize_that_died_at_its_very_end_is_whole_for_nobody(streamed: Project) -> None:
    """All partitions have begun, so nothing but the mark of the filling tells that something may be missing."""
    records = streamed.records()
    streamed.online.flushall()

    def die_at_the_end(done: int, of: int) -> None:
        if done == of:
            raise _Killed

    with pytest.raises(_Killed):
        materialize(
            streamed.group,
            streamed.log,
            redis_url=streamed.environ["REDIS_URL"],
            clock=SystemClock(),
            on_progress=die_at_the_end,
        )
    for words in (("run", "features"), ("serve", "--port", "0"), ("apply",), ("verify",)):
        refused = streamed.invoke(*words)
        assert refused.exit_code == 1, words
        assert "must be whole, but filling it has not ended" in refused.stderr
        assert "--group CardSpend --force-rebuild" in refused.stderr
    assert streamed.invoke("materialize", "--group", "CardSpend").exit_code == 1
    streamed.done("materialize", "--group", "CardSpend", "--force-rebuild")
    assert streamed.records() == records
    assert streamed.catch_up()["events"] == 0


def test_no_pipeline_starts_while_a_group_is_filled(streamed: Project) -> None:
    streamed.online.flushall()
    refused: list[int] = []

    def start_one(_done: int, _of: int) -> None:
        refused.append(streamed.invoke("run", "features", "--until-caught-up").exit_code)

    materialize(
        streamed.group,
        streamed.log,
        redis_url=streamed.environ["REDIS_URL"],
        clock=SystemClock(),
        on_progress=start_one,
    )
    assert set(refused) == {1}
    assert streamed.catch_up()["events"] == 0


def test_materialize_beside_a_pipeline_of_the_group_is_refused(streamed: Project) -> None:
    records = streamed.records()
    with streamed.started("run", "features") as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("reading ")
        refused = streamed.invoke("materialize", "--group", "CardSpend")
        assert refused.exit_code == 1
        assert "stop its feature pipeline" in refused.stderr
        assert process.poll() is None
        process.terminate()
        process.communicate(timeout=_WAIT_S)
    assert process.returncode == 0
    assert streamed.records() == records


def test_a_writer_that_comes_in_between_fences_materialize(streamed: Project) -> None:
    streamed.online.flushall()
    key = progress_key(streamed.group, 0)

    def intrude(_done: int, _of: int) -> None:
        streamed.online.set(key, Progress(1, 1, 1, 1).dump())

    with pytest.raises(FencedWriter):
        materialize(
            streamed.group,
            streamed.log,
            redis_url=streamed.environ["REDIS_URL"],
            clock=SystemClock(),
            on_progress=intrude,
        )


def test_a_rebuild_fences_a_pipeline_that_runs(streamed: Project, eventually: Eventually) -> None:
    with streamed.started("run", "features") as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("reading ")
        streamed.done("materialize", "--group", "CardSpend", "--force-rebuild")
        streamed.produce()
        eventually(lambda: process.poll() is not None, _WAIT_S)
        rest = process.stderr.read()
    assert process.returncode == 1
    assert "must be the only writer of its partitions" in rest
    assert "Traceback" not in rest
    assert streamed.catch_up()["events"] == 1000
