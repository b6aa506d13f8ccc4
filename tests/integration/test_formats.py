"""From a file of events to the log in each wire format, with the schemas of a registry over HTTP. Real broker."""

from __future__ import annotations

import decimal
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from streamfti.cli import main
from streamfti.definitions.catalog import load_catalog
from streamfti.definitions.sources import WireFormat
from streamfti.dev.kafka_broker import KafkaServer
from streamfti.dev.redis_server import RedisServer
from streamfti.stores.offline.log import OfflineLog
from tests.servers.schema_registry import running_schema_registry

DEFINITIONS = """
import streamfti as fti

class Payment(fti.Event):
    at: fti.EventTime
    card: str
    amount: fti.Decimal(12, 2)
    note: str | None

payments = fti.KafkaSource("{topic}", Payment, format="{format}")

@fti.feature_group(source=payments, entity="card")
class Cards:
    n = fti.count().over("5m")
"""
KINDS = {"avro": "AVRO", "json": "JSON", "protobuf": "PROTOBUF"}


@pytest.mark.parametrize("name", sorted(KINDS))
def test_events_of_a_file_reach_the_log_in_the_sources_format(
    tmp_path: Path,
    kafka: KafkaServer,
    make_topic: Callable[..., str],
    redis_client: redis.Redis,
    redis_server: RedisServer,
    name: WireFormat,
) -> None:
    redis_client.ping()  # empty, and there
    topic, definitions, events = make_topic(2), tmp_path / "definitions.py", tmp_path / "events.jsonl"
    definitions.write_text(DEFINITIONS.format(topic=topic, format=name))
    rows = [{"at": 1_767_268_800_000_000 + i, "card": f"c{i % 3}", "amount": f"{i}.{i:02d}"} for i in range(90)]
    events.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with running_schema_registry() as registry:
        environ = {
            "STREAMFTI_HOME": str(tmp_path / "home"),
            "REDIS_URL": redis_server.url,
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "SCHEMA_REGISTRY_URL": registry.url,
        }

        def done(*words: str) -> Any:  # noqa: ANN401  # JSON
            result = CliRunner().invoke(main, words, env=environ)
            assert result.exit_code == 0, result.output
            return result

        applied = json.loads(done("apply", str(definitions), "--json").stdout)
        assert [x["detail"] for x in applied if x["kind"] == "schema"] == [f"{name}, id 1"]
        (source_plan,) = json.loads(done("plan", str(definitions), "--json").stdout)["sources"]
        assert source_plan["format"] == name
        assert registry.versions == {f"{topic}-value": [1]}
        ((kind, text),) = registry.schemas
        assert kind == KINDS[name]
        assert (text if name == "protobuf" else json.loads(text)) == source_plan["schema"]
        done("produce", str(definitions), "--source", topic, str(events), "--key", "card")
        summary = json.loads(done("run", "features", str(definitions), "--until-caught-up", "--json").stdout)
        assert (summary["events"], summary["dead_letters"]) == (90, 0)
    assert not (tmp_path / "home/schemas").exists()
    log = OfflineLog(tmp_path / "home/log").read(load_catalog(definitions).source(topic))
    found = [tuple(row.values())[:4] for row in log.with_columns(log["at"].to_physical()).sort("at").to_dicts()]
    assert found == [(row["at"], row["card"], decimal.Decimal(str(row["amount"])), None) for row in rows]
    assert set(log["_schema_id"]) == ({0} if name == "json" else {1})
