"""The catalog: all definitions of one definition file, names resolved and checked."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol, TypeVar

from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.models import Model
from streamfti.definitions.services import FeatureService
from streamfti.definitions.sources import KafkaSource
from streamfti.errors import DefinitionError, did_you_mean

__all__ = ["Catalog", "load_catalog"]


class _Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=_Named)
"""One kind of definition."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """A closed set of definitions, by kind and name."""

    sources: dict[str, KafkaSource]
    groups: dict[str, FeatureGroup]
    services: dict[str, FeatureService]
    models: dict[str, Model]

    @classmethod
    def of(cls, definitions: Iterable[object]) -> Catalog:
        """Collect the definitions among the given objects, and those that they refer to.

        Raises:
            DefinitionError: if two different definitions of one kind have the same name.
        """
        found = list(definitions)
        models = _by_name(Model, found)
        services = _by_name(FeatureService, [*found, *(m.features for m in models.values())])
        groups = _by_name(FeatureGroup, [*found, *(g for s in services.values() for g in s.groups)])
        reached = [source for g in groups.values() for source in g.stream.sources]
        reached += [s for m in models.values() for s in (m.spine, m.label.source)]
        return cls(_by_name(KafkaSource, [*found, *reached]), groups, services, models)

    def source(self, name: str) -> KafkaSource:
        """Return the source of that name, or raise DefinitionError."""
        return _find(self.sources, "source", name)

    def group(self, name: str) -> FeatureGroup:
        """Return the feature group of that name, or raise DefinitionError."""
        return _find(self.groups, "feature group", name)

    def service(self, name: str) -> FeatureService:
        """Return the feature service of that name, or raise DefinitionError."""
        return _find(self.services, "feature service", name)

    def model(self, name: str) -> Model:
        """Return the model of that name, or raise DefinitionError."""
        return _find(self.models, "model", name)

    def groups_of(self, source: KafkaSource) -> tuple[FeatureGroup, ...]:
        """Return the groups that are fed by a source, alone or with others, in order of definition."""
        return tuple(g for g in self.groups.values() if source.name in {of.name for of in g.stream.sources})


def _by_name(kind: type[T], objects: Iterable[object]) -> dict[str, T]:
    named: dict[str, T] = {}
    for item in objects:
        if isinstance(item, kind) and named.setdefault(item.name, item) is not item:
            msg = f"two definitions of kind {kind.__name__} are named {item.name!r}; names must be unique"
            raise DefinitionError(msg)
    return named


def _find(known: dict[str, T], kind: str, name: str) -> T:
    if name not in known:
        msg = f"no {kind} is named {name!r}"
        raise DefinitionError(msg, hint=did_you_mean(name, known))
    return known[name]


def load_catalog(path: Path) -> Catalog:
    """Run a definition file and collect what it defines.

    The file's folder is importable while it runs, as it is for a script.

    Raises:
        DefinitionError: if there is no such file, it does not run, or it defines nothing.
    """
    module = _run(path)
    catalog = Catalog.of(vars(module).values())
    if not catalog.sources:
        msg = f"definition file {path} must define at least one source, got none"
        raise DefinitionError(msg, hint="for example: payments = fti.KafkaSource('payments', Payment)")
    return catalog


def _run(path: Path) -> ModuleType:
    if not path.is_file():
        msg = f"definition file {path} does not exist"
        raise DefinitionError(msg, hint="`streamfti init` writes one to start from")
    name = f"_streamfti_definitions_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        msg = f"definition file {path} must be a Python file"
        raise DefinitionError(msg)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # annotations of event classes are resolved through it
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except DefinitionError as exc:
        place = _where(exc, path)
        raise type(exc)(exc.message, hint="; ".join(filter(None, [exc.hint, place]))) from exc
    except Exception as exc:  # the user's code may raise anything; it becomes one clear line
        msg = f"definition file {path} does not run: {type(exc).__name__}: {exc}"
        raise DefinitionError(msg, hint=_where(exc, path)) from exc
    finally:
        sys.path.remove(folder)
    return module


def _where(exc: Exception, path: Path) -> str:
    """Say which line of the definition file raised."""
    trace, line = exc.__traceback__, 0
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).resolve() == path.resolve():
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(exc, SyntaxError) and exc.lineno and exc.filename and Path(exc.filename).resolve() == path.resolve():
        line = exc.lineno
    return f"line {line}" if line else ""
