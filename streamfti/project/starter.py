"""The project that `streamfti init` writes: the files of `template/`, and sample events."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from importlib import resources
from pathlib import Path

from streamfti.errors import MissingPart

__all__ = ["FILES", "sample_payments", "write_project"]

_TEMPLATE = ("definitions.py", "README.md")
_EVENTS = "events.jsonl"
FILES = (*_TEMPLATE, _EVENTS)
"""What a new project consists of."""

_SPAN = timedelta(hours=24)
_CARDS, _PAYMENTS = 20, 1_000
_MERCHANTS = ("bakery", "bookshop", "cinema", "grocer", "railway")


def write_project(folder: Path, now: datetime) -> list[Path]:
    """Write a project into a folder, which is made where it is missing, and return its files.

    Args:
        folder: where to.
        now: the end of the sample events' times.

    Raises:
        MissingPart: if one of the files is there already, or cannot be written; nothing is ever overwritten.
    """
    paths = [folder / name for name in FILES]
    there = [path for path in paths if path.exists() or path.is_symlink()]
    if there:
        msg = f"a new project must not overwrite anything, but {there[0]} exists"
        raise MissingPart(msg, hint="name another folder: streamfti init FOLDER")
    contents = [*(_template(name) for name in _TEMPLATE), "".join(f"{line}\n" for line in sample_payments(now))]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in zip(paths, contents, strict=True):
            with path.open("x", encoding="utf-8", newline="\n") as file:
                file.write(content)
    except OSError as exc:
        msg = f"a new project must be writable to {folder}, got: {exc.strerror or exc}"
        raise MissingPart(msg, hint="name a folder that you may write to: streamfti init FOLDER") from exc
    return paths


def _template(name: str) -> str:
    return resources.files("streamfti.project").joinpath("template", name).read_text(encoding="utf-8")


def sample_payments(now: datetime) -> Iterator[str]:
    """Iterate over payments as JSON, in order of their times, which fill `[now - 24 h, now)`; else always the same."""
    dice = random.Random(7)  # noqa: S311  # sample data, not secrets
    for i in range(_PAYMENTS):
        at = now - _SPAN + i * (_SPAN / _PAYMENTS)
        payment = {
            "card": f"card-{dice.randrange(_CARDS)}",
            "merchant": dice.choice(_MERCHANTS),
            "amount_cents": round(dice.lognormvariate(8, 1)),
            "at": at.isoformat(),
        }
        yield json.dumps(payment)
