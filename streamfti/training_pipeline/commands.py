"""The command `train`, and beside it `registry`. Loaded only when one of them is called."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from streamfti.definitions.catalog import load_catalog
from streamfti.settings import Settings, settings_options
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.registry.filesystem import ModelRegistry
from streamfti.training_pipeline.registry_commands import json_option, registry
from streamfti.training_pipeline.run import STAGES, TrainingResult, train_model

__all__ = ["registry", "train"]


def _utc_time(_ctx: click.Context, _param: click.Parameter, value: str | None) -> datetime | None:
    """Read an ISO 8601 time; one without a zone is UTC."""
    if value is None:
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError as exc:
        msg = f"a time must be like 2026-01-31 or 2026-01-31T12:00Z, got {value!r}"
        raise click.BadParameter(msg) from exc
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at


_TIME: dict[str, Any] = {"metavar": "TIME", "callback": _utc_time}


@click.command()
@click.argument("definitions", type=click.Path(path_type=Path))
@click.option("--model", "name", required=True, help="Name of the model in the definition file.")
@settings_options("home")
@click.option("--start", help="First event time of the spine (ISO 8601); by default the first in the log.", **_TIME)
@click.option("--end", help="Where knowledge ends (ISO 8601); by default after the newest label event.", **_TIME)
@click.option("--no-promote", is_flag=True, help="Register the version, and leave the alias `champion` where it is.")
@json_option
def train(
    definitions: Path,
    *,
    name: str,
    settings: Settings,
    start: datetime | None,
    end: datetime | None,
    no_promote: bool,
    as_json: bool,
) -> None:
    """Train a model of DEFINITIONS from the offline log and register it.

    Stored features are joined as of each event's time, the later fifth of the rows is kept for validation, and the
    exported graph must answer as the estimator does, or nothing is registered.
    """
    model = load_catalog(definitions).model(name)
    with _progress(shown=not as_json) as progress:
        result = train_model(
            model,
            OfflineLog(settings.log_folder),
            ModelRegistry(settings.registry_folder),
            start=start,
            end=end,
            promote=None if no_promote else "champion",
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(_result_document(result)))
    else:
        Console().print(_result_table(result))


@contextmanager
def _progress(*, shown: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Draw a bar for each thing that reports progress, on standard error and only for a person."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[part]}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, part="")
            part = STAGES[done] if what == "train" and done < len(STAGES) else f"{done}/{total}"
            bars.update(tasks[what], completed=done, total=total, part=part)

        yield report


def _result_document(result: TrainingResult) -> dict[str, Any]:
    return {
        "model": result.manifest.name,
        "version": result.manifest.version,
        "promoted": result.promoted,
        "metrics": result.metrics,
        "parity": asdict(result.parity),
        "training_set": dict(result.manifest.training_set),
        "timings_s": dict(result.timings),
    }


def _result_table(result: TrainingResult) -> Table:
    manifest, parity = result.manifest, result.parity
    rows = manifest.training_set
    table = Table(title=f"{manifest.name} version {manifest.version}", show_header=False)
    table.add_row("alias", result.promoted or "none moved")
    table.add_row("rows", f"{rows['train_rows']} to train, {rows['validation_rows']} to validate")
    table.add_row("left out", f"{rows['dropped_without_label']} without label, {rows['dropped_immature']} immature")
    for name, value in result.metrics.items():
        table.add_row(name, f"{value:.4f}")
    table.add_row("parity", f"{parity.flips} flips, at most {parity.max_abs_diff:.1e} off in {parity.rows} rows")
    table.add_row("took", ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.timings.items()))
    return table
