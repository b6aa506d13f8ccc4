"""The commands of the feature pipeline: `run features`, `produce`, `materialize`. Options and words only."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from typing_extensions import override

from streamfti.clock import SystemClock
from streamfti.definitions.catalog import load_catalog
from streamfti.definitions.durations import SECOND_US, duration_us
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.sources import HISTORY_PARTITION
from streamfti.errors import DefinitionError
from streamfti.feature_pipeline.assembly import Engine, FeatureRun, RunSummary, build_feature_run, metrics_endpoint
from streamfti.feature_pipeline.event_files import Sent, count_rows, read_events, send_events
from streamfti.feature_pipeline.kafka_source import topic_partitions
from streamfti.feature_pipeline.materialize import materialize as fill_group
from streamfti.feature_pipeline.pipeline import LogPolicy
from streamfti.feature_pipeline.producer import EventProducer
from streamfti.feature_pipeline.runner import StopSignal
from streamfti.settings import Settings, settings_options
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.schemas.opening import open_schema_registry

__all__ = ["materialize", "produce", "run"]

_DEFINITIONS = click.argument("definitions", type=click.Path(path_type=Path))
_PORT = click.IntRange(0, 65535)
_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:/s)?")


class _Seconds(click.ParamType[float]):
    """A duration such as `30s`, as seconds."""

    name = "duration"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return duration_us(value, subject="it") / SECOND_US
        except DefinitionError as exc:
            self.fail(exc.message, param, ctx)


class _Rate(click.ParamType[float]):
    """Events a second, such as `100/s` or `100`."""

    name = "n/s"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = _RATE.fullmatch(str(value))
        if found is None or float(found[1]) <= 0:
            self.fail(f"it must be a number of events a second such as 100/s, got {value!r}", param, ctx)
        return float(found[1])


@click.group()
def run() -> None:
    """Run a pipeline in this process, until it is stopped."""


@run.command(
    epilog="""\b
Examples:
  streamfti run features definitions.py
  streamfti run features definitions.py --until-caught-up --json
  streamfti run features definitions.py --source payments --metrics-port 9100"""
)
@_DEFINITIONS
@click.option("--source", "sources", multiple=True, help="A source to read; may be repeated. By default, all of them.")
@click.option(
    "--also",
    type=click.Path(path_type=Path),
    help="Other definitions of the same events, whose groups are kept up to date too: the versions before.",
)
@settings_options("home", "redis_url", "bootstrap_servers", "schema_registry_url")
@click.option("--metrics-port", type=_PORT, help="Port for Prometheus; 0 takes a free one. By default, none.")
@click.option("--metrics-host", default="127.0.0.1", show_default=True, help="Address to bind for Prometheus.")
@click.option("--until-caught-up", is_flag=True, help="Stop by itself at the end of the topics.")
@click.option(
    "--engine", type=click.Choice(["bytewax", "plain"]), default="bytewax", show_default=True, help="What runs it."
)
@click.option(
    "--log-max-age",
    type=_Seconds(),
    default="30s",
    show_default=True,
    help="Events are in the offline log at most so long after they were read.",
)
@click.option(
    "--log-max-rows",
    type=click.IntRange(1),
    default=LogPolicy().max_rows,
    show_default=True,
    help="Or as soon as so many wait for it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one line of JSON.")
def features(
    definitions: Path,
    *,
    sources: tuple[str, ...],
    also: Path | None,
    settings: Settings,
    metrics_port: int | None,
    metrics_host: str,
    until_caught_up: bool,
    engine: Engine,
    as_json: bool,
    **log: Any,  # noqa: ANN401  # the options of the offline log, by name
) -> None:
    """Keep the features and the offline log of DEFINITIONS up to date with their topics.

    It begins where the stores are, and runs until SIGTERM or Ctrl-C, which end it after the batch at hand, with
    everything durable and exit code 0. A second signal ends it at once, which loses nothing either: the next run
    reads again what was not durable.
    """
    stop = StopSignal(when_caught_up=until_caught_up)
    policy = LogPolicy(max_rows=log["log_max_rows"], max_age_s=log["log_max_age"])
    with _stopped_by_signals(stop):
        catalog, others = load_catalog(definitions), None if also is None else load_catalog(also)
        built = build_feature_run(catalog, sources, settings, clock=SystemClock(), log_policy=policy, also=others)
        with metrics_endpoint(built.registry, metrics_host, metrics_port) as endpoint:
            _announce(built, endpoint)
            summary = built.run(engine, stop)
    click.echo(json.dumps(_summary_document(summary)) if as_json else _summary_text(summary))


@contextmanager
def _stopped_by_signals(stop: StopSignal) -> Iterator[None]:
    """Let the first SIGTERM or SIGINT ask for an orderly end; the next one has its usual effect."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in numbers:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        restore()


def _announce(built: FeatureRun, endpoint: str | None) -> None:
    """Say on stderr what is read and from where; stdout is for the summary."""
    for source in built.sources:
        places = [
            f"{partition} from {'the oldest' if offset is None else offset}"
            for (topic, partition), offset in built.positions.items()
            if topic == source.topic
        ]
        click.echo(f"reading {source.name}: partition {', '.join(places)}", err=True)
    if endpoint:
        click.echo(f"metrics at {endpoint}", err=True)


def _summary_document(summary: RunSummary) -> dict[str, Any]:
    by_source = {name: {"events": n, "dead_letters": summary.dead_letters[name]} for name, n in summary.events.items()}
    return {
        "events": sum(summary.events.values()),
        "dead_letters": sum(summary.dead_letters.values()),
        "seconds": round(summary.seconds, 3),
        "events_per_second": round(summary.events_per_second, 1),
        "sources": by_source,
    }


def _summary_text(summary: RunSummary) -> str:
    return (
        f"{sum(summary.events.values()):,} events and {sum(summary.dead_letters.values()):,} dead letters "
        f"in {summary.seconds:.1f} s ({summary.events_per_second:,.0f} events/s)"
    )


@click.command(
    epilog="""\b
Examples:
  streamfti produce definitions.py --source payments events.jsonl --key card
  streamfti produce definitions.py --source payments history.parquet --ingest-time-from-event
  generate | streamfti produce definitions.py --source payments - --rate 100/s"""
)
@_DEFINITIONS
@click.option("--source", "source_name", required=True, help="The source whose events these are.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--key", metavar="FIELD", help="The field that decides the partition. By default, they take turns.")
@click.option("--rate", type=_Rate(), help="At most so many events a second, such as 100/s.")
@click.option(
    "--ingest-time-from-event", is_flag=True, help="For history: messages carry the event time as the broker's time."
)
@click.option("--skip-invalid", is_flag=True, help="Leave out and count rows that are no events, instead of stopping.")
@settings_options("home", "bootstrap_servers", "schema_registry_url")
def produce(
    definitions: Path,
    *,
    source_name: str,
    file: Path,
    key: str | None,
    rate: float | None,
    ingest_time_from_event: bool,
    skip_invalid: bool,
    settings: Settings,
) -> None:
    """Send the events of FILE to the topic of a source.

    FILE is .jsonl, .csv or .parquet with the fields of the event class by name; `-` reads JSON lines from standard
    input. Times are ISO 8601 with a zone (2026-01-31T12:00:00Z) or whole microseconds since 1970.

    A source of upserts takes rows, and the key alone with "_deleted": true where a row is gone.
    """
    source = load_catalog(definitions).source(source_name)
    if key is not None:
        source.schema.field(key)
    path = None if str(file) == "-" else file
    topic_partitions(settings.bootstrap_servers, [source.topic])
    registry = open_schema_registry(settings.schema_registry_url, settings.schemas_folder)
    clock = SystemClock()
    began = clock.monotonic()
    with (
        EventProducer(settings.bootstrap_servers, source, registry, key_field=key) as producer,
        _progress_bar("sent", lambda: None if path is None else count_rows(path)) as show,
    ):
        sent = send_events(
            read_events(path, sys.stdin.buffer, source),
            producer,
            source,
            clock=clock,
            per_second=rate,
            ingest_time_from_event=ingest_time_from_event,
            skip_invalid=skip_invalid,
            on_sent=lambda n: show(n, None),
        )
    click.echo(_sent_text(sent, source.topic, clock.monotonic() - began))


def _sent_text(sent: Sent, topic: str, seconds: float) -> str:
    skipped = f"; {sent.skipped:,} rows were no events and were left out" if sent.skipped else ""
    return f"{sent.events:,} events to {topic} in {seconds:.1f} s ({sent.events / seconds:,.0f} events/s){skipped}"


@click.command(
    epilog="""\b
Examples:
  streamfti materialize definitions.py --group CardSpend
  streamfti materialize definitions.py --group CardSpend --from history/
  streamfti materialize definitions.py --group CardSpend --force-rebuild"""
)
@_DEFINITIONS
@click.option("--group", "groups", multiple=True, required=True, help="The feature group to fill; may be repeated.")
@click.option(
    "--from",
    "history",
    type=click.Path(exists=True, path_type=Path),
    help="First add these events of before the topic to the offline log: a Parquet file, or a folder of them.",
)
@click.option("--force-rebuild", is_flag=True, help="Delete what is stored of the group online, and fill it anew.")
@settings_options("home", "redis_url")
def materialize(
    definitions: Path, *, groups: tuple[str, ...], history: Path | None, force_rebuild: bool, settings: Settings
) -> None:
    """Fill the online features of a group from the offline log.

    For a new group or version on a topic that has been read before, and after a Redis that lost its data. No feature
    pipeline may run the group meanwhile; one that runs other groups, such as the version before, may go on, and
    servers too. `run features` goes on from where the log was.

    --from takes events that are not in the topic, with a column for each field of the event. They become part of the
    offline log, all of them or none, and once, so that training sets and `verify` see them too. Without --from, what
    the log holds of them is filled in as the rest of it is.
    """
    catalog, clock = load_catalog(definitions), SystemClock()
    log = OfflineLog(settings.log_folder, clock=clock)
    chosen = [catalog.group(name) for name in dict.fromkeys(groups)]
    if history is not None and len({group.source.name for group in chosen}) > 1:
        msg = "--from is of one source; the groups are of several"
        raise click.UsageError(msg)
    for number, group in enumerate(chosen):
        with _progress_bar(group.name, lambda: None) as show:
            done = fill_group(
                group,
                log,
                redis_url=settings.redis_url,
                clock=clock,
                force_rebuild=force_rebuild,
                history=None if number else history,
                on_progress=show,
            )
        if done.deleted_keys:
            click.echo(f"{group.name}: {done.deleted_keys:,} keys deleted")
        places = ", ".join(_place(group, *found) for found in done.positions.items() if found[0] < HISTORY_PARTITION)
        n_history = sum(offset for lane, offset in done.positions.items() if lane >= HISTORY_PARTITION)
        if n_history:
            click.echo(f"{group.name}: {n_history:,} of the events are history")
        if not places:
            places = "0 from the oldest"
        click.echo(f"{group.name}: {done.events:,} events; the stream goes on in partition {places}")


def _place(group: FeatureGroup, lane: int, offset: int) -> str:
    source, partition = group.stream.place(lane)
    return (
        f"{partition} from {offset}" if len(group.stream.sources) == 1 else f"{source.name}[{partition}] from {offset}"
    )


@contextmanager
def _progress_bar(what: str, count: Callable[[], int | None]) -> Iterator[Callable[[int, int | None], None]]:
    """Show a bar on a terminal and nothing elsewhere; yield what takes the number done, and in all where known.

    Args:
        what: the words before the bar.
        count: how many there will be, if that is known beforehand; asked for a terminal only.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=count() if console.is_terminal else None)

        def show(done: int, of: int | None) -> None:
            progress.update(task, completed=done, total=of)  # None leaves the total as it is

        yield show
