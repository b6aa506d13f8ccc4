"""`streamfti demo`: finds the flights example, which travels with the package, and runs it."""

from __future__ import annotations

import importlib
import json
import tempfile
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import click
from rich.console import Console

__all__ = ["demo"]


@click.command()
@click.option(
    "--size",
    type=click.Choice(["small", "full"]),
    default="full",
    show_default=True,
    help="full: the year 2013, some minutes; small: January, under a minute.",
)
@click.option("--home", type=click.Path(path_type=Path), help="Keep everything in this folder; by default, nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one last line of JSON.")
def demo(*, size: str, home: Path | None, as_json: bool) -> None:
    """Play real flights through the whole of StreamFTI and prove the result.

    Starts Redis and Kafka on this machine, streams the flights that left New York in 2013 through the feature
    pipeline, trains a model on the log, serves it, asks it at the right times, and compares every feature that
    was served with what the log says.
    """
    flights = _flights()
    console = Console(stderr=as_json)
    folder = tempfile.TemporaryDirectory(prefix="streamfti-demo-") if home is None else nullcontext(str(home))
    with folder as place:
        report = flights.run(size, Path(place), console)
    console.print(flights.table(report))
    if as_json:
        click.echo(json.dumps(asdict(report)))
    if report.skew_rows:
        raise SystemExit(1)


def _flights() -> ModuleType:
    """Import the example: beside the package in a checkout, inside it when installed."""
    try:
        return importlib.import_module("streamfti.examples.flights.demo")
    except ModuleNotFoundError as exc:
        if exc.name is None or not exc.name.startswith("streamfti.examples"):
            raise
        return importlib.import_module("examples.flights.demo")
