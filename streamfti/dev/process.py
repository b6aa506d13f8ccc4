"""One server process that this process owns: started on a folder, watched until ready, stopped by its handle.

Which server it is does not matter here; commands, addresses and readiness are in `redis_server` and
`kafka_broker`. POSIX only.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self, TypeVar

from streamfti.clock import SystemClock
from streamfti.dev import keeper
from streamfti.errors import MissingPart

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

__all__ = ["EmbeddedServer", "ServerProcess", "free_port", "start_listening", "wait_until"]

_POLL_S = 0.02
_TAIL_BYTES = 8192
_TAIL_LINES = 12
_PORT_ATTEMPTS = 4
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class ServerProcess:
    """A server and the keeper that holds it.

    Guarantees:
        - one server per folder: the folder's lock is held until the server has been reaped, whoever owns it;
        - the server is in a session of its own: Ctrl-C in the terminal reaches the owner alone;
        - it ends when the owner ends, also by SIGKILL: see `keeper`;
        - both of its streams are appended to `log_path`.

    Args:
        name: what messages call it, and the name of its log file.
        command: the program and its arguments.
        data_dir: the folder of the server; made when it is not there.
        grace_s: seconds between SIGTERM and SIGKILL in `stop`.

    Raises:
        MissingPart: if the command cannot be executed, or another server still runs on the folder.
    """

    def __init__(self, name: str, command: Sequence[str], data_dir: Path, *, grace_s: float) -> None:
        self.name = name
        self.log_path = data_dir / f"{name}.log"
        data_dir.mkdir(parents=True, exist_ok=True)
        with (data_dir / "lock").open("wb") as lock, self.log_path.open("ab") as log:
            _take(lock, name, data_dir, within_s=grace_s)
            self._log_start = log.tell()
            self._keeper = _start_keeper(command, grace_s, log, lock)
        self.pid = self._read_pid()

    @property
    def running(self) -> bool:
        """Whether the server has not ended yet."""
        return self._keeper.poll() is None

    def stop(self) -> None:
        """Terminate the server, kill it after the grace, and return when it is gone. Again: nothing happens."""
        self._order(b"")

    def kill(self) -> None:
        """Kill the server (SIGKILL) and return when it is gone. Again: nothing happens."""
        self._order(keeper.KILL)

    def failure(self, must: str) -> MissingPart:
        """Return the error that says what the server had to do, and what its log says instead."""
        got = "it still runs" if self.running else f"it ended with code {self._keeper.returncode}"
        tail = self._log_tail() or "(nothing)"
        return MissingPart(f"{self.name} must {must}, but {got}; it said:\n{tail}", hint=f"log: {self.log_path}")

    def _order(self, order: bytes) -> None:
        to_keeper, from_keeper = self._keeper.stdin, self._keeper.stdout
        if to_keeper is not None and not to_keeper.closed:
            with to_keeper, suppress(BrokenPipeError):  # broken: the server ended by itself, and its keeper with it
                to_keeper.write(order)
        if from_keeper is not None:
            from_keeper.close()
        self._keeper.wait()

    def _read_pid(self) -> int:
        line = self._keeper.stdout.readline() if self._keeper.stdout else b""
        if not line:
            self._order(b"")
            must = "be executable"
            raise self.failure(must)
        return int(line)

    def _log_tail(self) -> str:
        with self.log_path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - _TAIL_BYTES))
            text = log.read().decode(errors="replace")
        lines = [line for line in _COLOURS.sub("", text).splitlines() if line.strip()]
        return "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:])


class EmbeddedServer:
    """A server of this machine with a port; what `RedisServer` and `KafkaServer` have in common.

    Leaving it as a context manager stops it.
    """

    def __init__(self, process: ServerProcess, port: int) -> None:
        self.process = process
        self.port = port

    @property
    def name(self) -> str:
        """What messages call the server."""
        return self.process.name

    @property
    def pid(self) -> int:
        """The process id of the server itself, not of its keeper."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether the server has not ended yet."""
        return self.process.running

    def stop(self) -> None:
        """Terminate the server and return when it is gone; its data is complete on disk if it keeps any."""
        self.process.stop()

    def kill(self) -> None:
        """Kill the server (SIGKILL) and return when it is gone."""
        self.process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


Server = TypeVar("Server", bound=EmbeddedServer)
"""Which server is started; the caller gets back what its own `start` gave."""


def free_port() -> int:
    """Return a loopback port that nobody listens on at the moment; somebody else may still be faster."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_listening(
    start: Callable[[int], Server],
    answers: Callable[[Server], bool],
    *,
    port: int | None,
    within_s: float,
) -> Server:
    """Start a server and return it when it answers.

    Args:
        start: starts the server on a port.
        answers: whether the server, and not a stranger on its port, answers now.
        port: the port; none chooses a free one, and another one when the server ends at once, as it does when
            somebody took the port in between.
        within_s: how long one start may take, in seconds.

    Raises:
        MissingPart: if the server ended or did not answer in time; it does not run any more then.
    """
    for attempts_left in reversed(range(1 if port is not None else _PORT_ATTEMPTS)):
        server = start(port if port is not None else free_port())
        if _ready(server, answers, within_s):
            return server
        failure = server.process.failure(f"answer on port {server.port} within {within_s:g} s")
        ended = not server.running
        server.kill()
        if not (attempts_left and ended):
            break
    raise failure


def _ready(server: Server, answers: Callable[[Server], bool], within_s: float) -> bool:
    try:
        answered = wait_until(lambda: answers(server) or not server.running, within_s=within_s)
    except BaseException:  # Ctrl-C above all: a server that nobody was handed must not stay
        server.kill()
        raise
    return answered and server.running


def wait_until(condition: Callable[[], bool], *, within_s: float) -> bool:
    """Poll a condition; return True when it holds, False when it did not hold within the time."""
    clock = SystemClock()
    deadline = clock.monotonic() + within_s
    while not condition():
        if clock.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _start_keeper(command: Sequence[str], grace_s: float, log: IO[bytes], lock: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - the command is ours, without a shell
        [sys.executable, "-I", "-S", keeper.__file__, str(os.getpid()), str(grace_s), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        bufsize=0,
        start_new_session=True,
        pass_fds=[lock.fileno()],  # the lock lives as long as the keeper, and the server does not inherit it
    )


def _take(lock: IO[bytes], name: str, data_dir: Path, *, within_s: float) -> None:
    """Lock the folder; a server whose owner has just died may need its grace to leave it.

    Raises:
        MissingPart: if another server keeps the folder.
    """

    def locked() -> bool:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    if not wait_until(locked, within_s=within_s):
        msg = f"{name} must have its data folder alone, but another server runs on {data_dir}"
        raise MissingPart(msg, hint="stop it, or choose another --data-dir")
