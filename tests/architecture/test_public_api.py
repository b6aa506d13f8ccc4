"""The public surface: what can be imported, what a type checker says of it, and what stands in `__all__`."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import streamfti

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "streamfti"
MODULES = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if not {"_proto", "template"} & set(path.parts) and path.name not in {"__init__.py", "__main__.py"}
)

USERS_FILE = """
from __future__ import annotations

import decimal
from typing import Annotated

import streamfti as fti


class Transaction(fti.Event):
    card_id: str
    amount: int
    fee: Annotated[decimal.Decimal, fti.Decimal(12, 2)]
    tip: float | None
    at: fti.EventTime


transactions = fti.KafkaSource("transactions", Transaction, max_future_skew="30s")


@fti.feature_group(source=transactions, entity="card_id")
class CardSpend:
    n = fti.count().over("5m", "1h")
    spend = fti.sum(Transaction.amount).over("1h", default=0)
    {line}
"""

SERVICE = """
service = fti.FeatureService("fraud", [fti.request("amount", float), CardSpend.n, CardSpend.spend["1h"]])
whole = fti.FeatureService("whole", [CardSpend])
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checker's memory of this package: filled by the first test, and nobody else's."""
    return tmp_path_factory.mktemp("mypy_cache")


def mypy(folder: Path, cache: Path, text: str) -> str:
    """Return what mypy --strict, with this project's settings, says of a user's file; empty if it is content."""
    path = folder / "users_definitions.py"
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--strict", "--no-error-summary",
         "--follow-imports=silent", "--cache-dir", str(cache), str(path)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "line",
    [
        "most = fti.max(Transaction.amount).over('1h', hop='1m')",
        "tips = fti.sum(Transaction.tip).over('1h')",
        "fees = fti.sum(Transaction.fee).over('1h')",
    ],
)
def test_right_definitions_satisfy_the_type_checker(tmp_path: Path, cache: Path, line: str) -> None:
    assert mypy(tmp_path, cache, USERS_FILE.format(line=line)) == ""


def test_groups_and_features_are_typed_as_what_services_take(tmp_path: Path, cache: Path) -> None:
    assert mypy(tmp_path, cache, USERS_FILE.format(line="") + SERVICE) == ""


ON_DEMAND = """

@fti.on_demand(amount=fti.request("amount", float), spend=CardSpend.spend["1h"], n=CardSpend.n["1h"], dtype=float)
def times_usual(amount: fti.Column, spend: fti.Column, n: fti.Column) -> fti.Column:
    return amount / (spend / n)


@fti.on_demand(times=times_usual, at=fti.query_time, dtype=bool, default=False)
def odd(times: fti.Column, at: fti.Column) -> NDArray[np.bool_]:
    return (times > 3) & (at % 86_400 < 21_600)


service = fti.FeatureService("fraud", [CardSpend, times_usual, odd])
"""


def test_on_demand_features_with_named_inputs_satisfy_the_type_checker(tmp_path: Path, cache: Path) -> None:
    imports = "import numpy as np\nfrom numpy.typing import NDArray\n\nimport streamfti"
    text = USERS_FILE.replace("import streamfti", imports, 1).format(line="") + ON_DEMAND
    assert mypy(tmp_path, cache, text) == ""
    wrong = text.replace('spend=CardSpend.spend["1h"]', 'spend="CardSpend.spend_1h"')
    assert 'No overload variant of "on_demand" matches argument types' in mypy(tmp_path, cache, wrong)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("wrong = fti.sum(Transaction.card_id).over('1h')", 'Argument 1 to "sum" has incompatible type "str"'),
        ("wrong = fti.mean(Transaction.at).over('1h')", 'Argument 1 to "mean" has incompatible type "datetime"'),
        ("wrong = fti.count(Transaction.amount)", 'Too many positional arguments for "count"'),
    ],
)
def test_wrong_definitions_do_not(tmp_path: Path, cache: Path, line: str, complaint: str) -> None:
    assert complaint in mypy(tmp_path, cache, USERS_FILE.format(line=line))


def test_events_are_typed_by_their_fields(tmp_path: Path, cache: Path) -> None:
    good = USERS_FILE.format(line="") + "\n\ndef f(t: Transaction) -> tuple[int, decimal.Decimal]:\n"
    good += "    return t.amount, t.fee\n"
    assert mypy(tmp_path, cache, good) == ""
    complaints = mypy(tmp_path, cache, good + "\n\nTransaction(card_id=1, amount=2)\n")
    assert 'Missing named argument "at"' in complaints
    assert 'Argument "card_id" to "Transaction" has incompatible type "int"' in complaints


@pytest.mark.parametrize("name", streamfti.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    found = getattr(streamfti, name)
    assert name == "EventTime" or (found.__doc__ or "").strip()


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'streamfti' has no attribute 'Featuregroup'"):
        _ = streamfti.Featuregroup


def all_of(path: Path) -> list[str] | None:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == ["__all__"]:
            names: list[str] = ast.literal_eval(node.value)
            return names
    return None


def order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions: the order that the linter keeps."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2, name)


@pytest.mark.parametrize(
    "path", [PACKAGE / "__init__.py", *MODULES], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_all_is_sorted_and_true(path: Path) -> None:
    names = all_of(path)
    assert names is not None, "every module says what it offers"
    assert names == sorted(names, key=order)
    defined = {name for node in ast.parse(path.read_text()).body for name in names_bound(node)}
    loaded_on_demand = {"Column", "TrainingSet"} if path == PACKAGE / "__init__.py" else set()
    assert set(names) - defined - loaded_on_demand == set()


def names_bound(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [ast.unparse(target) for target in node.targets]
    if isinstance(node, ast.AnnAssign):
        return [ast.unparse(node.target)]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    return []


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert importlib.import_module("streamfti").__doc__
