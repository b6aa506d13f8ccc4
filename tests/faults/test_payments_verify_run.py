"""The payments run at a small size: killed in the middle, started again, verified while payments arrive."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from examples.payments import definitions
from streamfti.definitions.catalog import load_catalog

ROOT = Path(__file__).parents[2]
EVENTS, PROBES = 20_000, 6_000


def test_a_killed_and_restarted_pipeline_leaves_no_skew(tmp_path: Path) -> None:
    words = ["--events", str(EVENTS), "--probes", str(PROBES), "--home", str(tmp_path / "run"), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "examples.payments.verify_run", *words],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["skew_rows"], found["probes"], found["events"]) == (0, PROBES, EVENTS)
    assert EVENTS // 4 <= found["readable_when_killed"] < EVENTS
    assert found["logged_when_killed"] <= found["readable_when_killed"]
    groups = load_catalog(Path(definitions.__file__)).groups.values()
    assert PROBES % len(groups) == 0
    values = PROBES // len(groups) * sum(len(group.features) for group in groups)
    assert sum(found["verdicts"].values()) == found["values"] == values
