"""The commands of a project: `init`, `plan`, `apply`. Options and words only."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from typing_extensions import override

from streamfti.clock import SystemClock, from_us
from streamfti.definitions.catalog import Catalog, load_catalog
from streamfti.errors import SourceError, StoreUnavailable
from streamfti.project.applying import apply_catalog, previous_meanings, stored_meanings
from streamfti.project.plan import Plan, build_plan
from streamfti.project.plan_tables import plan_tables
from streamfti.project.starter import write_project
from streamfti.project.topics import Topics
from streamfti.settings import Settings, settings_options
from streamfti.stores.schemas.opening import open_schema_registry

__all__ = ["apply", "init", "plan"]

_DEFINITIONS = click.argument("definitions", type=click.Path(path_type=Path))
_PIPED_WIDTH = 120  # of tables that do not go to a terminal

T = TypeVar("T")


class _KeyValue(click.ParamType[tuple[str, str]]):
    """Text such as `retention.ms=604800000`."""

    name = "key=value"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"it must be KEY=VALUE such as retention.ms=604800000, got {value!r}", param, ctx)
        return key, text


@click.command(
    epilog="""\b
Examples:
  streamfti init
  streamfti init payments"""
)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=Path())
def init(folder: Path) -> None:
    """Write a small project into FOLDER, by default the current one: definitions, events, a README.

    Nothing is ever overwritten.
    """
    for path in write_project(folder, from_us(SystemClock().now_us())):
        click.echo(f"wrote {path}")
    where = "" if folder == Path() else f"cd {shlex.quote(str(folder))}, then "
    click.echo(f"next: {where}`streamfti dev up` in a terminal of its own, and `streamfti apply definitions.py`")


@click.command(
    epilog="""\b
Examples:
  streamfti plan definitions.py
  streamfti plan definitions.py --offline --json"""
)
@_DEFINITIONS
@click.option("--offline", is_flag=True, help="Ask neither the broker nor the online store.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@settings_options("redis_url", "bootstrap_servers")
@click.pass_context
def plan(context: click.Context, definitions: Path, *, offline: bool, as_json: bool, settings: Settings) -> None:
    """Show what DEFINITIONS stands for, and how that compares with what is there. Changes nothing.

    For a feature group that has changed it says what, and what that needs: nothing, where the change can be read from
    what is stored, such as a window over tiles that are there; else a new version, and `streamfti materialize`. Exit
    code 1 if a group needs a new version. A broker or an online store that does not answer is said to be unknown.
    """
    built = _plan(load_catalog(definitions), None if offline else settings)
    if as_json:
        click.echo(json.dumps(built.document()))
    else:
        Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH).print(plan_tables(built))
    for group in built.changed:
        click.echo(f"error: feature group {group.name!r} is stored in another form under its version", err=True)
        click.echo(f"hint: set version={group.version + 1} for the changed group", err=True)
    if built.changed:
        context.exit(1)


def _plan(catalog: Catalog, settings: Settings | None) -> Plan:
    if settings is None:
        return build_plan(catalog, partitions=None, stored=None)
    partitions = _if_answered(Topics(settings.bootstrap_servers).partitions)
    groups = catalog.groups.values()
    stored = _if_answered(lambda: stored_meanings(settings.redis_url, groups))
    previous = None if stored is None else _if_answered(lambda: previous_meanings(settings.redis_url, groups))
    return build_plan(catalog, partitions=partitions, stored=stored, previous=previous)


def _if_answered(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except (SourceError, StoreUnavailable) as exc:
        click.echo(f"note: {exc.message}", err=True)
        return None


@click.command(
    epilog="""\b
Examples:
  streamfti apply definitions.py
  streamfti apply definitions.py --partitions 12 --topic-config retention.ms=604800000"""
)
@_DEFINITIONS
@click.option(
    "--partitions", type=click.IntRange(1), default=4, show_default=True, help="Partitions of a new source topic."
)
@click.option(
    "--replication-factor",
    type=click.IntRange(-1),
    default=-1,
    show_default="the broker's",
    help="Copies of a new topic.",
)
@click.option(
    "--topic-config", multiple=True, type=_KeyValue(), help="Configuration of a new source topic; may be repeated."
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
@settings_options("home", "redis_url", "bootstrap_servers", "schema_registry_url")
def apply(
    definitions: Path,
    *,
    partitions: int,
    replication_factor: int,
    topic_config: tuple[tuple[str, str], ...],
    as_json: bool,
    settings: Settings,
) -> None:
    """Create what DEFINITIONS needs and what is missing. Safe to repeat; what is there is left as it is.

    That is: a topic for each source and one for its dead letters, the schema of its events in the format of the
    source, and in the online store what each feature group means.
    """
    done = apply_catalog(
        load_catalog(definitions),
        Topics(settings.bootstrap_servers, replication_factor=replication_factor),
        open_schema_registry(settings.schema_registry_url, settings.schemas_folder),
        redis_url=settings.redis_url,
        partitions=partitions,
        topic_config=dict(topic_config),
    )
    if as_json:
        click.echo(json.dumps([asdict(item) for item in done]))
        return
    for item in done:
        click.echo(f"{'created' if item.is_new else 'exists':<8}{item.kind:<7} {item.name} ({item.detail})")
