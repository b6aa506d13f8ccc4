"""The commands of the registry: what is registered, and which version serves. They need no training library."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Column, Table

from streamfti.settings import Settings, settings_options
from streamfti.stores.registry.filesystem import ModelRegistry
from streamfti.stores.registry.manifest import ModelManifest

__all__ = ["json_option", "registry"]

json_option = click.option("--json", "as_json", is_flag=True, help="Print one line of JSON and nothing else.")


@click.group()
def registry() -> None:
    """Look at registered models, and say which version serves."""


@registry.command("list")
@settings_options("home")
@json_option
def list_models(*, settings: Settings, as_json: bool) -> None:
    """List the models with their versions and aliases."""
    store = ModelRegistry(settings.registry_folder)
    found = {name: (store.versions(name), store.aliases(name)) for name in store.names()}
    if as_json:
        click.echo(json.dumps({name: {"versions": v, "aliases": a} for name, (v, a) in found.items()}))
        return
    if not found:
        click.echo("no models yet: `streamfti train` registers one")
        return
    table = Table("model", "versions", "aliases")
    for name, (versions, aliases) in found.items():
        table.add_row(name, ", ".join(map(str, versions)), ", ".join(f"{a} → {v}" for a, v in aliases.items()))
    Console().print(table)


@registry.command()
@click.argument("name")
@click.argument("version", default="champion")
@settings_options("home")
@json_option
def show(name: str, version: str, *, settings: Settings, as_json: bool) -> None:
    """Show VERSION of model NAME: a number or an alias, by default the champion. Every file is checked."""
    store = ModelRegistry(settings.registry_folder)
    manifest = store.load(name, version).manifest
    if as_json:
        click.echo(json.dumps(_manifest_document(manifest)))
        return
    aliases = [alias for alias, target in store.aliases(name).items() if target == manifest.version]
    table = Table("field", Column("value", overflow="fold"), title=f"{name} version {manifest.version}")
    for field, value in (("aliases", ", ".join(aliases) or "none"), *_manifest_document(manifest).items()):
        if field not in {"name", "version"}:
            table.add_row(field, value if isinstance(value, str) else json.dumps(value, indent=1))
    Console().print(table)


@registry.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(min=1))
@click.option("--alias", default="champion", show_default=True, help="The alias to move.")
@settings_options("home")
@json_option
def promote(name: str, version: int, *, alias: str, settings: Settings, as_json: bool) -> None:
    """Point an alias of model NAME at VERSION, after checking the version's files."""
    ModelRegistry(settings.registry_folder).promote(name, version, alias)
    _say_moved(name, alias, version, as_json=as_json)


@registry.command()
@click.argument("name")
@click.option("--alias", default="champion", show_default=True, help="The alias to move.")
@settings_options("home")
@json_option
def rollback(name: str, *, alias: str, settings: Settings, as_json: bool) -> None:
    """Point an alias of model NAME at where it pointed before its last promotion."""
    manifest = ModelRegistry(settings.registry_folder).rollback(name, alias)
    _say_moved(name, alias, manifest.version, as_json=as_json)


def _say_moved(name: str, alias: str, version: int, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"model": name, "alias": alias, "version": version}))
    else:
        click.echo(f"{alias} of {name} is version {version}")


def _manifest_document(manifest: ModelManifest) -> dict[str, Any]:
    return {**asdict(manifest), "created_at": manifest.created_at.isoformat()}
