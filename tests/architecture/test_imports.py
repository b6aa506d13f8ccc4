"""Who loads what. import-linter reads the source; here, each module is imported in a process of its own."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "streamfti"
STANDARD = frozenset(sys.stdlib_module_names)

HEAVY = ("numpy", "polars", "pyarrow", "grpc", "google", "bytewax", "confluent_kafka", "redis", "hiredis",
         "onnxruntime", "onnx", "fastavro", "sklearn", "lightgbm", "pandas", "prometheus_client", "click", "rich",
         "typing_extensions", "datasketches")  # fmt: skip

FORBIDDEN: dict[str, tuple[str, ...]] = {
    "streamfti": HEAVY,
    "streamfti.errors": HEAVY,
    "streamfti.clock": HEAVY,
    "streamfti.definitions.catalog": HEAVY,
    "streamfti.definitions.fingerprint": HEAVY,
    "streamfti.compute.records": (
        "datasketches", "polars", "pyarrow", "pandas", "redis", "grpc", "bytewax", "confluent_kafka", "onnxruntime",
        "sklearn",
    ),
    "streamfti.compute.vectorize": ("polars", "pyarrow", "pandas", "onnxruntime", "sklearn"),
    "streamfti.compute.entity_keys": HEAVY,
    "streamfti.compute.point_in_time": ("pyarrow", "pandas", "redis", "grpc", "bytewax", "confluent_kafka"),
    "streamfti.inference_pipeline.predictor": (
        "datasketches", "bytewax", "confluent_kafka", "pyarrow", "polars", "pandas", "sklearn", "lightgbm", "onnx",
        "grpc", "fastavro",
    ),
    "streamfti.feature_pipeline.pipeline": (
        "datasketches", "grpc", "onnx", "onnxruntime", "sklearn", "lightgbm", "pandas",
    ),
    "streamfti.training_pipeline.run": ("datasketches", "bytewax", "confluent_kafka", "grpc", "redis", "hiredis"),
    "streamfti.testing.harness": ("hypothesis", "pytest", "redis", "grpc", "bytewax", "confluent_kafka", "onnxruntime"),
    "streamfti.testing.pytest_plugin": (*HEAVY, "hypothesis"),
    "streamfti.testing.naive": ("polars", "streamfti.compute"),
}  # fmt: skip
"""What must not be in memory after a module has been imported, alone, in a fresh process."""

PAIRS = [(module, other) for module, others in FORBIDDEN.items() for other in others]


@pytest.fixture(scope="module")
def loaded() -> dict[str, frozenset[str]]:
    """Every module in memory after the import of each module of the table."""
    return {}


def modules_after(module: str) -> frozenset[str]:
    program = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return frozenset(json.loads(done.stdout))


@pytest.mark.parametrize(("module", "other"), PAIRS, ids=[f"{module}-{other}" for module, other in PAIRS])
def test_a_module_does_not_load_what_it_must_not(module: str, other: str, loaded: dict[str, frozenset[str]]) -> None:
    if module not in loaded:
        loaded[module] = modules_after(module)
    assert other not in loaded[module]


def test_definitions_load_the_standard_library_and_nothing_else(loaded: dict[str, frozenset[str]]) -> None:
    if "streamfti" not in loaded:
        loaded["streamfti"] = modules_after("streamfti")
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    before = set(bare.stdout.split())  # what an installation loads at every start
    added = {name.partition(".")[0] for name in loaded["streamfti"] - before}
    assert added - STANDARD == {"streamfti"}


HYPOTHESIS_USERS = {"streamfti.testing.strategies", "streamfti.testing.laws", "streamfti.testing.law_cases"}
LAW_PARTS = {"streamfti.testing.laws", "streamfti.testing.accumulator_laws", "streamfti.testing.aggregator_laws"}


def test_only_strategies_and_laws_need_hypothesis_and_nothing_else_needs_them() -> None:
    imported = {name_of(path): imported_names(path) for path in PACKAGE.rglob("*.py")}
    users = {m for m, names in imported.items() if any(name.split(".")[0] == "hypothesis" for name in names)}
    assert users == HYPOTHESIS_USERS
    assert {m for m, names in imported.items() if names & {*HYPOTHESIS_USERS, *LAW_PARTS}} == LAW_PARTS


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")


def imported_names(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_the_packages_are_empty_where_importing_one_would_run_it() -> None:
    """The import contract does not see that `stores.online.keys` runs `stores/__init__.py`."""
    full = [
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("__init__.py")
        if path.read_text().strip() and path.parent != PACKAGE and "_proto" not in path.parts
    ]
    assert full == []


def test_every_module_of_the_table_exists() -> None:
    missing = [module for module in FORBIDDEN if importlib.util.find_spec(module) is None]
    assert missing == []


def test_the_import_contract_holds() -> None:
    program = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
