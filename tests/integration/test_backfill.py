"""Backfill from the log and from history: a new group or version meets the live stream without a gap or an overlap,
while the old one is served and kept up to date. `streamfti verify` is the judge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import redis
from click.testing import CliRunner, Result

from streamfti.cli import main
from streamfti.clock import SystemClock
from streamfti.definitions.catalog import load_catalog
from streamfti.definitions.sources import HISTORY_PARTITION
from streamfti.dev.kafka_broker import KafkaServer
from streamfti.dev.redis_server import RedisServer
from streamfti.feature_pipeline.materialize import materialize
from streamfti.feature_pipeline.producer import EventProducer
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.online.keys import progress_key
from streamfti.stores.online.progress import Progress
from streamfti.stores.schemas.file_registry import FileSchemaRegistry

DEFINITIONS = """
import streamfti as fti

class Payment(fti.Event):
    at: fti.EventTime
    card: str
    cents: int
    fee: float | None

payments = fti.KafkaSource("TOPIC", Payment)

@fti.feature_group(source=payments, entity="card", version=VERSION)
class Card:
    n = fti.count().over("1h", WINDOWS)
    cents = fti.sum(Payment.cents).over("24h", default=0)
"""

WIDE = """
@fti.feature_group(source=payments, entity="card")
class Wide:
    n = fti.count().over("5m", "30d")
    last = fti.last(Payment.cents).over("30d")
"""

NOW = datetime.now(UTC).replace(microsecond=0)
N_HISTORY, N_TOPIC = 400, 300
_WAIT_S = 60.0


@dataclass(frozen=True)
class Project:
    folder: Path
    topic: str
    environ: dict[str, str]
    online: redis.Redis

    def definitions(self, name: str, *, version: int = 1, windows: str = '"24h"', more: str = "") -> Path:
        path = self.folder / f"{name}.py"
        text = DEFINITIONS.replace("TOPIC", self.topic).replace("VERSION", str(version))
        path.write_text(text.replace("WINDOWS", windows) + more, encoding="utf-8")
        return path

    @property
    def log(self) -> OfflineLog:
        return OfflineLog(self.folder / "home" / "log")

    def invoke(self, *words: object) -> Result:
        return CliRunner().invoke(main, [str(word) for word in words], env=dict(self.environ))

    def done(self, *words: object) -> Result:
        result = self.invoke(*words)
        assert result.exit_code == 0, result.output
        return result

    def produce(self, events: pl.DataFrame) -> None:
        source = load_catalog(self.folder / "old.py").source(self.topic)
        schemas = FileSchemaRegistry(self.folder / "home" / "schemas")
        brokers = self.environ["KAFKA_BOOTSTRAP_SERVERS"]
        with EventProducer(brokers, source, schemas, key_field="card") as producer:
            for row in events.iter_rows(named=True):
                producer.send(source.event(**row))

    def verified(self, path: Path, *words: object) -> dict[str, Any]:
        result = self.done("verify", path, "--probes", 3_000, "--log-wait", 10, "--json", *words)
        document: dict[str, Any] = json.loads(result.stdout)
        return {name: n for name, n in document["verdicts"].items() if n}

    @contextmanager
    def running(self, path: Path) -> Iterator[subprocess.Popen[str]]:
        words = [sys.executable, "-m", "streamfti.cli", "run", "features", str(path), "--log-max-age", "1s"]
        process = subprocess.Popen(words, env={**os.environ, **self.environ}, stderr=subprocess.PIPE, text=True)
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=_WAIT_S)
        assert process.returncode == 0


@pytest.fixture
def project(tmp_path: Path, kafka: KafkaServer, redis_server: RedisServer, redis_client: redis.Redis) -> Project:
    environ = {
        "STREAMFTI_HOME": str(tmp_path / "home"),
        "REDIS_URL": redis_server.url,
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
    }
    project = Project(tmp_path, f"payments-{os.urandom(6).hex()}", environ, redis_client)
    project.done("apply", project.definitions("old"), "--partitions", 2)
    return project


def payments(n: int, first: timedelta, last: timedelta, seed: int) -> pl.DataFrame:
    """n payments of a few cards between two times ago, in no order."""
    rng = np.random.default_rng(seed)
    seconds = rng.uniform(last.total_seconds(), first.total_seconds(), n)
    return pl.DataFrame(
        {
            "at": [NOW - timedelta(seconds=float(s)) for s in seconds],
            "card": [f"c{rng.integers(10)}" for _ in range(n)],
            "cents": rng.integers(-10, 1000, n),
            "fee": [None if rng.random() < 0.3 else float(rng.random()) for _ in range(n)],
        },
        schema_overrides={"at": pl.Datetime("us", "UTC"), "fee": pl.Float64()},
    )


def history() -> pl.DataFrame:
    return payments(N_HISTORY, timedelta(days=20), timedelta(days=2), 1)


def live(seed: int) -> pl.DataFrame:
    return payments(N_TOPIC, timedelta(days=3), timedelta(seconds=1), seed)


def caught_up(project: Project, path: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(project.done("run", "features", path, "--until-caught-up", "--json").stdout)
    return summary


def counted(project: Project, group: str, events: int) -> None:
    """Check that the 30-day windows of all cards together hold so many events: verify does not know how many came."""
    rows = project.folder / "rows.parquet"
    project.done("verify", project.folder / "both.py", "--probes", 500, "--group", group, "--rows", rows, "--json")
    found = pl.read_parquet(rows).filter((pl.col("feature") == f"{group}.n_30d") & (pl.col("served") != "0"))
    newest = found.sort("query_time_us").group_by("entity").first()
    assert newest["served"].cast(pl.Int64).sum() == events


def test_a_new_group_and_a_new_version_meet_the_live_stream_while_the_old_one_goes_on(
    project: Project, eventually: Callable[..., Any]
) -> None:
    old, both = project.folder / "old.py", project.definitions("both", more=WIDE)
    new = project.definitions("new", version=2, windows='"24h", "7d"')
    folder = project.folder / "history"
    (folder / "year=2026").mkdir(parents=True)
    history()[:150].write_parquet(folder / "part.parquet")
    history()[150:].write_parquet(folder / "year=2026" / "part.parquet")
    project.produce(live(2))
    caught_up(project, old)

    with project.running(old) as process:
        project.produce(live(3))
        project.done("materialize", both, "--group", "Wide", "--from", folder)
        project.done("materialize", new, "--group", "Card")
        project.produce(live(4))
        assert process.poll() is None
        source = load_catalog(old).source(project.topic)
        eventually(lambda: sum(logged(project, source).values()) == 3 * N_TOPIC, within=_WAIT_S)
        found = project.verified(old)
        assert set(found) <= {"equal", "in_flight"}  # what it has not applied is the history, which came after it
    assert set(project.verified(both, "--group", "Wide")) <= {"equal", "in_flight"}

    summary = caught_up(project, both)
    assert summary["dead_letters"] == 0
    assert set(project.verified(both, "--group", "Wide")) == {"equal"}
    counted(project, "Wide", N_HISTORY + 3 * N_TOPIC)
    project.produce(live(5))
    caught_up(project, new)
    assert set(project.verified(new)) == {"equal"}
    caught_up(project, both)
    assert set(project.verified(both, "--group", "Wide")) == {"equal"}
    counted(project, "Wide", N_HISTORY + 4 * N_TOPIC)


def test_the_version_before_is_kept_up_to_date_beside_the_new_one(project: Project) -> None:
    """Its servers read it until they are replaced, after its own pipeline has ended."""
    old = project.folder / "old.py"
    new = project.definitions("new", version=2, windows='"24h", "7d"')
    project.produce(live(2))
    caught_up(project, old)
    refused = project.invoke("run", "features", new, "--also", old, "--until-caught-up")
    assert "'Card' must be filled from the log" in refused.stderr
    project.done("materialize", new, "--group", "Card")
    project.produce(live(3))
    project.done("run", "features", new, "--also", old, "--until-caught-up")
    for path in (old, new):
        assert set(project.verified(path)) == {"equal"}
        source = load_catalog(path).source(project.topic)
        group = load_catalog(path).group("Card")
        applied = {p: project.online.get(progress_key(group, p)) for p in range(2)}
        offsets = {p: Progress.load(value).next_offset for p, value in applied.items() if isinstance(value, bytes)}
        assert offsets == logged(project, source)
    other = project.folder / "other.py"
    other.write_text(old.read_text().replace("cents: int", "cents: float"), encoding="utf-8")
    refused = project.invoke("run", "features", new, "--also", other)
    assert "must be of the same events" in refused.stderr


def logged(project: Project, source: Any) -> dict[int, int]:  # noqa: ANN401  # a KafkaSource
    return {p: n for p, n in project.log.positions(source).items() if p != HISTORY_PARTITION}


class _Killed(Exception):
    """Stands for the end of the process."""


def test_a_backfill_from_history_that_died_is_refused_and_completed_by_a_rebuild(project: Project) -> None:
    both = project.definitions("both", more=WIDE)
    project.produce(live(2))
    caught_up(project, project.folder / "old.py")
    history().write_parquet(project.folder / "history.parquet")

    def die(_done: int, _of: int) -> None:
        raise _Killed

    with pytest.raises(_Killed):
        materialize(
            load_catalog(both).group("Wide"),
            project.log,
            redis_url=project.environ["REDIS_URL"],
            clock=SystemClock(),
            history=project.folder / "history.parquet",
            chunk_rows=50,
            on_progress=die,
        )
    assert "filling it has not ended" in project.invoke("run", "features", both).stderr
    again = ("materialize", both, "--group", "Wide")
    assert project.invoke(*again).exit_code == 1
    twice = project.invoke(*again, "--from", project.folder / "history.parquet", "--force-rebuild")
    assert "must not hold history yet" in twice.stderr
    project.done(*again, "--force-rebuild")
    caught_up(project, both)
    assert set(project.verified(both, "--group", "Wide")) == {"equal"}
    counted(project, "Wide", N_HISTORY + N_TOPIC)


def test_history_comes_before_a_topic_that_has_not_been_read(project: Project) -> None:
    both = project.definitions("both", more=WIDE)
    history().write_parquet(project.folder / "history.parquet")
    places = ("--from", project.folder / "history.parquet")
    result = project.done("materialize", both, "--group", "Wide", *places)
    assert f"Wide: {N_HISTORY:,} of the events are history" in result.stdout
    refused = project.invoke("run", "features", both, "--until-caught-up")
    assert "'Card' must be filled from the log" in refused.stderr
    project.done("materialize", both, "--group", "Card")
    project.produce(live(2))
    caught_up(project, both)
    assert set(project.verified(both)) == {"equal"}
    counted(project, "Wide", N_HISTORY + N_TOPIC)


def test_a_group_with_values_is_refused_before_history_is_imported(project: Project) -> None:
    project.produce(live(2))
    old = project.folder / "old.py"
    caught_up(project, old)
    history().write_parquet(project.folder / "history.parquet")
    refused = project.invoke("materialize", old, "--group", "Card", "--from", project.folder / "history.parquet")
    assert refused.exit_code == 1
    assert HISTORY_PARTITION not in project.log.positions(load_catalog(old).source(project.topic))


Change = Callable[[pl.DataFrame], pl.DataFrame]
CHANGES: Sequence[tuple[Change, str]] = [
    (lambda f: f.drop("cents"), "must have a column for Payment.cents"),
    (lambda f: f.with_columns(extra=1), "must be fields of 'Payment', got 'extra'"),
    (lambda f: f.with_columns(pl.col("cents").cast(pl.String)), "column 'cents' of .* must be int64, got String"),
    (lambda f: f.with_columns(pl.col("at").dt.replace_time_zone(None)), "column 'at' of .* must be .*, got Datetime"),
    (lambda f: f.with_columns(card=pl.when(pl.col("cents") > 50).then("card")), "must have no nulls"),
    (lambda f: f.with_columns(fee=pl.lit(float("nan"))), "must be finite numbers"),
    (lambda f: f.with_columns(pl.col("at") + pl.duration(days=30)), "not in the future"),
    (lambda f: f.clear(), "must hold events of 'Payment', got none"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=[message for _, message in CHANGES])
def test_history_that_is_not_what_it_must_be_is_refused_as_a_whole(
    project: Project, change: Change, message: str
) -> None:
    old = project.folder / "old.py"
    folder = project.folder / "history"
    folder.mkdir()
    change(history()).write_parquet(folder / "b.parquet")
    if message.startswith(("must have a", "column")):
        history().write_parquet(folder / "a.parquet")
    refused = project.invoke("materialize", old, "--group", "Card", "--from", folder)
    assert refused.exit_code == 1
    assert pl.Series([refused.stderr]).str.contains(message).all(), refused.stderr
    assert project.log.positions(load_catalog(old).source(project.topic)) == {}


def test_history_in_narrower_types_and_other_zones_is_the_same_history(project: Project) -> None:
    old = project.folder / "old.py"
    narrow = history().with_columns(
        pl.col("cents").cast(pl.Int16),
        pl.col("card").cast(pl.Categorical),
        pl.col("at").dt.convert_time_zone("Asia/Tokyo"),
    )
    narrow.select("fee", "cents", "at", "card").write_parquet(project.folder / "narrow.parquet")
    project.done("materialize", old, "--group", "Card", "--from", project.folder / "narrow.parquet")
    source = load_catalog(old).source(project.topic)
    events = project.log.read(source).select("at", "card", "cents", "fee")
    assert events.equals(history().sort("at"))
