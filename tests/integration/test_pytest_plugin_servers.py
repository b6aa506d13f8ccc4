"""The servers of the pytest plugin: real ones, one of each for a session, and gone after it."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

from streamfti.dev.kafka_broker import broker_answers
from streamfti.dev.redis_server import redis_answers

PLUGIN = "streamfti.testing.pytest_plugin"

TESTS = """
import redis
from streamfti.dev.kafka_broker import broker_answers

seen = []

def test_redis(redis_url):
    assert redis.Redis.from_url(redis_url).set("a", 1)
    seen.append(redis_url)

def test_the_same_redis(redis_url, kafka_bootstrap):
    assert seen == [redis_url]
    assert redis.Redis.from_url(redis_url).get("a") == b"1"
    assert broker_answers(kafka_bootstrap, within_s=10)
    print(f"<{redis_url}> <{kafka_bootstrap}>")
"""


def test_servers_are_shared_by_a_session_and_gone_after_it(tmp_path: Path) -> None:
    (tmp_path / "test_servers.py").write_text(TESTS)
    registered = any(found.value == PLUGIN for found in entry_points(group="pytest11"))
    plugin = [] if registered else ["-p", PLUGIN]  # the installation of a checkout may be older than its sources
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-c", "/dev/null", "-p", "no:cacheprovider", *plugin]
    done = subprocess.run(
        [*command, "test_servers.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    redis_url, bootstrap = re.findall(r"<(.+?)>", done.stdout)
    assert not redis_answers(redis_url, within_s=0.5)
    assert not broker_answers(bootstrap, within_s=0.5)
