"""The README is true as far as a machine can tell: its definitions load, its commands parse, its files are there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest

from streamfti import cli
from streamfti.definitions.catalog import Catalog, load_catalog
from streamfti.project.plan import build_plan
from streamfti.project.starter import FILES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)

PLUGIN = "streamfti.testing.pytest_plugin"
MAIN_JOB = "python3 -m venv .venv && .venv/bin/pip install '.[demo]' && .venv/bin/streamfti demo"
TESTS = "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/pytest"


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCKS if found == language]


def commands() -> list[str]:
    """Every call of the CLI: in the shell blocks without their comments, and in the text."""
    lines = [line.partition(" #")[0] for block in blocks("sh") for line in block.splitlines()]
    parts = [part.strip().removeprefix(".venv/bin/") for line in lines for part in line.split("&&")]
    told = re.findall(r"`(streamfti [^`]+)`", README)
    return [part for part in [*parts, *told] if part.startswith("streamfti ")]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """The Python blocks, in their order, as one definition file."""
    path = tmp_path_factory.mktemp("readme") / "definitions.py"
    path.write_text("\n\n".join(blocks("python")), encoding="utf-8")
    return load_catalog(path)


@pytest.mark.parametrize("command", [MAIN_JOB, TESTS])
def test_the_two_commands_stand_in_it_word_for_word(command: str) -> None:
    assert f"```sh\n{command}\n```" in README


def test_its_definitions_are_a_definition_file(catalog: Catalog) -> None:
    plan = build_plan(catalog, partitions=None, stored=None)
    assert [source.name for source in plan.sources] == ["payments", "cards", "logins", "customers", "outcomes"]
    groups = {group.name: group for group in plan.groups}
    group, derived = groups["CardSpend"], groups["LargePayments"]
    (joined,) = (g for g in plan.groups if any(step.startswith("join") for step in g.steps))
    (enriched,) = (g for g in plan.groups if any(step.startswith("enrich") for step in g.steps))
    assert [f.name for f in group.features] == [
        "payments_5m", "payments_1h", "payments_24h", "spend_1h", "spend_24h", "largest_24h",
    ]  # fmt: skip
    assert (group.state, group.steps) == ("unknown", [])
    assert derived.steps == [
        "where Payment.amount_cents >= 10000",
        "derive euros = Payment.amount_cents / 100",
        "apply weight = weight(amount_cents)",
    ]
    assert joined.steps == ["join logins on card_id within 600 s", "where Payment.at >= Payment.login_at"]
    assert enriched.steps == ["enrich with country of customers on card_id"]
    changes = (*groups["CardAttributes"].features, *groups["Branches"].features)
    assert [f.name for f in changes] == ["limit", "cards", "limits_24h"]
    (model,) = plan.models
    assert (model.name, model.service, model.spine) == ("fraud", "fraud_features", "payments")


def test_the_definition_file_without_a_model_stays_short() -> None:
    code = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert len(code) <= 30


def test_there_are_commands_to_check() -> None:
    assert {command.split()[1] for command in commands()} >= set(cli._COMMANDS)


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_a_command_parses(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every argument and option is checked as a call would, in the folder of a new project, and nothing is called."""
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        (tmp_path / name).touch()
    words = shlex.split(command)[1:]
    found: click.Command = cli.main
    context = click.Context(found, info_name="streamfti")
    while isinstance(found, click.Group):
        name, *words = words
        inner = found.get_command(context, name)
        assert inner is not None, f"{context.command_path} has no command {name!r}"
        found, context = inner, click.Context(inner, parent=context, info_name=name)
    found.make_context(context.info_name, words, parent=context.parent).close()


def test_its_unit_tests_pass(tmp_path: Path) -> None:
    """In a run of pytest of its own, with the plugin that comes with the package."""
    (tmp_path / "test_readme.py").write_text("\n\n".join(blocks("python")), encoding="utf-8")
    registered = any(found.value == PLUGIN for found in entry_points(group="pytest11"))
    plugin = [] if registered else ["-p", PLUGIN]  # the installation of a checkout may be older than its sources
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "-p", "no:cacheprovider", *plugin]
    done = subprocess.run(
        [*command, "test_readme.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout  # two tests, and the laws of one aggregation and its two accumulators


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\b(?:tests|streamfti|examples|proto)/[\w./-]*\w", README))))
def test_a_path_that_it_names_is_there(path: str) -> None:
    assert (ROOT / path).exists()
