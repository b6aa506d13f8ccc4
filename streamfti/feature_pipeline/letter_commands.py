"""The commands of dead letters: `dlq list`, `dlq show`, `dlq replay`. Options and words only."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from streamfti.definitions.catalog import load_catalog
from streamfti.definitions.sources import KafkaSource
from streamfti.errors import SourceError
from streamfti.feature_pipeline.letter_payload import payload
from streamfti.feature_pipeline.letter_replay import LetterChoice, Replayed, replay_letters
from streamfti.feature_pipeline.letter_topic import StoredLetter, read_letters
from streamfti.settings import Settings, settings_options
from streamfti.stores.schemas.opening import open_schema_registry

__all__ = ["dlq"]

_PIPED_WIDTH = 160  # of tables that do not go to a terminal

T = TypeVar("T")


class _Place(click.ParamType[tuple[int, int]]):
    """Text such as `0/15`."""

    name = "partition/offset"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        partition, slash, offset = str(value).partition("/")
        if not slash or not partition.isdecimal() or not offset.isdecimal():
            self.fail(f"it must be PARTITION/OFFSET such as 0/15, as `dlq list` prints it, got {value!r}", param, ctx)
        return int(partition), int(offset)


def _of_source(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command the definition file and the option `--source`."""
    named = click.option("--source", "source_name", required=True, help="The source whose dead letters these are.")
    return click.argument("definitions", type=click.Path(path_type=Path))(named(command))


_REASONS = click.option("--reason", "reasons", multiple=True, help="Letters of this reason only; may be repeated.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group()
def dlq() -> None:
    """List, show and replay dead letters: the messages of a source that are no valid events."""


@dlq.command(
    "list",
    epilog="""\b
Examples:
  streamfti dlq list definitions.py --source payments
  streamfti dlq list definitions.py --source payments --reason schema --limit 100 --json""",
)
@_of_source
@_REASONS
@click.option("--limit", type=click.IntRange(0), default=20, show_default=True, help="The newest so many letters.")
@_JSON
@settings_options("home", "bootstrap_servers")
def list_letters(
    definitions: Path, *, source_name: str, reasons: tuple[str, ...], limit: int, as_json: bool, settings: Settings
) -> None:
    """Count the dead letters of a source by reason, and print the newest ones."""
    source = load_catalog(definitions).source(source_name)
    counts: Counter[str] = Counter()
    newest: list[StoredLetter] = []
    for letter in read_letters(settings.bootstrap_servers, source):
        counts[letter.reason] += 1
        if not reasons or letter.reason in reasons:
            newest.append(letter)
            del newest[: max(0, len(newest) - limit)]
    if as_json:
        found = {"topic": source.dead_letter_topic, "total": counts.total(), "reasons": dict(counts)}
        click.echo(json.dumps({**found, "letters": [_document(letter) for letter in newest]}))
        return
    said = ", ".join(f"{reason}: {n:,}" for reason, n in counts.most_common())
    click.echo(f"{source.dead_letter_topic}: {counts.total():,} dead letters" + (f" ({said})" if said else ""))
    if newest:
        Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH).print(_table(source, newest))


def _table(source: KafkaSource, letters: list[StoredLetter]) -> Table:
    table = Table()
    for column in ("letter", f"from {source.topic}", "reason", "path", "replays", "detail"):
        table.add_column(column, overflow="fold")
    for x in letters:
        cells = (x.place, f"{x.source_partition}/{x.source_offset}", x.reason, x.path, str(x.replays), x.detail)
        table.add_row(*(Text(cell) for cell in cells))  # brackets in a plain string would be markup
    return table


def _document(letter: StoredLetter) -> dict[str, Any]:
    return {
        "letter": letter.place,
        "reason": letter.reason,
        "path": letter.path,
        "detail": letter.detail,
        "source_partition": letter.source_partition,
        "source_offset": letter.source_offset,
        "schema_id": letter.schema_id,
        "replays": letter.replays,
        "value_bytes": None if letter.value is None else len(letter.value),
    }


@dlq.command(
    epilog="""\b
Examples:
  streamfti dlq show definitions.py --source payments 0/15
  streamfti dlq show definitions.py --source payments 0/15 --json"""
)
@_of_source
@click.argument("letter", type=_Place())
@_JSON
@settings_options("home", "bootstrap_servers", "schema_registry_url")
def show(definitions: Path, *, source_name: str, letter: tuple[int, int], as_json: bool, settings: Settings) -> None:
    """Show one dead letter: why it is one, and what it holds, as far as that can be read.

    LETTER is its partition and offset in the topic of dead letters, such as 0/15, as `dlq list` prints it.
    """
    source = load_catalog(definitions).source(source_name)
    found = _letter_at(settings.bootstrap_servers, source, letter)
    registry = open_schema_registry(settings.schema_registry_url, settings.schemas_folder)
    key = None if found.key is None else found.key.decode(errors="backslashreplace")
    document = {**_document(found), "key": key, "payload": payload(source, found.value, registry)}
    if as_json:
        click.echo(json.dumps(document, default=str))
        return
    for name, value in document.items():
        is_plain = isinstance(value, str) and value.isprintable()  # a terminal obeys other characters
        click.echo(f"{name + ':':<18}{value if is_plain else json.dumps(value, default=str, indent=2)}")


def _letter_at(bootstrap_servers: str, source: KafkaSource, place: tuple[int, int]) -> StoredLetter:
    partition, offset = place
    for letter in read_letters(bootstrap_servers, source, ends={partition: offset + 1}):
        if letter.offset == offset:
            return letter
    msg = f"{source.dead_letter_topic} must have the letter {partition}/{offset}, got none there"
    raise SourceError(msg, hint="`streamfti dlq list` prints those that there are")


@dlq.command(
    epilog="""\b
Examples:
  streamfti dlq replay definitions.py --source payments --dry-run
  streamfti dlq replay definitions.py --source payments --reason schema
  streamfti dlq replay definitions.py --source payments --from-offset 100 --to-offset 200"""
)
@_of_source
@_REASONS
@click.option("--from-offset", type=click.IntRange(0), default=0, help="Letters from here on; pass over those before.")
@click.option("--to-offset", type=click.IntRange(0), help="Letters before this offset only.")
@click.option("--again", is_flag=True, help="Also letters that have been replayed or passed over already.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@_JSON
@settings_options("home", "bootstrap_servers")
def replay(
    definitions: Path,
    *,
    source_name: str,
    reasons: tuple[str, ...],
    from_offset: int,
    to_offset: int | None,
    again: bool,
    dry_run: bool,
    as_json: bool,
    settings: Settings,
) -> None:
    """Send dead letters back to the topic of their source, each once: the next replay goes on where this one ends.

    For when the definition, the schema or the clock that made them dead letters has been put right. One that fails
    again becomes a new dead letter, which says how often it has been replayed. Run one replay of a source at a time.
    """
    source = load_catalog(definitions).source(source_name)
    choice = LetterChoice(reasons, from_offset, to_offset, again)
    done = replay_letters(settings.bootstrap_servers, source, choice, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps({"topic": source.topic, "dry_run": dry_run, **_counts(done)}))
        return
    verb = "would replay" if dry_run else "replayed"
    click.echo(f"{verb} {done.replayed.total():,} dead letters to {source.topic}{_said(done.replayed)}")
    if done.before:
        click.echo(f"replayed before, or passed over: {done.before.total():,}{_said(done.before)}")
    if done.not_chosen:
        click.echo(f"not chosen: {done.not_chosen.total():,}{_said(done.not_chosen)}")


def _counts(done: Replayed) -> dict[str, dict[str, int]]:
    return {"replayed": dict(done.replayed), "before": dict(done.before), "not_chosen": dict(done.not_chosen)}


def _said(counts: Counter[str]) -> str:
    return f" ({', '.join(f'{reason}: {n:,}' for reason, n in counts.most_common())})" if counts else ""
