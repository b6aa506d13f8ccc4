"""The command `verify`. Options and words only."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from streamfti.clock import SystemClock
from streamfti.compute.stored_state import stored_state
from streamfti.definitions.aggregations import Feature
from streamfti.definitions.catalog import Catalog, load_catalog
from streamfti.definitions.groups import FeatureGroup
from streamfti.errors import DefinitionError
from streamfti.monitoring.report import Report, report_table, row_writer
from streamfti.monitoring.verification import OnProgress, Stores, ask_drawn, verify_vectors
from streamfti.settings import Settings, settings_options
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.online.meaning import check_stored_meaning
from streamfti.stores.online.redis_store import OnlineReader

__all__ = ["verify"]

_PIPED_WIDTH = 120


@click.command(
    epilog="""\b
Examples:
  streamfti verify definitions.py
  streamfti verify definitions.py --probes 1000000 --seed 7 --group CardSpend
  streamfti verify definitions.py --vectors served/ --rows skew.parquet --json"""
)
@click.argument("definitions", type=click.Path(path_type=Path))
@click.option("--probes", type=click.IntRange(1), default=10_000, show_default=True, help="How many reads to draw.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Another one draws other probes.")
@click.option("--group", "groups", multiple=True, help="A feature group to draw from; may be repeated.")
@click.option("--service", help="Draw from the features of this service.")
@click.option(
    "--vectors",
    type=click.Path(exists=True, path_type=Path),
    help="Compare served vectors instead: a Parquet file, or a folder of them.",
)
@click.option(
    "--rows", "rows_file", type=click.Path(dir_okay=False, path_type=Path), help="Write each value to a Parquet file."
)
@click.option(
    "--log-wait",
    "log_wait_s",
    type=click.FloatRange(0),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until the log holds what had been applied.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as one line of JSON.")
@settings_options("home", "redis_url")
def verify(
    definitions: Path,
    *,
    probes: int,
    seed: int,
    groups: tuple[str, ...],
    service: str | None,
    vectors: Path | None,
    rows_file: Path | None,
    log_wait_s: float,
    as_json: bool,
    settings: Settings,
) -> None:
    """Prove that the online features of DEFINITIONS are what the offline log says, value by value.

    Draws entities and query times and asks the online store, or takes vectors that were served, and computes the same
    features again from the log, over just the events that had been applied at each read. A feature pipeline may run
    meanwhile.

    Each value is: equal; in flight (equal, and an event of the entity arrived after the read); too late (the online
    store does not keep that past); unlogged (it differs, and the log does not hold yet what had been applied);
    version (served by another definition); or a BUG. Integers must be equal, floats to 1e-9. Exit code 1 on any BUG.
    """
    clock, catalog = SystemClock(), load_catalog(definitions)
    if vectors is not None and (groups or service):
        msg = "--vectors compares what its files hold; --group and --service draw probes"
        raise click.UsageError(msg)
    began = clock.monotonic()
    online = OnlineReader(settings.redis_url)
    stores = Stores(OfflineLog(settings.log_folder, clock=clock), online, clock)
    folder = tempfile.TemporaryDirectory(prefix="streamfti-verify-") if vectors is None else nullcontext(str(vectors))
    with folder as place, _progress_bar(2 * probes if vectors is None else None) as show, row_writer(rows_file) as rows:
        if vectors is None:
            asked = _asked(catalog, groups, service)
            check_stored_meaning([(group, stored_state(group)) for group, _ in asked], online)
            ask_drawn(asked, Path(place), stores, n=probes, seed=seed, on_progress=show)
        report = verify_vectors(catalog, Path(place), stores, log_wait_s=log_wait_s, rows=rows, on_progress=show)
    online.close()
    report.seconds = clock.monotonic() - began
    _print(report, as_json=as_json)
    if report.skew_rows:
        raise SystemExit(1)


def _asked(
    catalog: Catalog, names: Sequence[str], service_name: str | None
) -> list[tuple[FeatureGroup, tuple[Feature, ...]]]:
    """Return the groups to draw from and their features.

    Raises:
        DefinitionError: if there is no such group or service, or no group at all.
    """
    chosen = [catalog.group(name) for name in dict.fromkeys(names)]
    if service_name is None:
        asked = [(group, group.features) for group in chosen or catalog.groups.values()]
    else:
        service = catalog.service(service_name)
        asked = [(group, service.features_of(group)) for group in service.groups if not chosen or group in chosen]
    if not asked:
        msg = "there must be a feature group to draw probes from, got none"
        raise DefinitionError(msg, hint="does the service use the groups that --group names?" if service_name else "")
    return asked


def _print(report: Report, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report.document()))
        return
    Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH).print(report_table(report))
    click.echo(f"{report.probes:,} probes, {report.values:,} values in {report.seconds:.1f} s")
    click.echo(f"skew_rows: {report.skew_rows}")


@contextmanager
def _progress_bar(total: int | None) -> Iterator[OnProgress]:
    """Show a bar on a terminal and nothing elsewhere; yield what takes the step and how many probes it has done."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading the log", total=total)
        yield lambda step, done: progress.update(task, description=step, advance=done)
