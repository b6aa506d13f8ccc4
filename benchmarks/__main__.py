"""`python -m benchmarks ingest`: runs a benchmark and prints its table; with `--json`, one last line of JSON."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.ingest import Measured, measure

__all__ = ["main"]


@click.group()
def main() -> None:
    """Benchmarks: each opens with its question and its method; ratios are of one run on one machine."""


@main.command()
@click.option("--events", default=300_000, show_default=True, help="Events a run.")
@click.option("--repeats", default=5, show_default=True, help="Runs of each arm; they take turns.")
@click.option("--json", "as_json", is_flag=True, help="Print one last line of JSON.")
def ingest(*, events: int, repeats: int, as_json: bool) -> None:
    """How many events a second does one core bring from Kafka into Redis tiles and the Parquet log?"""
    console = Console(stderr=as_json)
    with tempfile.TemporaryDirectory(prefix="streamfti-benchmark-") as folder:
        result = measure(Path(folder), events=events, repeats=repeats, console=console)
    console.print(_table(result.arms))
    console.print(f"share of the floor, per core: {result.share_of_floor:.1%}")
    if as_json:
        click.echo(json.dumps({"ingest": result.document()}))


def _table(arms: dict[str, list[Measured]]) -> Table:
    table = Table("arm", "events/s/core: median", "least", "most", "events/s, wall: median")
    for name, runs in arms.items():
        per_core = sorted(run.per_core for run in runs)
        wall = sorted(run.per_second for run in runs)
        table.add_row(
            name,
            f"{per_core[len(per_core) // 2]:,.0f}",
            f"{per_core[0]:,.0f}",
            f"{per_core[-1]:,.0f}",
            f"{wall[len(wall) // 2]:,.0f}",
        )
    return table


if __name__ == "__main__":
    main()
