"""What a verification found, added up; its rows as a Parquet file, its numbers as a table or a JSON object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from streamfti.clock import from_us
from streamfti.compute.event_columns import key_expression
from streamfti.compute.values import FeatureColumn, Status
from streamfti.definitions.groups import FeatureGroup
from streamfti.errors import StoreError
from streamfti.monitoring.verify import Comparison, SkewRow, Verdict

__all__ = ["Report", "RowWriter", "report_table", "row_writer"]

_KEPT_BUGS = 20
_NAMES = {verdict: verdict.name.lower().replace("_", " ") for verdict in Verdict} | {Verdict.BUG: "BUG"}


@dataclass(slots=True)
class Report:
    """The sum of comparisons.

    Attributes:
        probes: reads that were compared: one entity of a group at one time.
        skew_rows: those with at least one value that differs without an explanation.
        counts: by feature, how many values have each verdict.
        bugs: the first of the values that differ.
        seconds: how long it took.
    """

    probes: int = 0
    skew_rows: int = 0
    counts: dict[str, dict[Verdict, int]] = field(default_factory=dict)
    bugs: list[SkewRow] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, found: Comparison) -> None:
        """Take in one comparison."""
        self.probes += found.probes
        self.skew_rows += found.skew_rows
        for feature, counts in found.counts().items():
            own = self.counts.setdefault(feature, {})
            for verdict, n in counts.items():
                own[verdict] = own.get(verdict, 0) + n
        self.bugs += islice(found.bugs(), _KEPT_BUGS - len(self.bugs))

    @property
    def values(self) -> int:
        """How many feature values were looked at."""
        return sum(sum(counts.values()) for counts in self.counts.values())

    def by_verdict(self) -> dict[Verdict, int]:
        """Return how many values have each verdict, all features together."""
        return {v: sum(counts.get(v, 0) for counts in self.counts.values()) for v in Verdict}

    def document(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "skew_rows": self.skew_rows,
            "probes": self.probes,
            "values": self.values,
            "verdicts": _by_name(self.by_verdict()),
            "features": {name: _by_name(counts) for name, counts in self.counts.items()},
            "seconds": round(self.seconds, 3),
        }


def _by_name(counts: Mapping[Verdict, int]) -> dict[str, int]:
    return {verdict.name.lower(): n for verdict, n in counts.items()}


def report_table(report: Report) -> RenderableType:
    """Return a report for people: a line a feature, then the first values that are bugs."""
    verdicts = [verdict for verdict, n in report.by_verdict().items() if n or verdict in {Verdict.EQUAL, Verdict.BUG}]
    table = Table(title="served values against the log", title_justify="left", title_style="bold")
    table.add_column("feature", overflow="fold")
    for verdict in verdicts:
        table.add_column(_NAMES[verdict], justify="right")
    for name, counts in report.counts.items():
        table.add_row(name, *(_cell(verdict, counts.get(verdict, 0)) for verdict in verdicts))
    totals = report.by_verdict()
    table.add_section()
    table.add_row(f"{report.probes:,} probes", *(_cell(verdict, totals[verdict]) for verdict in verdicts))
    return Group(table, *(Text(_bug_text(bug), "red") for bug in report.bugs))


def _cell(verdict: Verdict, n: int) -> Text:
    return Text(f"{n:,}", "bold red" if verdict is Verdict.BUG and n else "")


def _bug_text(bug: SkewRow) -> str:
    entity = ", ".join(f"{name}={value!r}" for name, value in bug.entity.items())
    served, recomputed = _said(bug.served, bug.served_status), _said(bug.recomputed, bug.recomputed_status)
    at = from_us(bug.query_time_us).isoformat()
    return f"BUG {bug.feature} of {entity} as of {at}: served {served}, the log says {recomputed}"


def _said(value: float | str, status: int) -> str:
    known = [s.name for s in Status if s == status]
    return f"{value!r} ({known[0] if known else f'status {status}'})"


class RowWriter:
    """Writes comparisons row by row: one row a value, numbers as text, which is exact for integers and floats."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None
        self._probes = 0

    def write(self, group: FeatureGroup, found: Comparison) -> None:
        """Append one comparison.

        Raises:
            StoreError: if the file cannot be written.
        """
        entity = found.served.keys.select(key_expression(group.entity_fields).alias("entity"))["entity"]
        number = np.arange(self._probes, self._probes + found.probes)
        self._probes += found.probes
        for name, verdicts in found.verdicts.items():
            ours, theirs = found.served.columns[name], found.recomputed[name]
            self._write(
                pl.DataFrame(
                    {
                        "probe": number,
                        "group": pl.repeat(group.name, found.probes, dtype=pl.String(), eager=True),
                        "entity": entity,
                        "query_time_us": found.served.query_time_us,
                        "feature": pl.repeat(name, found.probes, dtype=pl.String(), eager=True),
                        "served": _text(ours),
                        "served_status": _status(ours),
                        "recomputed": _text(theirs),
                        "recomputed_status": _status(theirs),
                        "verdict": pl.Series(verdicts).replace_strict(
                            [int(v) for v in Verdict], [v.name.lower() for v in Verdict], return_dtype=pl.String()
                        ),
                    }
                ).to_arrow()
            )

    def _write(self, table: pa.Table) -> None:
        try:
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
            self._writer.write_table(table)
        except OSError as exc:
            msg = f"the rows must be writable to {self._path}, got {exc.strerror or exc}"
            raise StoreError(msg) from exc

    def close(self) -> None:
        """Make the file whole."""
        if self._writer is not None:
            self._writer.close()


@contextmanager
def row_writer(path: Path | None) -> Iterator[RowWriter | None]:
    """Open a writer of rows for the block; None without a path."""
    if path is None:
        yield None
        return
    writer = RowWriter(path)
    try:
        yield writer
    finally:
        writer.close()


def _text(column: FeatureColumn) -> pl.Series:
    present = pl.Series(column.status < Status.EXPIRED)
    values = column.values.tolist() if column.values.dtype == np.object_ else column.values
    frame = pl.DataFrame({"value": values}).select(pl.when(present).then(pl.col("value").cast(pl.String())))
    return frame["value"]


def _status(column: FeatureColumn) -> pl.Series:
    names = {int(status): status.name for status in Status}
    return pl.Series(column.status).replace_strict(names, default="unknown", return_dtype=pl.String())
