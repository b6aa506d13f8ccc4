"""`streamfti demo`: a year of flights through the whole of StreamFTI, on real servers, and a report that proves it.

The pipelines run as the processes that a user would start: `streamfti run features`, `streamfti train`,
`streamfti serve`. This program only plays the world around them: it produces events, and asks.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sklearn.metrics import roc_auc_score

from streamfti.clock import SystemClock
from streamfti.compute.values import FeatureColumn
from streamfti.definitions.aggregations import Feature
from streamfti.definitions.catalog import Catalog, load_catalog
from streamfti.definitions.groups import FeatureGroup
from streamfti.dev.process import ServerProcess, wait_until
from streamfti.dev.servers import DevServers
from streamfti.errors import SettingsError, StreamFTIError
from streamfti.feature_pipeline.producer import EventProducer
from streamfti.inference_pipeline.client import InferenceClient
from streamfti.monitoring import report as skew
from streamfti.monitoring.served_vectors import ServedFeatures, VectorWriter
from streamfti.monitoring.verification import Stores, verify_vectors
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.online.redis_store import OnlineReader
from streamfti.stores.schemas.file_registry import FileSchemaRegistry

from .replay import Asked, Follower, Player, ask_through
from .stream import arrivals, departures, load_flights, schedules

__all__ = ["SIZES", "Report", "Size", "run", "table"]

DEFINITIONS = Path(__file__).parent / "definitions.py"
_NEW_YORK_MIDNIGHT = timedelta(hours=5)  # in UTC, in winter
_STOP_S, _START_S = 60.0, 60.0
_HISTORY_LINGER_MS = 20  # large batches: what the embedded broker does at a fetch grows with their number


@dataclass(frozen=True, slots=True)
class Size:
    """How much of the year is played."""

    history_until: datetime
    """Events before it are processed at full speed and trained on."""
    live_until: datetime
    every_nth_day: int
    """Predictions are asked for on each n-th day after it; the days between are only played."""


def _day(month: int, day: int, year: int = 2013) -> datetime:
    return datetime(year, month, day, tzinfo=UTC) + _NEW_YORK_MIDNIGHT


SIZES = {
    "small": Size(_day(1, 22), _day(2, 1), 4),
    "full": Size(_day(10, 1), _day(1, 1, 2014), 16),
}


@dataclass(frozen=True, slots=True)
class Report:
    """What the demo measured on this machine, servers, pipeline and asking client together.

    `events_per_second` is of the history, at full speed, log and all groups included; freshness is from before an
    event is sent until an independent reader finds it applied; `predict_ms` is seen by the client, one call at a time.
    """

    events: int
    events_per_second: float
    predictions: int
    auc: float
    auc_static: float
    freshness_ms_p50: float
    freshness_ms_p99: float
    predict_ms_p50: float
    predict_ms_p99: float
    skew_probes: int
    skew_rows: int
    elapsed: float


def run(size_name: str, home: Path, console: Console) -> Report:
    """Play one size of the demo in a folder and return the report.

    Raises:
        StreamFTIError: if a server or a pipeline does not start, or ends before its time.
        SettingsError: if the folder is in use.
    """
    if home.exists() and any(home.iterdir()):
        msg = f"the folder of a demo must be empty, got {home}"
        raise SettingsError(msg, hint="name a new one; the embedded broker forgets its topics, so nothing can go on")
    began = time.monotonic()
    size, catalog = SIZES[size_name], load_catalog(DEFINITIONS)
    with DevServers(home / "servers") as servers:
        project = _Project(home, catalog, servers.redis_url, servers.bootstrap_servers, console)
        console.print(servers.describe())
        project.command("apply", DEFINITIONS, "--partitions", "1", "--topic-config", "retention.ms=-1")
        player, frames = project.player()
        total = sum(frame.filter(pl.col("at") < size.history_until).height for frame in frames.values())
        events_per_second = _process_history(project, player, size, total)
        _train(project, size)
        asked = _live(project, player, frames["schedules"], size)
        verified = _verify(project, asked)
    return _report(project, asked, began, player.played, events_per_second, verified)


@dataclass(frozen=True, slots=True)
class _Project:
    """The folder, the servers, and the commands of StreamFTI in between."""

    home: Path
    catalog: Catalog
    redis_url: str
    bootstrap_servers: str
    console: Console

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "STREAMFTI_HOME": str(self.home),
            "REDIS_URL": self.redis_url,
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
        }

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start a command of StreamFTI that ends by itself; its errors go where ours go."""
        return subprocess.Popen(  # noqa: S603  # our own program with our own arguments
            _command(*arguments), env=self._environment(), stdout=subprocess.PIPE, text=True
        )

    def command(self, *arguments: object) -> str:
        """Run a command of StreamFTI to its end and return what it printed."""
        with self.start(*arguments) as process:
            return self.output(process, *arguments)

    def output(self, process: subprocess.Popen[str], *arguments: object) -> str:
        """Return what a command has printed at its end.

        Raises:
            StreamFTIError: if it ended badly.
        """
        output, _ = process.communicate()
        if process.returncode:
            msg = f"`streamfti {arguments[0]}` must end well, got exit code {process.returncode}"
            raise StreamFTIError(msg, hint="what it said stands above")
        return output

    @contextmanager
    def running(self, name: str, *arguments: object) -> Iterator[Path]:
        """Run a command beside us, also gone when we are killed; yield its log. It must not end by itself."""
        options = ["--home", self.home, "--redis-url", self.redis_url]
        process = ServerProcess(name, _command(*arguments, *options), self.home / "processes" / name, grace_s=_STOP_S)
        try:
            yield process.log_path
            if not process.running:
                must = "keep running"
                raise process.failure(must)
        finally:
            process.stop()

    def player(self) -> tuple[Player, dict[str, pl.DataFrame]]:
        """Load the flights as events; return what plays them, and the events."""
        flights = load_flights()
        frames = {
            "schedules": schedules(flights),
            "departures": departures(flights),
            "arrivals": arrivals(flights),
        }
        return Player(self.catalog, frames), frames

    @contextmanager
    def producers(self, *, linger_ms: int) -> Iterator[dict[str, EventProducer]]:
        """Open a producer for each source."""
        registry = FileSchemaRegistry(self.home / "schemas")
        with ExitStack() as stack:
            yield {
                name: stack.enter_context(EventProducer(self.bootstrap_servers, source, registry, linger_ms=linger_ms))
                for name, source in self.catalog.sources.items()
            }

    def follower(self) -> Follower:
        return Follower(self.catalog, self.redis_url)

    def progress(self) -> Progress:
        """Return a progress bar on this project's console."""
        columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        return Progress(*columns, console=self.console)


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "streamfti.cli", *map(str, arguments)]


def _process_history(project: _Project, player: Player, size: Size, total: int) -> float:
    """Step 2: produce the history, then run the feature pipeline over it at full speed; return its events/s."""
    with project.progress() as progress, project.producers(linger_ms=_HISTORY_LINGER_MS) as producers:
        player.use(producers)
        task = progress.add_task("producing the history", total=total)
        month = _day(1, 1) - timedelta(days=2)  # a few events are before local midnight
        while month < size.history_until:
            month = min(month + timedelta(days=7), size.history_until)
            progress.advance(task, player.play_until(month))
        task = progress.add_task("run features", total=total)
        follower = project.follower()
        command = ("run", "features", DEFINITIONS, "--until-caught-up", "--json")
        with project.start(*command) as pipeline:
            while pipeline.poll() is None:
                progress.update(task, completed=sum(follower.applied().values()))
                time.sleep(0.1)
            progress.update(task, completed=sum(follower.applied().values()))
            output = project.output(pipeline, *command)
        follower.close()
    summary = json.loads(output.strip().splitlines()[-1])
    return float(summary["events_per_second"])


def _train(project: _Project, size: Size) -> None:
    """Step 3: training sets by point-in-time joins, fits, ONNX exports, parity, registration, promotion."""
    for model in project.catalog.models:
        output = project.command(
            "train", DEFINITIONS, "--model", model, "--end", size.history_until.isoformat(), "--json"
        )
        result = json.loads(output.strip().splitlines()[-1])
        auc = result["metrics"]["auc"]
        project.console.print(f"{model} version {result['version']}: validation AUC {auc:.3f}, parity checked")


def _live(project: _Project, player: Player, timetable: pl.DataFrame, size: Size) -> Asked:
    """Step 4: serve, play on, and ask at the query times of every n-th day."""
    asked = Asked()
    days = [size.history_until + timedelta(days=n) for n in range((size.live_until - size.history_until).days)]
    fields = list(project.catalog.service("flight_features").request_fields)
    brokers = ("--bootstrap-servers", project.bootstrap_servers)
    with (
        project.running("features", "run", "features", DEFINITIONS, *brokers),
        project.running("serve", "serve", DEFINITIONS, "--port", "0") as serving,
        InferenceClient(_address(serving)) as client,
        project.producers(linger_ms=0) as producers,
        project.progress() as progress,
    ):
        player.use(producers)
        follower = project.follower()
        task = progress.add_task("live days", total=len(days))
        for number, day in enumerate(days):
            if number % size.every_nth_day == 0:
                rows = timetable.filter(pl.col("at").is_between(day, day + timedelta(days=1), closed="left"))
                ask_through(list(rows.iter_rows(named=True)), player, follower, client, fields, asked)
            player.play_until(day + timedelta(days=1))
            follower.wait_for(player.delivered)
            progress.update(task, advance=1, description=f"live days, {len(asked.answers)} asked")
        follower.close()
        static = client.predict_batch(
            "late_departure_static", {name: [row[name] for row in asked.rows] for name in _static_fields(project)}
        )
        asked.static = [float(value) for value in static.values]
    return asked


def _static_fields(project: _Project) -> list[str]:
    return list(project.catalog.service("static_features").request_fields)


def _address(log: Path) -> str:
    """Return where the server listens, as it says when it is ready.

    Raises:
        StreamFTIError: if it does not say so in time.
    """
    found: list[str] = []

    def announced() -> bool:
        found.extend(re.findall(r"^listening on (\S+)", log.read_text(), re.MULTILINE))
        return bool(found)

    if not wait_until(announced, within_s=_START_S):
        msg = f"`streamfti serve` must say where it listens, got: {log.read_text()[-500:]}"
        raise StreamFTIError(msg)
    return found[0]


def _report(
    project: _Project, asked: Asked, began: float, events: int, events_per_second: float, verified: skew.Report
) -> Report:
    """Step 6: measure."""
    log = OfflineLog(project.home / "log")
    if verified.skew_rows:
        project.console.print(skew.report_table(verified))
    late = _labels(project, log, asked.rows)
    known = np.array([label is not None for label in late])
    truth = np.array([bool(label) for label in late])[known]
    served = np.array([float(answer[0]) for answer in asked.answers])
    return Report(
        events=events,
        events_per_second=round(events_per_second),
        predictions=len(asked.answers),
        auc=round(float(roc_auc_score(truth, served[known])), 4),
        auc_static=round(float(roc_auc_score(truth, np.array(asked.static)[known])), 4),
        freshness_ms_p50=_percentile_ms(asked.freshness_s, 50),
        freshness_ms_p99=_percentile_ms(asked.freshness_s, 99),
        predict_ms_p50=_percentile_ms(asked.predict_s, 50),
        predict_ms_p99=_percentile_ms(asked.predict_s, 99),
        skew_probes=verified.probes,
        skew_rows=verified.skew_rows,
        elapsed=round(time.monotonic() - began, 1),
    )


def _percentile_ms(seconds: Sequence[float], percent: float) -> float:
    return round(float(np.percentile(seconds, percent)) * 1000, 2)


def _labels(project: _Project, log: OfflineLog, rows: Sequence[Mapping[str, Any]]) -> list[bool | None]:
    """Return whether each flight left late, None for those that never left."""
    left = log.read(project.catalog.source("departures"), columns=["flight_id", "delay_minutes"])
    delays = dict(left.select("flight_id", "delay_minutes").iter_rows())
    return [None if row["flight_id"] not in delays else delays[row["flight_id"]] >= 15 for row in rows]


def _verify(project: _Project, asked: Asked) -> skew.Report:
    """Step 5: prove, as `streamfti verify --vectors` does with the files that are written here."""
    folder = project.home / "served"
    folder.mkdir()
    service = project.catalog.service("flight_features")
    fingerprint = asked.answers[0].model.service_fingerprint
    for group in service.groups:
        features = service.features_of(group)
        with VectorWriter(folder / f"{group.name}.parquet", group, features, fingerprint) as writer:
            writer.write(_served(asked, group, features))
    online = OnlineReader(project.redis_url)
    stores = Stores(OfflineLog(project.home / "log"), online, SystemClock())
    report = verify_vectors(project.catalog, folder, stores, log_wait_s=0, on_progress=lambda _step, _done: None)
    online.close()
    return report


def _served(asked: Asked, group: FeatureGroup, features: Sequence[Feature]) -> ServedFeatures:
    """Return what was served of one group."""
    vectors = [answer.features for answer in asked.answers if answer.features is not None]
    keys = pl.DataFrame([{f: row[f] for f in group.entity} for row in asked.rows], infer_schema_length=None)
    applied = [next(p for p in vector.progress if p.group == group.name).partitions for vector in vectors]
    return ServedFeatures(
        keys,
        np.array([vector.query_time_us for vector in vectors]),
        {f.qualified_name: _stacked([v.columns[f.qualified_name] for v in vectors]) for f in features},
        {0: np.array([p[0].next_offset if 0 in p else 0 for p in applied])},
        np.array(asked.read_at_us),
    )


def _stacked(columns: Sequence[FeatureColumn]) -> FeatureColumn:
    return FeatureColumn(np.concatenate([c.values for c in columns]), np.concatenate([c.status for c in columns]))


def table(report: Report) -> Table:
    """Return the report for people."""
    shown = Table(title="a year of flights, end to end", show_header=False)
    for name, value in asdict(report).items():
        shown.add_row(name.replace("_", " "), f"{value:,}")
    return shown
