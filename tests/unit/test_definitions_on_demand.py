"""On-demand features as definition files write them: both forms, what is refused, and what a service makes of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest

import streamfti as fti
from streamfti.definitions.catalog import Catalog, load_catalog
from streamfti.definitions.dtypes import DType
from streamfti.definitions.fingerprint import service_fingerprint
from streamfti.definitions.on_demand import OnDemandFeature, evaluation_order
from streamfti.errors import DefinitionError

HEAD = """
from __future__ import annotations

from typing import Annotated

import numpy as np
import streamfti as fti

class Payment(fti.Event):
    card_id: str
    cents: int
    at: fti.EventTime

payments = fti.KafkaSource("payments", Payment)

@fti.feature_group(source=payments, entity="card_id")
class Card:
    n = fti.count().over("1h", "24h")
    spend = fti.sum(Payment.cents).over("24h", default=0)

FACTOR = 2.0
"""

ANNOTATED = '''
@fti.on_demand
def ratio(amount: fti.Request[float], spend: Card.spend_24h, n: Card.n_24h) -> float:
    """How much more than usual."""
    return amount / (spend / n)
'''
NAMED = '''
@fti.on_demand(amount=fti.request("amount", float), spend=Card.spend["24h"], n=Card.n["24h"], dtype=float)
def ratio(amount: fti.Column, spend: fti.Column, n: fti.Column) -> fti.Column:
    """How much more than usual."""
    return amount / (spend / n)  # more
'''
SERVICE = '\nservice = fti.FeatureService("fraud", [Card.n["1h"], ratio], groups=[Card])\n'

Load = Callable[[str], Catalog]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load a definition file of the usual head and some lines: a new file each time, as Python keeps old ones."""
    numbers = count()

    def loaded(lines: str) -> Catalog:
        path = tmp_path / f"definitions_{next(numbers)}.py"
        path.write_text(HEAD + lines, encoding="utf-8")
        return load_catalog(path)

    return loaded


def service_of(catalog: Catalog) -> fti.FeatureService:
    return catalog.service("fraud")


@pytest.mark.parametrize("form", [ANNOTATED, NAMED], ids=["annotated", "named"])
def test_both_forms_say_the_same(load: Load, form: str) -> None:
    (ratio,) = service_of(load(form + SERVICE)).on_demand
    assert (ratio.name, ratio.dtype, ratio.default, ratio.doc) == (
        "ratio", DType.FLOAT64, None, "How much more than usual.",
    )  # fmt: skip
    assert [(p, i.qualified_name) for p, i in ratio.inputs] == [
        ("amount", "amount"), ("spend", "Card.spend_24h"), ("n", "Card.n_24h"),
    ]  # fmt: skip
    assert ratio(np.array([6.0]), np.array([4.0]), n=np.array([2.0])).tolist() == [3.0]


def test_both_forms_have_one_fingerprint(load: Load) -> None:
    assert service_fingerprint(service_of(load(ANNOTATED + SERVICE))) == service_fingerprint(
        service_of(load(NAMED + SERVICE))
    )


def test_what_a_function_needs_is_read_and_asked_for_but_is_no_input(load: Load) -> None:
    service = service_of(load(NAMED + SERVICE))
    assert [i.qualified_name for i in service.inputs] == ["Card.n_1h", "ratio"]
    assert [f.qualified_name for f in service.stored_features] == ["Card.n_1h", "Card.spend_24h", "Card.n_24h"]
    assert service.features_of(service.groups[0]) == service.stored_features
    assert [f.name for f in service.request_features] == ["amount"]
    assert service.request_fields == {"card_id": DType.STRING, "amount": DType.FLOAT64}


def test_an_input_that_is_a_member_too_is_read_once(load: Load) -> None:
    lines = NAMED + '\nservice = fti.FeatureService("fraud", [ratio, Card, fti.request("amount", float)])\n'
    service = service_of(load(lines))
    assert [f.qualified_name for f in service.stored_features] == ["Card.n_1h", "Card.n_24h", "Card.spend_24h"]
    assert [f.name for f in service.request_features] == ["amount"]


CHAIN = """
@fti.on_demand(r=ratio, at=fti.query_time, dtype=bool, default=False)
def odd(r: fti.Column, at: fti.Column) -> fti.Column:
    return (r > FACTOR) & (at > 0)

@fti.on_demand
def both(x: odd, y: ratio, word: fti.Request[str], z: Annotated[fti.Column, Card.n["24h"]]) -> str:
    return np.where(x > 0, word, "usual")

service = fti.FeatureService("fraud", [both, odd], groups=[Card])
"""


def test_on_demand_features_are_ordered_by_what_they_need(load: Load) -> None:
    service = service_of(load(NAMED + CHAIN))
    assert [f.name for f in service.on_demand] == ["ratio", "odd", "both"]
    assert [i.qualified_name for i in service.inputs] == ["both", "odd"]
    assert [f.name for f in service.request_features] == ["amount", "word"]
    assert [(f.dtype, f.default) for f in service.on_demand[1:]] == [(DType.BOOL, False), (DType.STRING, None)]


def test_features_that_share_what_they_need_are_ordered_once() -> None:
    def chained(depth: int) -> OnDemandFeature:
        @fti.on_demand(x=fti.request("x", float), dtype=float)
        def f(x: fti.Column) -> fti.Column:
            return x

        last = f
        for _ in range(depth):

            @fti.on_demand(a=last, b=last, dtype=float)
            def g(a: fti.Column, b: fti.Column) -> fti.Column:
                return a + b

            last = g
        return last

    assert len(evaluation_order([chained(100)])) == 101


OPTIONS = 'n=Card.n["24h"], dtype=float'
REQUEST = 'amount=fti.request("amount", float)'


def decorated(options: str, parameters: str) -> str:
    return f"\n@fti.on_demand({options})\ndef f({parameters}):\n    return x\n"


F = "on-demand feature 'f'"
X = f"parameter 'x' of {F} must be"
TYPES = "str, int, float or bool"
CALL = "(x=fti.query_time, dtype=float)"
SECOND = 'fti.FeatureService("s", [Card, first, ratio])'


@pytest.mark.parametrize(
    ("lines", "message", "hint"),
    [
        (decorated("x=3, dtype=float", "x"), f"{X} a request .* or fti.query_time, got 3", "fti.request('x', float)"),
        (decorated("dtype=float", "x"), f"{X} .*, got nothing", "for example"),
        (decorated("x=Card.n, dtype=float", "x"), X, "name one of its windows: ['1h']"),
        (decorated("x=Card, dtype=float", "x"), X, "for example"),
        (decorated("dtype=float", "x: fti.Request[bytes]"), f"request feature 'x' must be of type {TYPES}", ""),
        (decorated("dtype=float", "x: Crad.n_1h"), f"the annotation 'Crad.n_1h' of parameter 'x' of {F}", "decorator"),
        (decorated("y=Card.n['1h'], dtype=float", "x: Card.n_1h"), f"{F} has no parameter 'y'", "known: x"),
        (decorated("dtype=float", ""), f"{F} must have at least one parameter, got none", "rows"),
        (decorated("dtype=float", "*x"), "must have plain parameters without defaults, got '.x'", ""),
        (decorated("dtype=float", "x=1"), "must have plain parameters without defaults, got 'x=1'", ""),
        (decorated("", "x: Card.n_1h"), f"{F} must say its type, {TYPES}, got nothing", "dtype=float"),
        (decorated("dtype=bytes", "x: Card.n_1h"), f"{F} must be of type {TYPES}, got <class 'bytes'>", ""),
        (decorated("", "x: Card.n_1h) -> (fti.Column"), f"{F} must say its type, .* got numpy.ndarray", "dtype=float"),
        (decorated("dtype=float, default='a'", "x: Card.n_1h"), f"default of {F} must be of type float64", "finite"),
        (decorated("dtype=float, default=1e999", "x: Card.n_1h"), "must be of type float64, got inf", "finite"),
        (decorated("dtype=int, default=1.5", "x: Card.n_1h"), "must be of type int64, got 1.5", ""),
        (decorated("dtype=int, default=2**63", "x: Card.n_1h"), "must be of type int64, got 9223372036854775808", ""),
        (decorated("dtype=bool, default=1", "x: Card.n_1h"), "must be of type bool, got 1", ""),
        (decorated("dtype=str, default=1", "x: Card.n_1h"), "must be of type string, got 1", ""),
        (decorated("dtype=float, version=0", "x: Card.n_1h"), f"{F} must have a version from 1 up, got 0", ""),
        (f"fti.on_demand{CALL}(lambda x: x)", "'<lambda>' must have a name of its own", "`def`"),
        (f"fti.on_demand{CALL}(max)", "must be made of a function, got <built-in function max>", ""),
        (f"def _f(x): return x\nfti.on_demand{CALL}(_f)", "'_f' must have a name .* does not start with '_'", ""),
        (f"exec('def f(x): return x')\nfti.on_demand{CALL}(f)", f"{F} must be a function whose source", "version=1"),
        (f"T = object()\ndef f(x): return T\nfti.on_demand{CALL}(f)", f"{F} uses 'T', which must be", "version=1"),
        (NAMED + "fti.FeatureService('s', [ratio])", "'s' uses 'Card.spend_24h' and must be given its group", "[Card]"),
        (NAMED + "fti.FeatureService('s', [Card, ratio, ratio])", "'s' must not have the input 'ratio' twice", ""),
        (NAMED + "fti.FeatureService('s', [Card, ratio, fti.request('amount', int)])", "'amount' .* one type", ""),
        (NAMED.replace("ratio", "card_id") + "fti.FeatureService('s', [Card, card_id])",
         "on-demand feature 'card_id' of feature service 's' must have a name of its own", "an entity key"),
        (NAMED.replace("ratio", "amount") + "fti.FeatureService('s', [Card, amount])",
         "on-demand feature 'amount' of feature service 's' must have a name of its own", "a request feature"),
        (NAMED + "first = ratio\n" + NAMED + SECOND, "must not have the input 'ratio' twice", ""),
        (NAMED + "first = ratio\n" + NAMED.replace(REQUEST, "amount=first") + SECOND.replace("first, ", ""),
         "on-demand feature 'ratio' of feature service 's' must have a name of its own", "another on-demand"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(load: Load, lines: str, message: str, hint: str) -> None:
    with pytest.raises(DefinitionError, match=message) as caught:
        load(lines)
    assert hint in caught.value.hint


def test_a_version_stands_for_a_source_that_cannot_be_read(load: Load) -> None:
    lines = "exec('def ratio(x): return x')\nratio = fti.on_demand(x=fti.query_time, dtype=float, version={})(ratio)\n"
    first, second = (service_fingerprint(service_of(load(lines.format(n) + SERVICE))) for n in (1, 2))
    assert first != second


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# more", "# something else"),
        ("How much more than usual.", "Another text."),
        ("amount: fti.Column", "amount"),
        ("return amount / (spend / n)", "return amount / (\n        spend / n)"),
        (OPTIONS, 'dtype=float, n=Card.n["24h"]'),
    ],
)
def test_what_does_not_change_a_value_changes_no_fingerprint(load: Load, old: str, new: str) -> None:
    changed = NAMED.replace(old, new)
    assert changed != NAMED
    usual = service_fingerprint(service_of(load(NAMED + SERVICE)))
    assert service_fingerprint(service_of(load(changed + SERVICE))) == usual


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return amount / (spend / n)", "return amount * (spend / n)"),
        ("return amount / (spend / n)", "return amount / (spend / n) * FACTOR"),
        (OPTIONS, 'n=Card.n["1h"], dtype=float'),
        (OPTIONS, OPTIONS + ", default=0"),
        (OPTIONS, OPTIONS + ", version=1"),
        (OPTIONS, 'n=Card.n["24h"], dtype=int'),
        (REQUEST, 'amount=fti.request("amounts", float)'),
        (REQUEST, 'amount=fti.request("amount", int)'),
        (REQUEST, "amount=fti.query_time"),
    ],
)
def test_what_changes_a_value_changes_the_fingerprint(load: Load, old: str, new: str) -> None:
    changed = NAMED.replace(old, new)
    assert changed != NAMED
    usual = service_fingerprint(service_of(load(NAMED + SERVICE)))
    assert service_fingerprint(service_of(load(changed + SERVICE))) != usual


def test_a_constant_of_the_file_is_part_of_the_meaning(load: Load) -> None:
    lines = NAMED.replace("(spend / n)", "FACTOR") + SERVICE
    two, three = (service_fingerprint(service_of(load(f"\nFACTOR = {factor}\n" + lines))) for factor in (2.0, 3.0))
    assert two != three


def test_what_a_nested_feature_means_is_part_of_the_meaning(load: Load) -> None:
    usual = service_fingerprint(service_of(load(NAMED + CHAIN)))
    assert service_fingerprint(service_of(load(NAMED.replace("amount /", "amount *") + CHAIN))) != usual
    assert service_fingerprint(service_of(load(NAMED + CHAIN))) == usual


def test_the_fingerprint_of_a_service_with_an_on_demand_feature_is_what_models_carry(load: Load) -> None:
    """A change here means that models on such services are refused."""
    assert service_fingerprint(service_of(load(NAMED + SERVICE))) == GOLDEN


GOLDEN = "d0987e96ed8190e395a879a50cda31c7ea414d02d012d8dd1dce069aedd97bb1"
