"""A feature pipeline that kills itself at a chosen point: run by `test_feature_pipeline_kill.py` as a process.

    python feature_pipeline_child.py DEFINITIONS HOME REDIS_URL BOOTSTRAP POINT COUNT

POINT names a step of the commit, COUNT how often it is passed before the SIGKILL; "never" runs to the end.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamfti.clock import SystemClock
from streamfti.definitions.catalog import load_catalog
from streamfti.feature_pipeline import kafka_source
from streamfti.feature_pipeline.assembly import build_feature_run
from streamfti.feature_pipeline.dead_letters import DeadLetterProducer
from streamfti.feature_pipeline.pipeline import LogPolicy
from streamfti.feature_pipeline.runner import StopSignal
from streamfti.settings import Settings
from streamfti.stores.offline.writer import LogWriter
from streamfti.stores.online.redis_store import OnlineWriter

MAX_ROWS = 7_000  # several flushes of the log in a short run
MAX_BATCH = 1_000  # and many commits


class Killer:
    def __init__(self, point: str, count: int) -> None:
        self._point, self._left = point, count

    def passed(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if self._left < 0:
                os.kill(os.getpid(), signal.SIGKILL)


def around(owner: type, name: str, killer: Killer, label: str) -> None:
    """Let a method of a class report that it begins and that it has ended."""
    original: Callable[..., Any] = getattr(owner, name)

    def wrapped(*args: object, **kwargs: object) -> object:
        killer.passed(f"before {label}")
        result = original(*args, **kwargs)
        killer.passed(f"after {label}")
        return result

    setattr(owner, name, wrapped)


def cut_transactions(killer: Killer) -> None:
    """Let half of a transaction's bytes go out before the kill, or all of them but no reply be read."""
    original: Callable[..., Any] = OnlineWriter._send

    def send(self: OnlineWriter, block: bytes) -> None:
        if block.startswith(b"*1\r\n$5\r\nMULTI"):
            killer.passed("in transaction, nothing sent")
            if killer._point == "in transaction, half sent" and killer._left == 0:
                original(self, block[: len(block) // 2])
            killer.passed("in transaction, half sent")
            original(self, block)
            killer.passed("in transaction, all sent")
        else:
            original(self, block)

    OnlineWriter._send = send  # type: ignore[method-assign]


def main(definitions: str, home: str, redis_url: str, bootstrap: str, point: str, count: str) -> None:
    killer = Killer(point, int(count))
    kafka_source._MAX_BATCH = MAX_BATCH
    around(DeadLetterProducer, "deliver", killer, "dead letters")
    around(LogWriter, "append", killer, "append")
    around(OnlineWriter, "commit", killer, "commit")
    around(LogWriter, "flush", killer, "flush")
    cut_transactions(killer)
    run = build_feature_run(
        load_catalog(Path(definitions)),
        [],
        Settings(home=Path(home), redis_url=redis_url, bootstrap_servers=bootstrap),
        clock=SystemClock(),
        log_policy=LogPolicy(max_rows=MAX_ROWS),
    )
    run.run("bytewax", StopSignal(when_caught_up=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
