from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

import streamfti as fti
from streamfti.definitions.catalog import Catalog, load_catalog
from streamfti.errors import DefinitionError

GOOD = """
from __future__ import annotations

import streamfti as fti


class Payment(fti.Event):
    card_id: str
    shop: int | None
    cents: int
    at: fti.EventTime


class Chargeback(fti.Event):
    card_id: str
    fraud: bool
    at: fti.EventTime


payments = fti.KafkaSource("payments", Payment)


@fti.feature_group(source=payments, entity="card_id")
class Card:
    n = fti.count().over("1h")
    spend = fti.sum(Payment.cents).over("24h")


fraud_features = fti.FeatureService("fraud_features", [Card])
alias = fraud_features


@fti.model(
    "fraud",
    features=fraud_features,
    spine=payments,
    label=fti.label(
        Chargeback.fraud, source=fti.KafkaSource("chargebacks", Chargeback), on="card_id", within="60d"
    ),
)
def train(data):
    return data
"""


def write(folder: Path, text: str, name: str = "features.py") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def test_a_file_gives_what_it_defines_and_what_that_refers_to(tmp_path: Path) -> None:
    catalog = load_catalog(write(tmp_path, GOOD))
    assert list(catalog.sources) == ["payments", "chargebacks"]
    assert (list(catalog.groups), list(catalog.services), list(catalog.models)) == (
        ["Card"],
        ["fraud_features"],
        ["fraud"],
    )
    assert catalog.source("payments").schema.field("shop").type.nullable
    assert catalog.groups_of(catalog.source("payments")) == (catalog.group("Card"),)
    assert catalog.groups_of(catalog.source("chargebacks")) == ()
    assert catalog.model("fraud").features is catalog.service("fraud_features")


@pytest.mark.parametrize(
    ("kind", "asked", "message"),
    [
        ("source", "payment", r"no source is named 'payment' \(did you mean 'payments'\?\)"),
        ("group", "card", r"no feature group is named 'card' \(did you mean 'Card'\?\)"),
        ("service", "fraud_feature", r"no feature service is named 'fraud_feature' \(did you mean 'fraud_features'"),
        ("model", "spam", r"no model is named 'spam' \(known: fraud\)"),
    ],
)
def test_an_unknown_name_offers_the_nearest(tmp_path: Path, kind: str, asked: str, message: str) -> None:
    catalog = load_catalog(write(tmp_path, GOOD))
    with pytest.raises(DefinitionError, match=message):
        getattr(catalog, kind)(asked)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"definition file .*nothing\.py does not exist .*streamfti init"):
        load_catalog(tmp_path / "nothing.py")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="does not exist"):
        load_catalog(tmp_path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="must be a Python file"):
        load_catalog(write(tmp_path, GOOD, "features.txt"))


@pytest.mark.parametrize("text", ["", "x = 1\n", "import streamfti as fti\n"])
def test_a_file_that_defines_nothing_says_so(tmp_path: Path, text: str) -> None:
    with pytest.raises(DefinitionError, match=r"features\.py must define at least one source, got none .*for example"):
        load_catalog(write(tmp_path, text))


def test_a_syntax_error_is_one_line_with_its_place(tmp_path: Path) -> None:
    path = write(tmp_path, "import streamfti as fti\n\nclass Payment(fti.Event:\n    pass\n")
    with pytest.raises(DefinitionError, match=r"features\.py does not run: SyntaxError: .*\(line 3\)$") as caught:
        load_catalog(path)
    assert "\n" not in str(caught.value)


def test_an_exception_inside_is_one_line_with_its_place(tmp_path: Path) -> None:
    path = write(tmp_path, "def f():\n    return 1 / 0\n\n\nf()\n")
    with pytest.raises(DefinitionError, match=r"features\.py does not run: ZeroDivisionError: .* \(line 2\)$"):
        load_catalog(path)


def test_a_relative_path_gives_the_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "import nowhere_to_be_found\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DefinitionError, match=r"does not run: ModuleNotFoundError: .* \(line 1\)$"):
        load_catalog(Path("features.py"))


def test_a_wrong_definition_says_where_it_stands(tmp_path: Path) -> None:
    path = write(tmp_path, "import streamfti as fti\n\nx = fti.count().over('5x')\n")
    with pytest.raises(DefinitionError, match=r"a window must be a duration.*got '5x'.*line 3"):
        load_catalog(path)


def test_a_file_may_import_its_neighbours_and_leaves_the_path_as_it_was(tmp_path: Path) -> None:
    write(tmp_path, GOOD, "neighbour_of_definitions.py")
    before = list(sys.path)
    catalog = load_catalog(write(tmp_path, "from neighbour_of_definitions import payments, Card\n"))
    assert (list(catalog.sources), list(catalog.groups)) == (["payments"], ["Card"])
    assert sys.path == before


class Payment(fti.Event):
    card_id: str
    at: fti.EventTime


def test_names_are_unique_within_a_kind() -> None:
    one, other = fti.KafkaSource("payments", Payment), fti.KafkaSource("payments", Payment, max_future_skew="1m")
    with pytest.raises(DefinitionError, match="two definitions of kind KafkaSource are named 'payments'"):
        Catalog.of([one, other])
    assert list(Catalog.of([one, one]).sources) == ["payments"]
