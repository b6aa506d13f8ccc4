"""`streamfti verify` on a real Redis and a real log: content with what is right, and able to fail for what is wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import redis
from click.testing import CliRunner, Result

from streamfti.cli import main
from streamfti.clock import SystemClock, from_us, to_us
from streamfti.compute.layout import RecordLayout
from streamfti.compute.stored_state import stored_state
from streamfti.compute.values import FeatureColumn, Status
from streamfti.definitions.catalog import load_catalog
from streamfti.definitions.fingerprint import group_fingerprint
from streamfti.definitions.groups import FeatureGroup
from streamfti.dev.redis_server import RedisServer
from streamfti.feature_pipeline.group_state import GroupState
from streamfti.monitoring.online_reads import ask_online
from streamfti.monitoring.probes import draw_probes
from streamfti.monitoring.served_vectors import ServedFeatures, VectorWriter
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.online.keys import meta_key, progress_key, record_key
from streamfti.stores.online.meaning import register_group
from streamfti.stores.online.progress import Progress
from streamfti.stores.online.redis_store import OnlineReader, OnlineWriter
from streamfti.testing.event_frames import event_frame
from streamfti.testing.naive import PlacedEvent

DEFINITIONS = """
import streamfti as fti

class Payment(fti.Event):
    at: fti.EventTime
    card: str
    shop: int | None
    cents: int
    fee: float | None

payments = fti.KafkaSource("payments", Payment)

@fti.feature_group(source=payments, entity="card")
class Card:
    n = fti.count().over("5m", "1h")
    cents = fti.sum(Payment.cents).over("1h", default=0)
    fee = fti.sum(Payment.fee).over("1h")
    last = fti.last(Payment.cents).over("5m")

@fti.feature_group(source=payments, entity=("shop", "card"))
class ShopCard:
    n = fti.count().over("1h")
    most = fti.max(Payment.cents).over("1h")

@fti.feature_group(source=payments, entity="shop")
class Shop:
    n = fti.count().lifetime()
    dear = fti.count(where=Payment.cents > 300).over("1h", expires_after="10m")
    spread = fti.stddev(Payment.fee).over("1h")
    recent = fti.last_n(Payment.cents, 3).over("1h")
    idle = fti.time_since_last(expires_after="20m")
    double = fti.sum(Payment.cents * 2).lifetime()

features = fti.FeatureService("features", [fti.request("amount", float), Card, ShopCard, Shop])
"""

MINUTE_US = 60_000_000
START_US = to_us(datetime(2026, 5, 1, tzinfo=UTC))
PARTITIONS = (0, 1)
N = 600


@dataclass
class Project:
    """Definitions, a log, a Redis; written as the feature pipeline does, event by chosen event."""

    path: Path
    home: Path
    redis_url: str
    client: redis.Redis

    def __post_init__(self) -> None:
        self.catalog = load_catalog(self.path)
        self.source = self.catalog.source("payments")

    def group(self, name: str = "Card") -> FeatureGroup:
        return self.catalog.group(name)

    def frame(self, events: Sequence[PlacedEvent]) -> pl.DataFrame:
        times = [to_us(e.event.values()["at"]) for e in events]
        frame = event_frame(self.source.schema, events)
        return frame.with_columns(pl.Series("_ingest_time_us", times, pl.Int64), _too_late=pl.lit(value=False))

    def log(self, events: Sequence[PlacedEvent]) -> None:
        writer = OfflineLog(self.home / "log").writer(self.source)
        writer.append(self.frame(events), next_offsets(events))
        writer.flush()

    def apply(self, events: Sequence[PlacedEvent], upto: dict[int, int] | None = None) -> None:
        """Write events to every group, and progress; other progress than theirs is a lie, which a test may tell."""
        for group in self.catalog.groups.values():
            register_group(self.redis_url, group, stored_state(group))
            writer = OnlineWriter(self.redis_url, [progress_key(group, p) for p in PARTITIONS])
            change = GroupState(group, writer.read).apply(self.frame(events), SystemClock().now_us())
            progress = {progress_key(group, p): Progress(n, 0, 0, 0) for p, n in (upto or next_offsets(events)).items()}
            writer.commit(change.slots, {}, progress, change.side)
            writer.close()

    def served(self, n: int = 400) -> ServedFeatures:
        """Answers of the online store about cards."""
        group, online = self.group(), OnlineReader(self.redis_url)
        known = OfflineLog(self.home / "log").read(self.source)
        probes = draw_probes(group, group.features, known, n, np.random.default_rng(1))
        parts = list(ask_online(group, group.features, probes, online, SystemClock()))
        online.close()
        assert len(parts) == 1
        return parts[0]

    def write(self, served: ServedFeatures, folder: Path, fingerprint: str | None = None) -> Path:
        folder.mkdir()
        group = self.group()
        fingerprint = fingerprint or group_fingerprint(group)
        with VectorWriter(folder / "Card.parquet", group, group.features, fingerprint) as writer:
            writer.write(served)
        return folder

    def verify(self, *words: object) -> tuple[Result, dict[str, Any]]:
        places = ["--home", str(self.home), "--redis-url", self.redis_url, "--log-wait", "0", "--json"]
        result = CliRunner().invoke(main, ["verify", str(self.path), *places, *map(str, words)])
        lines = result.stdout.strip().splitlines()
        return result, json.loads(lines[-1]) if lines else {}


def next_offsets(events: Sequence[PlacedEvent]) -> dict[int, int]:
    return {p: max(e.offset for e in events if e.partition == p) + 1 for p in {e.partition for e in events}}


@pytest.fixture
def events(project: Project) -> list[PlacedEvent]:
    """Three hours of a dozen cards in a few shops, out of order, with nulls; a card's events are in one partition."""
    rng = np.random.default_rng(3)
    offsets = dict.fromkeys(PARTITIONS, 0)
    found = []
    for i in range(N):
        card = int(rng.integers(12))
        partition = card % len(PARTITIONS)
        delay = int(rng.exponential(20)) if rng.random() < 0.2 else 0
        at_us = START_US + max(0, i * 180 * 60 // N - delay * 60) * 1_000_000 + int(rng.integers(1_000_000))
        event = project.source.event(
            at=from_us(at_us),
            card=f"c{card}",
            shop=None if rng.random() < 0.1 else int(rng.integers(3)),
            cents=int(rng.integers(-50, 500)),
            fee=None if rng.random() < 0.2 else float(rng.normal()),
        )
        found.append(PlacedEvent(event, partition, offsets[partition]))
        offsets[partition] += 1
    return found


@pytest.fixture
def project(tmp_path: Path, redis_server: RedisServer, redis_client: redis.Redis) -> Project:
    path = tmp_path / "definitions.py"
    path.write_text(DEFINITIONS, encoding="utf-8")
    return Project(path, tmp_path / "home", redis_server.url, redis_client)


@pytest.fixture
def sound(project: Project, events: list[PlacedEvent]) -> Project:
    """Everything applied, everything logged."""
    project.log(events)
    project.apply(events)
    return project


def verdicts(document: dict[str, Any]) -> set[str]:
    return {name for name, n in document["verdicts"].items() if n}


def test_sound_stores_have_no_skew(sound: Project) -> None:
    result, document = sound.verify("--probes", 18_000)
    assert result.exit_code == 0, result.output
    assert verdicts(document) == {"equal"}
    assert (document["skew_rows"], document["probes"], document["values"]) == (0, 18_000, 6_000 * (5 + 2 + 8))
    assert set(document["features"]) == {f.qualified_name for g in sound.catalog.groups.values() for f in g.features}


def test_the_last_line_for_people_is_the_number_of_skew_rows(sound: Project) -> None:
    places = ["--home", str(sound.home), "--redis-url", sound.redis_url]
    result = CliRunner().invoke(main, ["verify", str(sound.path), *places, "--probes", "50", "--service", "features"])
    assert result.stdout.strip().splitlines()[-1] == "skew_rows: 0"
    assert "Card.n_5m" in result.stdout


def test_the_same_seed_draws_the_same_probes_and_another_one_others(sound: Project, tmp_path: Path) -> None:
    drawn = []
    for seed in (1, 1, 2):
        sound.verify("--probes", 200, "--seed", seed, "--rows", tmp_path / "rows.parquet")
        drawn.append(pl.read_parquet(tmp_path / "rows.parquet"))
    assert drawn[0].equals(drawn[1])
    assert not drawn[0].equals(drawn[2])


def test_probes_ask_for_unheard_of_entities_and_for_none_and_at_the_edges_of_windows(sound: Project) -> None:
    group = sound.group("ShopCard")
    known = OfflineLog(sound.home / "log").read(sound.source)
    probes = draw_probes(group, group.features, known, 5_000, np.random.default_rng(0))
    newest = np.full(5_000, START_US + 180 * MINUTE_US)
    at_us = probes.query_time_us(newest)
    hop_us = group.features[0].window.hop_us
    assert (at_us > newest).all()
    assert {-1, 0, 1} <= set(((at_us + 1) % hop_us - 1).tolist())
    assert probes.texts.null_count() > 10
    unknown = probes.keys.drop_nulls().join(known.select("shop", "card"), on=["shop", "card"], how="anti")
    assert len(unknown) > 50


def wrong_byte(project: Project, events: Sequence[PlacedEvent]) -> None:
    """The count of the newest tile of a card is one more."""
    del events
    group = project.group()
    layout, key = RecordLayout.of(group), record_key(group, "c1")
    record = np.frombuffer(read(project, key).ljust(layout.record_bytes, b"\0"), layout.dtype)[0]
    ring = layout.rings[0]
    slot = int(record[ring.name]["tile_end_us"].argmax())
    at = ring.offset_bytes + slot * ring.slot_bytes + 8 * ring.columns.index("count")
    project.client.setrange(key, at, bytes([read(project, key)[at] ^ 1]))


def stale_slot(project: Project, events: Sequence[PlacedEvent]) -> None:
    """A tile is what it was before its last event."""
    group = project.group()
    layout, key = RecordLayout.of(group), record_key(group, "c1")
    newest = max((e for e in events if e.event.values()["card"] == "c1"), key=lambda e: to_us(e.event.values()["at"]))
    ring = layout.rings[-1]
    slot = to_us(newest.event.values()["at"]) // ring.hop_us % ring.n_slots
    at = ring.offset_bytes + slot * ring.slot_bytes
    after = read(project, key)
    project.client.flushall()
    project.apply([e for e in events if e is not newest], next_offsets(events))
    before = read(project, key).ljust(layout.record_bytes, b"\0")
    project.client.set(key, after)
    project.client.setrange(key, at, before[at : at + ring.slot_bytes])


def missing_event(project: Project, events: Sequence[PlacedEvent]) -> None:
    project.client.flushall()
    project.apply([e for i, e in enumerate(events) if i != N - 20], next_offsets(events))


def doubled_event(project: Project, events: Sequence[PlacedEvent]) -> None:
    project.apply(events[N - 20 : N - 19], next_offsets(events))


def lost_record(project: Project, events: Sequence[PlacedEvent]) -> None:
    del events
    project.client.delete(record_key(project.group(), "c1"))


def read(project: Project, key: bytes) -> bytes:
    found = project.client.get(key)
    assert isinstance(found, bytes)
    return found


@pytest.mark.parametrize("fault", [wrong_byte, stale_slot, missing_event, doubled_event, lost_record])
def test_a_fault_in_the_online_store_is_a_bug(
    sound: Project, events: list[PlacedEvent], fault: Callable[[Project, Sequence[PlacedEvent]], None], tmp_path: Path
) -> None:
    fault(sound, events)
    result, document = sound.verify("--probes", 6_000, "--rows", tmp_path / "rows.parquet")
    assert result.exit_code == 1
    assert verdicts(document) == {"equal", "bug"}
    rows = pl.read_parquet(tmp_path / "rows.parquet").filter(pl.col("verdict") == "bug")
    assert document["skew_rows"] == rows.select("probe").n_unique() > 0
    assert rows.filter(pl.col("group") == "Card")["entity"].n_unique() == 1
    assert (rows["served"].ne_missing(rows["recomputed"]) | (rows["served_status"] != rows["recomputed_status"])).all()


def test_an_event_that_the_log_lacks_is_a_bug(project: Project, events: list[PlacedEvent]) -> None:
    lost = events[N - 20]
    project.apply(events)
    project.log([e for e in events if e is not lost])
    result, document = project.verify("--probes", 4_000)
    assert (result.exit_code, verdicts(document)) == (1, {"equal", "bug"})


def test_a_wrong_value_and_a_wrong_status_in_a_file_are_bugs(sound: Project, tmp_path: Path) -> None:
    served = sound.served()
    result, document = sound.verify("--vectors", sound.write(served, tmp_path / "good"))
    assert (result.exit_code, verdicts(document), document["probes"]) == (0, {"equal"}, len(served))
    column = served.columns["Card.cents_1h"]
    (row, *_) = np.flatnonzero(column.status == Status.PRESENT)
    column.status[row] = Status.DEFAULTED
    result, document = sound.verify("--vectors", sound.write(served, tmp_path / "status"))
    assert (result.exit_code, document["skew_rows"]) == (1, 1)
    column.status[row] = Status.PRESENT
    served.columns["Card.n_1h"].values[row] -= 1
    result, document = sound.verify("--vectors", sound.write(served, tmp_path / "value"))
    assert (result.exit_code, document["features"]["Card.n_1h"]["bug"]) == (1, 1)


def test_what_arrived_after_the_read_is_in_flight(project: Project, events: list[PlacedEvent]) -> None:
    project.apply(events[: N - 60])
    project.log(events)
    result, document = project.verify("--probes", 4_000)
    assert result.exit_code == 0
    assert verdicts(document) == {"equal", "in_flight"}


def test_what_the_log_does_not_hold_yet_is_unlogged(project: Project, events: list[PlacedEvent]) -> None:
    project.apply(events)
    project.log(events[: N - 60])
    result, document = project.verify("--probes", 4_000)
    assert result.exit_code == 0
    assert verdicts(document) == {"equal", "unlogged"}


def test_the_log_is_waited_for(project: Project, events: list[PlacedEvent]) -> None:
    project.apply(events)
    project.log(events[: N - 60])
    flush = threading.Timer(1.0, project.log, [events])
    flush.start()
    result, document = project.verify("--probes", 4_000, "--log-wait", "30")
    flush.join()
    assert (result.exit_code, verdicts(document)) == (0, {"equal"})
    assert document["seconds"] < 20  # no longer than it takes


def test_rows_of_another_definition_are_not_compared(sound: Project, tmp_path: Path) -> None:
    served = sound.served()
    served.columns["Card.n_1h"].values[:] += 1
    result, document = sound.verify("--vectors", sound.write(served, tmp_path / "old", "0" * 64))
    assert (result.exit_code, verdicts(document)) == (0, {"version"})


def test_a_past_that_the_ring_no_longer_holds_is_too_late(project: Project, tmp_path: Path) -> None:
    """A server never answers for it; a file that says so all the same is explained, and only by that."""
    group = project.group()
    ring = RecordLayout.of(group).rings[0]
    times_us = [START_US, START_US + ring.span_us]
    events = [
        PlacedEvent(project.source.event(at=from_us(t), card="c1", shop=1, cents=5, fee=None), 0, i)
        for i, t in enumerate(times_us)
    ]
    project.apply(events)
    project.log(events)
    one, none = np.array([1]), np.array([0])
    present, missing = np.array([Status.PRESENT], np.uint8), np.array([Status.MISSING], np.uint8)
    served = ServedFeatures(
        pl.DataFrame({"card": ["c1"]}),
        np.array([START_US + 1]),
        {
            "Card.n_5m": FeatureColumn(one.copy(), present),
            "Card.n_1h": FeatureColumn(one * 2, present),
            "Card.cents_1h": FeatureColumn(one * 10, present),
            "Card.fee_1h": FeatureColumn(none.astype(np.float64), missing),
            "Card.last_5m": FeatureColumn(one * 5, present),
        },
        {0: np.array([2])},
        np.array([SystemClock().now_us()]),
    )
    result, document = project.verify("--vectors", project.write(served, tmp_path / "late"))
    assert result.exit_code == 0, result.output
    assert document["features"]["Card.n_5m"] == {"too_late": 1}
    assert document["features"]["Card.n_1h"] == {"equal": 1}
    served.columns["Card.n_5m"].values[0] = 3
    _, document = project.verify("--vectors", project.write(served, tmp_path / "wrong"))
    assert document["features"]["Card.n_5m"] == {"bug": 1}


def test_a_record_that_was_idle_for_its_retention_may_be_gone(sound: Project) -> None:
    """The events are of the past; only because the group is younger was the lost record a bug above."""
    group = sound.group()
    lost_record(sound, [])
    meta = json.loads(read(sound, meta_key(group)))
    sound.client.set(meta_key(group), json.dumps(meta | {"registered_at_us": START_US}))
    result, document = sound.verify("--probes", 2_000, "--group", "Card")
    assert (result.exit_code, verdicts(document)) == (0, {"equal", "too_late"})


def test_float_sums_that_cancel_are_compared_by_what_was_added(sound: Project, tmp_path: Path) -> None:
    served = sound.served()
    column = served.columns["Card.fee_1h"]
    (row, *_) = np.flatnonzero(column.status == Status.PRESENT)
    for error, skew_rows in ((1e-12, 0), (1e-6, 1)):
        wrong = FeatureColumn(column.values.copy(), column.status)
        wrong.values[row] += error
        changed = replace(served, columns=dict(served.columns) | {"Card.fee_1h": wrong})
        _, document = sound.verify("--vectors", sound.write(changed, tmp_path / f"by{error}"))
        assert document["skew_rows"] == skew_rows


def test_words_that_contradict_each_other_or_name_nothing_are_refused(sound: Project, tmp_path: Path) -> None:
    both, _ = sound.verify("--vectors", sound.write(sound.served(), tmp_path / "good"), "--group", "Card")
    assert both.exit_code == 2
    for words in (("--group", "Cart"), ("--service", "feature")):
        result, _ = sound.verify(*words)
        assert result.exit_code == 1
        assert "did you mean" in result.stderr
    sound.path.write_text(DEFINITIONS.partition("@fti")[0])
    nothing, _ = sound.verify()
    assert nothing.exit_code == 1
    assert "must be a feature group to draw probes from" in nothing.stderr


def test_a_file_of_something_else_is_refused(sound: Project, tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no Parquet")
    pl.DataFrame({"card": ["c1"]}).write_parquet(tmp_path / "other.parquet")
    for name, words in (("text", "Parquet file of served vectors"), ("other", "_group")):
        result, _ = sound.verify("--vectors", tmp_path / f"{name}.parquet")
        assert result.exit_code == 1
        assert words in result.stderr


def test_stored_values_of_another_meaning_are_refused(sound: Project) -> None:
    key = meta_key(sound.group())
    meta = json.loads(read(sound, key))
    sound.client.set(key, json.dumps(meta | {"state": meta["state"] | {"entity": [["user", "string"]]}}))
    result, _ = sound.verify("--probes", 10)
    assert result.exit_code == 1
    assert "Card" in result.stderr
