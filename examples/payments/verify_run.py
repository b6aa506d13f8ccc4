"""Payments through a feature pipeline that is killed in the middle, and proof that nothing of it can be seen.

`python -m examples.payments.verify_run` starts its own Redis and Kafka, sends payments of the last day and a half, many
of them late, kills the feature pipeline (SIGKILL) when a quarter of them can be read, starts it again, and runs
`streamfti verify` against it while more payments arrive. The last line is what it found.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from streamfti.clock import SystemClock
from streamfti.definitions.catalog import load_catalog
from streamfti.definitions.durations import HOUR_US
from streamfti.dev.process import ServerProcess
from streamfti.dev.servers import DevServers
from streamfti.errors import SettingsError, StreamFTIError
from streamfti.feature_pipeline.avro_schema import avro_schema
from streamfti.feature_pipeline.producer import EventProducer
from streamfti.settings import Settings
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.online.record_reader import RecordReader
from streamfti.stores.online.redis_store import OnlineReader
from streamfti.stores.schemas.file_registry import FileSchemaRegistry

from .definitions import payments as payments_source
from .producer import PaymentEncoder, Payments, due_rows

__all__ = ["main"]

DEFINITIONS = Path(__file__).parent / "definitions.py"
PARTITIONS = 4
_HISTORY_US = 36 * HOUR_US
_LATE_SHARE, _LATE_MEAN = 0.1, "10m"
_TRICKLE_S = 0.002  # between two payments while it is verified
_LOG_AGE = "5s"
_STOP_S = 60.0
_LOOK_S = 0.05
_PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class Killed:
    """Where the feature pipeline was when it was killed: events that could be read, and those in the log."""

    readable: int
    logged: int


class Run:
    """The folder, the servers, and what happens between them.

    Args:
        settings: where everything is.
        console: for people.
    """

    def __init__(self, settings: Settings, console: Console) -> None:
        self._settings, self._console = settings, console
        self._online = OnlineReader(settings.redis_url)
        self._log = OfflineLog(settings.log_folder)
        self._reader = RecordReader(list(load_catalog(DEFINITIONS).groups.values()), self._online)

    def command(self, *words: object) -> list[str]:
        """Return a command of StreamFTI."""
        return [sys.executable, "-m", "streamfti.cli", *map(str, words)]

    def environment(self) -> Mapping[str, str]:
        """Return the environment in which our commands find the servers."""
        return os.environ | {
            "STREAMFTI_HOME": str(self._settings.home),
            "REDIS_URL": self._settings.redis_url,
            "KAFKA_BOOTSTRAP_SERVERS": self._settings.bootstrap_servers,
        }

    def apply(self) -> None:
        """Make the topics."""
        words = ("apply", DEFINITIONS, "--partitions", PARTITIONS, "--topic-config", "retention.ms=-1")
        subprocess.run(  # noqa: S603  # our own program with our own arguments
            self.command(*words), env=self.environment(), check=True, stdout=subprocess.DEVNULL
        )

    @contextmanager
    def producer(self) -> Iterator[tuple[EventProducer, PaymentEncoder]]:
        """Open what sends payments."""
        registry = FileSchemaRegistry(self._settings.schemas_folder)
        encoder = PaymentEncoder(registry.register(payments_source.topic, avro_schema(payments_source.schema)))
        with EventProducer(self._settings.bootstrap_servers, payments_source, registry, linger_ms=20) as producer:
            yield producer, encoder

    def features(self, name: str) -> ServerProcess:
        """Start `run features` in a process of its own, which is gone when we are."""
        options = ["--home", self._settings.home, "--redis-url", self._settings.redis_url, "--log-max-age", _LOG_AGE]
        brokers = ["--bootstrap-servers", self._settings.bootstrap_servers]
        words = self.command("run", "features", DEFINITIONS, *options, *brokers)
        return ServerProcess(name, words, self._settings.home / name, grace_s=_STOP_S)

    def readable(self) -> int:
        """Return how many messages every group has applied."""
        _, progress = self._reader.read_with_progress([])
        return min(sum(p.next_offset for p in of_group.values()) for of_group in progress)

    def logged(self) -> int:
        """Return how many messages the log has taken in."""
        return sum(self._log.positions(payments_source).values())

    def wait(self, process: ServerProcess, wanted: int, what: str) -> None:
        """Return when so many messages can be read.

        Raises:
            StreamFTIError: if the pipeline ends before, or it takes too long.
        """
        began = time.monotonic()
        with self._progress() as progress:
            task = progress.add_task(what, total=wanted)
            while (done := self.readable()) < wanted:
                progress.update(task, completed=done)
                if not process.running:
                    must = "keep running"
                    raise process.failure(must)
                if time.monotonic() - began > _PATIENCE_S:
                    msg = f"{wanted:,} payments must be readable within {_PATIENCE_S:.0f} s, got {done:,}"
                    raise StreamFTIError(msg)
                time.sleep(_LOOK_S)

    def verify(self, probes: int, words: list[str]) -> subprocess.CompletedProcess[str]:
        """Run `streamfti verify` and return what it printed."""
        options = ("--probes", probes, "--log-wait", 60, *words)
        return subprocess.run(  # noqa: S603  # our own program with our own arguments
            self.command("verify", DEFINITIONS, *options),
            env=self.environment(),
            check=False,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _progress(self) -> Progress:
        columns = (TextColumn("{task.description:<26}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        return Progress(*columns, console=self._console, disable=not self._console.is_terminal)

    def close(self) -> None:
        """Let go of the online store."""
        self._online.close()


@click.command()
@click.option("--events", type=click.IntRange(100), default=1_000_000, show_default=True, help="How many payments.")
@click.option("--probes", type=click.IntRange(1), default=1_000_000, show_default=True, help="How many to verify.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Which payments and probes.")
@click.option("--home", type=click.Path(path_type=Path), help="Keep everything in this folder; by default, nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one last line of JSON.")
def main(*, events: int, probes: int, seed: int, home: Path | None, as_json: bool) -> None:
    """Kill a feature pipeline in the middle of payments, start it again, and verify every feature group.

    Exit code 1 if `streamfti verify` finds a value that the log does not confirm.
    """
    if home is not None and home.exists() and any(home.iterdir()):
        msg = f"the folder of a run must be empty, got {home}"
        raise SettingsError(msg, hint="the embedded broker forgets its topics, so nothing can go on")
    folder = tempfile.TemporaryDirectory(prefix="streamfti-verify-run-") if home is None else nullcontext(str(home))
    with folder as place, DevServers(Path(place) / "servers") as servers:
        settings = Settings(Path(place), servers.redis_url, servers.bootstrap_servers)
        run = Run(settings, Console(stderr=True))
        code = _play(run, events, probes, seed, as_json=as_json)
        run.close()
    raise SystemExit(code)


def _play(run: Run, events: int, probes: int, seed: int, *, as_json: bool) -> int:
    """Do it, in order, and return the exit code.

    1. Make the topics and send half of the payments.
    2. Start the feature pipeline, and kill it when half of those can be read.
    3. Start it again, send the rest, and wait until everything can be read.
    4. Verify, while payments go on arriving.
    """
    began = time.monotonic()
    run.apply()  # 1.
    rows = _rows(events, seed)
    with run.producer() as (producer, encoder):

        def send(n: int) -> None:
            for row in itertools.islice(rows, n):
                producer.send_encoded(encoder.encode(row), row["card_id"].encode())
            producer.flush()

        send(events // 2)
        first = run.features("features-killed")  # 2.
        run.wait(first, events // 4, "until it is killed")
        first.kill()
        killed = Killed(run.readable(), run.logged())
        places = f"{killed.readable:,} payments readable, {killed.logged:,} in the log"
        click.echo(f"killed the feature pipeline (SIGKILL): {places}")
        second = run.features("features")  # 3.
        send(events - events // 2)
        run.wait(second, events, "after the restart")
        click.echo(f"started again: all {events:,} payments readable after {time.monotonic() - began:.0f} s")
        over = threading.Event()
        live = threading.Thread(target=_trickle, args=(producer, encoder, seed, over))
        live.start()
        try:
            found = run.verify(probes, ["--seed", str(seed), *(["--json"] if as_json else [])])  # 4.
        finally:
            over.set()
            live.join()
            second.stop()
    _print(found.stdout, events, killed, as_json=as_json)
    return found.returncode


def _rows(events: int, seed: int) -> Iterator[Mapping[str, Any]]:
    """Iterate over the payments of the last day and a half: in the order in which they were due, many of them late."""
    world = Payments(seed, late_share=_LATE_SHARE, late_mean=_LATE_MEAN, fraud_share=0.01, daily_rhythm=0.5)
    start_us = SystemClock().now_us() - _HISTORY_US
    return (row for _, row in due_rows(world, start_us, _HISTORY_US / events))


def _trickle(producer: EventProducer, encoder: PaymentEncoder, seed: int, over: threading.Event) -> None:
    """Send payments as of now until it is over."""
    world = Payments(seed, late_share=_LATE_SHARE, late_mean=_LATE_MEAN)
    for _, row in due_rows(world, SystemClock().now_us(), _TRICKLE_S * 1e6):
        if over.wait(_TRICKLE_S):
            return
        producer.send_encoded(encoder.encode(row), row["card_id"].encode())


def _print(output: str, events: int, killed: Killed, *, as_json: bool) -> None:
    if not as_json:
        click.echo(output.rstrip())
        return
    lines = output.strip().splitlines()
    found = json.loads(lines[-1]) if lines else {}
    about = {"events": events, "readable_when_killed": killed.readable, "logged_when_killed": killed.logged}
    click.echo(json.dumps(found | about))


if __name__ == "__main__":
    main()
