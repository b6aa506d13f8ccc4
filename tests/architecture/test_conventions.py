"""House rules that no linter has: sizes, words, where imports stand, and what a docstring promises."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import streamfti.errors

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "streamfti"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "_proto" not in path.parts)
MAX_MODULE_LINES = 600
MAX_FUNCTION_LINES = 50
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
PLUGIN = {"harness", "frozen_clock", "redis_url", "kafka_bootstrap", "_started"}
OWN_ERRORS = {
    name
    for name, found in vars(streamfti.errors).items()
    if isinstance(found, type) and issubclass(found, streamfti.errors.StreamFTIError)
} | {"ValueError"}

Function = ast.FunctionDef | ast.AsyncFunctionDef

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 30


@every_file
def test_first_party_imports_stand_at_the_top(path: Path) -> None:
    """If one seems needed in a function, a layer is wrong. But who is loaded by everybody loads nothing until asked."""
    exempt = {PACKAGE / "__init__.py": {"__getattr__"}, PACKAGE / "testing/pytest_plugin.py": PLUGIN}.get(path, set())
    found = [
        f"line {node.lineno} in {function.name}"
        for function in functions(tree_of(path))
        if function.name not in exempt
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom) and "streamfti" in ast.unparse(node)
    ]
    assert found == []


@every_file
def test_nothing_is_printed(path: Path) -> None:
    calls = [n for n in ast.walk(tree_of(path)) if isinstance(n, ast.Call) and ast.unparse(n.func) == "print"]
    assert [call.lineno for call in calls] == []


@every_file
def test_modules_are_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_MODULE_LINES


def body_lines(function: Function) -> int:
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


@every_file
def test_functions_are_small(path: Path) -> None:
    found = {f.name: body_lines(f) for f in functions(tree_of(path)) if body_lines(f) > MAX_FUNCTION_LINES}
    assert found == {}


@every_file
def test_modules_say_what_lives_in_them(path: Path) -> None:
    empty = path.name == "__init__.py" and not path.read_text().strip()
    assert empty or ast.get_docstring(tree_of(path))


@every_file
def test_names_mean_something(path: Path) -> None:
    assert not FORBIDDEN_NAMES & set(re.split(r"[_./]", path.relative_to(PACKAGE).with_suffix("").as_posix()))


def identifiers(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names that this code gives; attributes of other people's objects are theirs to name."""
    for node in ast.walk(tree):
        if isinstance(node, Function | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


@every_file
def test_times_are_named_by_what_happened_then(path: Path) -> None:
    """Event time, ingest time, processed at: a bare timestamp is none of them."""
    found = [(name, line) for name, line in identifiers(tree_of(path)) if "timestamp" in name.lower()]
    assert found == []


def raised_here(function: Function) -> set[str]:
    """Errors of ours that a function's own body constructs and raises, outside functions nested in it."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Function | ast.Lambda):
            continue
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found.add(ast.unparse(node.exc.func).rpartition(".")[2])
        waiting += ast.iter_child_nodes(node)
    return found & OWN_ERRORS


def public_functions(tree: ast.Module) -> Iterator[tuple[Function, str]]:
    """Public functions and methods, each with the text that must name what it raises."""
    for node in tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node, ast.get_docstring(node) or ""
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, Function) and (not method.name.startswith("_") or method.name == "__init__"):
                    inherited = any(ast.unparse(d).endswith("override") for d in method.decorator_list)
                    own = ast.get_docstring(method) or ""
                    if not inherited:
                        yield method, own + (ast.get_docstring(node) or "" if method.name == "__init__" else "")


@every_file
def test_docstrings_name_what_is_raised(path: Path) -> None:
    missing = [
        f"{function.name} raises {error}"
        for function, text in public_functions(tree_of(path))
        for error in sorted(raised_here(function))
        if not re.search(rf"\braises?\b.*\b{error}\b", text, re.IGNORECASE | re.DOTALL)
    ]
    assert missing == []
