from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from streamfti.cli import main
from streamfti.definitions.catalog import load_catalog
from streamfti.definitions.fingerprint import group_fingerprint
from streamfti.errors import MissingPart
from streamfti.feature_pipeline.event_files import BadRow, read_events
from streamfti.project.plan import build_plan
from streamfti.project.starter import FILES, sample_payments, write_project

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


def test_a_plan_knows_new_from_same_from_changed(definitions: Path) -> None:
    catalog = load_catalog(definitions)
    own = group_fingerprint(catalog.group("CardSpend"))
    for stored, state in ((None, "new"), (own, "same"), ("other", "changed")):
        plan = build_plan(catalog, partitions={"payments": 4}, stored={"CardSpend": stored})
        assert [group.state for group in plan.groups] == [state]
        assert [group.name for group in plan.changed] == (["CardSpend"] if state == "changed" else [])
        assert (plan.sources[0].partitions, plan.sources[0].dead_letter_partitions) == (4, 0)


@pytest.mark.parametrize("text", ["retention.ms", "=5"])
def test_topic_configuration_is_key_and_value(text: str) -> None:
    result = _invoke("apply", "d.py", "--topic-config", text)
    assert result.exit_code == 2
    assert "KEY=VALUE" in result.stderr
