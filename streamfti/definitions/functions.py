"""What a user's function means, for fingerprints: its source without what does not change a value, and what it uses.

Comments, layout, docstrings, annotations and decorators mean nothing. The functions and the constants that it uses
from around it mean as much as its own lines. Nothing is run here.
"""

from __future__ import annotations

import ast
import builtins
import dis
import inspect
import textwrap
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from streamfti.errors import DefinitionError

__all__ = ["function_meaning"]

_HINT = "or give version=1, and raise it whenever the meaning changes"


def function_meaning(function: Callable[..., Any], *, subject: str) -> dict[str, object]:
    """Return what a function means, as plain JSON values: `source`, and `uses` by name where it uses anything.

    Constants that it uses mean their values, functions of the same module what they mean themselves, and modules,
    classes and functions from elsewhere their names: a library's new release changes no fingerprint.

    Args:
        function: defined with `def`, in a file.
        subject: what messages call it: `on-demand feature 'ratio'`.

    Raises:
        DefinitionError: if its source cannot be read, or it uses something whose meaning cannot be told.
    """
    return _meaning(function, subject, frozenset())


def _meaning(function: Callable[..., Any], subject: str, within: frozenset[str]) -> dict[str, object]:
    if not isinstance(function, FunctionType):
        msg = f"{subject} must be a function made by `def`, got {function!r}"
        raise DefinitionError(msg)
    source = _source(function, subject)
    inner = within | {function.__qualname__}
    uses = {name: _used(function, name, subject, inner) for name in sorted(_outer_names(function.__code__))}
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    if defaults:
        uses["(defaults)"] = [_constant(value, "a default", subject) for value in defaults]
    uses = {name: meaning for name, meaning in uses.items() if meaning is not None}
    return {"source": source, "uses": uses} if uses else {"source": source}


def _source(function: FunctionType, subject: str) -> str:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError) as exc:
        msg = f"{subject} must be a function whose source can be read: {type(exc).__name__}"
        raise DefinitionError(msg, hint=f"define it with `def` in a file, {_HINT}") from exc
    node = tree.body[0]
    if not isinstance(node, ast.FunctionDef):
        kind = "a lambda" if function.__name__ == "<lambda>" else f"{type(node).__name__} in its place"
        msg = f"{subject} must be a function whose source can be read, got {kind}"
        raise DefinitionError(msg, hint=f"define it with `def`, {_HINT}")
    node.decorator_list = []
    return ast.unparse(_Bare().visit(node))


class _Bare(ast.NodeTransformer):
    """Takes away what says something to readers and type checkers only."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        node.returns = node.type_comment = None
        self.generic_visit(node)
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = node.type_comment = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        self.generic_visit(node)
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign(targets=[node.target], value=node.value), node)


def _outer_names(code: CodeType) -> set[str]:
    """Return the names that are looked up outside the function, also those of functions within it."""
    names = set(code.co_freevars)
    names |= {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _outer_names(constant) - set(code.co_cellvars)
    return names


def _used(function: FunctionType, name: str, subject: str, within: frozenset[str]) -> object:
    """Return what a used name means, or None where it needs no saying."""
    found, value = _looked_up(function, name)
    if not found:
        if hasattr(builtins, name):
            return None
        msg = f"{subject} uses {name!r}, which must be defined before it"
        raise DefinitionError(msg, hint="move it up in the file")
    if isinstance(value, FunctionType) and value.__module__ == function.__module__:
        return None if value.__qualname__ in within else _meaning(value, f"{name!r}, used by {subject},", within)
    if isinstance(value, ModuleType):
        return f"module {value.__name__}"
    if callable(value) and hasattr(value, "__name__"):
        home = getattr(value, "__module__", "")
        return str(value.__name__) if home == function.__module__ else f"{home}.{value.__name__}"
    return _constant(value, name, subject)


def _looked_up(function: FunctionType, name: str) -> tuple[bool, object]:
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    if name in cells:
        try:
            return True, cells[name].cell_contents
        except ValueError:  # the name is bound later in the enclosing function
            return False, None
    return name in function.__globals__, function.__globals__.get(name)


def _constant(value: object, name: str, subject: str) -> object:
    """Return a constant so that other values and other types look otherwise."""
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return repr(value)
    if isinstance(value, list | tuple):
        return [type(value).__name__, *(_constant(item, name, subject) for item in value)]
    if isinstance(value, set | frozenset):
        return [type(value).__name__, *sorted(repr(item) for item in _checked_items(value, name, subject))]
    if isinstance(value, dict):
        items = [[_constant(key, name, subject), _constant(item, name, subject)] for key, item in value.items()]
        return ["dict", *items]
    msg = f"{subject} uses {name!r}, which must be a constant, a function or a module, got {type(value).__name__}"
    raise DefinitionError(msg, hint=f"make it inside the function from constants, {_HINT}")


def _checked_items(items: set[object] | frozenset[object], name: str, subject: str) -> Iterator[object]:
    for item in items:
        _constant(item, name, subject)
        yield item
