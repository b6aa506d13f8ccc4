from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from streamfti.cli import main
from streamfti.compute.stored_state import stored_state
from streamfti.definitions.catalog import load_catalog
from streamfti.definitions.groups import FeatureGroup
from streamfti.errors import MissingPart
from streamfti.feature_pipeline.event_files import BadRow, read_events
from streamfti.project.plan import build_plan
from streamfti.project.starter import FILES, sample_payments, write_project
from streamfti.stores.online.meaning import StoredMeaning

_NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def _invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_init_writes_a_project_whose_events_are_events(tmp_path: Path) -> None:
    result = _invoke("init", str(tmp_path / "new" / "project"))
    assert result.exit_code == 0
    assert {path.name for path in (tmp_path / "new/project").iterdir()} == set(FILES)
    source = load_catalog(tmp_path / "new/project/definitions.py").source("payments")
    rows = list(read_events(tmp_path / "new/project/events.jsonl", io.BytesIO(), source))
    assert len(rows) == 1000
    assert not [row for row in rows if isinstance(row, BadRow)]


def test_sample_events_fill_the_day_before_now_in_order() -> None:
    times = [datetime.fromisoformat(json.loads(line)["at"]) for line in sample_payments(_NOW)]
    assert times == sorted(times)
    assert times[0] == _NOW - timedelta(hours=24)
    assert times[-1] < _NOW


@pytest.mark.parametrize("name", FILES)
def test_init_overwrites_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    result = _invoke("init", str(tmp_path))
    assert result.exit_code == 1
    assert f"must not overwrite anything, but {tmp_path / name} exists" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_init_into_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MissingPart, match="must be writable"):
        write_project(tmp_path / "file" / "project", _NOW)


@pytest.fixture
def definitions(tmp_path: Path) -> Path:
    write_project(tmp_path, _NOW)
    return tmp_path / "definitions.py"


def test_an_offline_plan_says_what_would_be_there(definitions: Path) -> None:
    result = _invoke("plan", str(definitions), "--offline", "--json")
    assert result.exit_code == 0
    plan = json.loads(result.stdout)
    (source,), (group,), (service,) = plan["sources"], plan["groups"], plan["services"]
    assert (source["name"], source["partitions"], source["dead_letter_topic"]) == (
        "payments",
        None,
        "payments.dead-letters",
    )
    assert (group["name"], group["entity"], group["state"]) == ("CardSpend", {"card": "string"}, "unknown")
    assert group["features"][0] == {
        "name": "payments_5m",
        "aggregation": "count()",
        "dtype": "int64",
        "window": "5m",
        "window_us": 300_000_000,
        "hop_us": 10_000_000,
        "default": None,
        "expires_after_us": None,
    }
    assert group["record_bytes"] == 8 + sum(ring["slots"] * ring["slot_bytes"] for ring in group["rings"])
    assert service["inputs"][:2] == ["amount_cents", "CardSpend.payments_5m"]
    assert service["on_demand"] == [
        {
            "name": "times_usual",
            "dtype": "float64",
            "inputs": {
                "amount": "amount_cents",
                "spend": "CardSpend.spend_cents_24h",
                "n": "CardSpend.payments_24h",
            },
            "default": None,
        }
    ]


def test_a_plan_for_people_names_everything(definitions: Path) -> None:
    shown = _invoke("plan", str(definitions), "--offline").output
    for words in (
        "payments.dead-letters",
        "CardSpend version 1",
        "spend_cents_24h",
        "bytes per entity",
        "payment_risk",
        "On-demand features",
        "spend = CardSpend.spend_cents_24h",
    ):
        assert words in shown


def meaning_of(group: FeatureGroup) -> StoredMeaning:
    return StoredMeaning.load(group, StoredMeaning.of(group, stored_state(group)).dump())


def test_a_plan_knows_new_from_same_from_changed(definitions: Path) -> None:
    catalog = load_catalog(definitions)
    own = meaning_of(catalog.group("CardSpend"))
    only_fingerprints = [StoredMeaning(fingerprint=fingerprint) for fingerprint in (own.fingerprint, "other")]
    cases: list[tuple[StoredMeaning | None, str, str]] = [
        (None, "new", "materialize"),
        (own, "same", "nothing"),
        (only_fingerprints[0], "same", "nothing"),
        (only_fingerprints[1], "changed", "new version"),
    ]
    for stored, state, needs in cases:
        plan = build_plan(catalog, partitions={"payments": 4}, stored={"CardSpend": stored})
        assert [(group.state, group.needs) for group in plan.groups] == [(state, needs)]
        assert [group.name for group in plan.changed] == (["CardSpend"] if state == "changed" else [])
        assert (plan.sources[0].partitions, plan.sources[0].dead_letter_partitions) == (4, 0)


BASE = """
import streamfti as fti

class Payment(fti.Event):
    at: fti.EventTime
    card: str
    shop: str
    cents: int

payments = fti.KafkaSource("payments", Payment)

@fti.feature_group(source=payments, entity="card", version=1)
class Card:
    n = fti.count().over("1h", "24h", hop="5m")
    mean = fti.mean(Payment.cents).over("24h", hop="5m")
"""


@pytest.mark.parametrize(
    ("old", "new", "state", "said", "stored_said"),
    [
        ('"1h", "24h", hop', '"1h", "6h", "24h", hop', "compatible", ["feature n_6h added"], []),
        ('"1h", "24h", hop', '"24h", hop', "compatible", ["feature n_1h removed"], []),
        ('over("24h", hop="5m")', 'over("24h", hop="5m", default=1)', "compatible", ["default none -> 1.0"], []),
        (
            "    mean =",
            '    sum = fti.sum(Payment.cents).over("1h", hop="5m")\n    mean =',
            "compatible",
            ["sum_1h"],
            [],
        ),
        (
            "    n =",
            '    sum = fti.sum(Payment.cents).over("1h", hop="5m")\n    n =',
            "compatible",
            ["sum_1h added"],
            [],
        ),
        ("fti.mean(", "fti.max(", "changed", ["aggregation mean -> max"], ["do not hold max(cents) yet"]),
        ('"1h", "24h", hop="5m"', '"1h", hop="1m"', "changed", ["n_24h removed"], ["tiles of 1m are not stored yet"]),
        ('"1h", "24h", hop', '"1h", "2d", hop', "changed", ["n_2d added"], ["578 must be kept, not 290"]),
        ('entity="card"', 'entity="shop"', "changed", ["entity card, string -> shop, string"], ["entity"]),
        ("cents: int", "cents: float", "changed", ["field"], ["operands cents: int64 -> cents: float64"]),
    ],
)
def test_a_plan_says_what_has_changed_and_what_it_needs(
    tmp_path: Path, old: str, new: str, state: str, said: list[str], stored_said: list[str]
) -> None:
    before, after = tmp_path / "before.py", tmp_path / "after.py"
    before.write_text(BASE)
    after.write_text(BASE.replace(old, new, 1))
    stored = meaning_of(load_catalog(before).group("Card"))
    (group,) = build_plan(load_catalog(after), partitions=None, stored={"Card": stored}).groups
    assert (group.state, group.needs) == (state, "nothing" if state == "compatible" else "new version")
    for words in said:
        assert any(words in change for change in group.changes), group.changes
    assert bool(group.stored_changes) == (state == "changed")
    for words in stored_said:
        assert any(words in change for change in group.stored_changes), group.stored_changes


def test_a_plan_compares_a_new_version_with_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "before.py"
    path.write_text(BASE)
    stored = meaning_of(load_catalog(path).group("Card"))
    path = tmp_path / "after.py"
    path.write_text(BASE.replace("version=1", "version=2").replace("fti.mean(", "fti.max("))
    plan = build_plan(load_catalog(path), partitions=None, stored={"Card": None}, previous={"Card": stored})
    (group,) = plan.groups
    assert (group.state, group.needs) == ("new", "materialize")
    assert any("mean -> max" in change for change in group.changes)


def test_how_fresh_a_group_must_be_is_told_and_is_no_change(tmp_path: Path) -> None:
    before, after = tmp_path / "before.py", tmp_path / "after.py"
    before.write_text(BASE)
    after.write_text(BASE.replace("version=1", 'version=1, max_staleness="1m"'))
    stored = meaning_of(load_catalog(before).group("Card"))
    (group,) = build_plan(load_catalog(after), partitions=None, stored={"Card": stored}).groups
    assert (group.max_staleness_us, group.state, group.changes) == (60_000_000, "same", [])
    assert "stale after 1m" in _invoke("plan", str(after), "--offline").output


@pytest.mark.parametrize("text", ["retention.ms", "=5"])
def test_topic_configuration_is_key_and_value(text: str) -> None:
    result = _invoke("apply", "d.py", "--topic-config", text)
    assert result.exit_code == 2
    assert "KEY=VALUE" in result.stderr
