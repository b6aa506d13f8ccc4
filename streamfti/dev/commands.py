"""`streamfti dev`: the command line of the embedded servers. Options and words only; the work is in `servers`."""

from __future__ import annotations

import json
import shlex
import signal
import threading
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamfti.dev.running import announce, read_running
from streamfti.dev.servers import KAFKA_VARIABLE, REDIS_VARIABLE, DevServers
from streamfti.errors import MissingPart

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["dev"]

_WATCH_S = 0.5
_PORT = click.IntRange(1, 65535)


@click.group()
def dev() -> None:
    """Run the servers of one machine: no Docker and no Java needed."""


@dev.command()
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="STREAMFTI_HOME",
    default=Path(".streamfti"),
    show_default=True,
    show_envvar=True,
    help="Where Redis keeps its data, and both their logs.",
)
@click.option("--redis-port", type=_PORT, help="Port of Redis.  [default: a free one]")
@click.option("--kafka-port", type=_PORT, help="Port of the broker.  [default: a free one]")
@click.option("--json", "as_json", is_flag=True, help="Print the addresses as one line of JSON.")
def up(data_dir: Path, redis_port: int | None, kafka_port: int | None, as_json: bool) -> None:  # noqa: FBT001 - a flag
    """Start Redis and a Kafka broker, and stop them on Ctrl-C.

    Redis keeps its data in the data folder. The broker is IN MEMORY: its topics are gone when it stops. A server
    named by REDIS_URL or KAFKA_BOOTSTRAP_SERVERS is used instead of starting one.
    """
    _refuse_second(data_dir)
    has_kept = (data_dir / "redis").is_dir()
    with (
        suppress(KeyboardInterrupt),
        _signals_interrupt(),
        DevServers(data_dir, redis_port=redis_port, kafka_port=kafka_port) as servers,
        announce(data_dir, servers.addresses),
    ):
        if has_kept and servers.addresses.kafka_in_memory:
            click.echo(_stale(data_dir), err=True)
        click.echo(_as_json(servers) if as_json else _as_text(servers))
        _watch(servers)
    click.echo("stopped", err=True)


def _refuse_second(data_dir: Path) -> None:
    running = read_running(data_dir)
    if running is not None:
        msg = f"{data_dir} must have its servers once, but process {running.pid} runs them"
        raise MissingPart(msg, hint=f"kill -INT {running.pid} stops them; or choose another --data-dir")


def _stale(data_dir: Path) -> str:
    folder = shlex.quote(str(data_dir))
    return (
        f"note: {data_dir} keeps what an earlier run read from topics that are gone, and a feature pipeline will not "
        f"go on from there\nhint: to begin anew, stop this, remove it (rm -r {folder}), and start again"
    )


def _watch(servers: DevServers) -> None:
    """Wait for ever, that is until a signal interrupts; an own server that ends by itself is an error."""
    never = threading.Event()
    while not never.wait(_WATCH_S):
        failure = servers.failure
        if failure is not None:
            raise failure


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let SIGTERM and a closed terminal do what Ctrl-C does, also where the parent had Ctrl-C ignored."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _as_json(servers: DevServers) -> str:
    return json.dumps(asdict(servers.addresses))


def _as_text(servers: DevServers) -> str:
    variables = {
        REDIS_VARIABLE: servers.redis and servers.redis_url,
        KAFKA_VARIABLE: servers.kafka and servers.bootstrap_servers,
    }
    words = [f"{name}={shlex.quote(value)}" for name, value in variables.items() if value]
    lines = [servers.describe()]
    if words:
        lines += ["", "for other programs in another terminal:", f"  export {' '.join(words)}"]
    return "\n".join([*lines, "", "Ctrl-C stops what was started here."])
