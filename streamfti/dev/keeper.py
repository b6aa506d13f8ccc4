"""The program that stands between an owner and one server, so that no server outlives its owner.

It is run as a file, alone (`python -I -S keeper.py OWNER_PID GRACE_S COMMAND...`), and may import nothing but the
standard library: it starts with every server. Why a program and not a flag on the server: a pipe whose other
end is in the owner closes when the owner dies, however it dies, on every POSIX system and from every thread; a
death signal alone exists on Linux only and follows the *thread* that started the server.

The owner holds both ends of this contract:

1. standard output: the keeper writes the server's pid and a newline, once; end of file before that means that
   the command could not be executed;
2. standard input: `KILL` kills the server at once; end of file, from `close()` or from the owner's death,
   terminates it, and kills it after the grace;
3. standard error: the log file; the server writes both of its streams there;
4. the keeper ends when the server has ended and was reaped, never before.

When the keeper itself is killed the server dies with it on Linux; elsewhere it is left behind.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import threading

__all__ = ["CANNOT_EXECUTE", "KILL", "main"]

KILL = b"k"
CANNOT_EXECUTE = 126

_PR_SET_PDEATHSIG = 1
_OWNER_CHECK_S = 1.0  # a forked copy of the owner may hold the pipe open: its parent's pid is looked at as well
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before the fork, which may not load


def main(arguments: list[str]) -> int:
    """Run one server until it ends or its owner has had enough; return its exit code (128 + n for signal n)."""
    owner_pid, grace_s, command = int(arguments[0]), float(arguments[1]), arguments[2:]
    ended, tell = os.pipe()
    try:
        server = _spawn(command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        return CANNOT_EXECUTE
    # After the spawn: the server would inherit this. Only the owner gives orders, and a server that was told to
    # end by somebody else is reaped.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.write(1, f"{server.pid}\n".encode())
    os.close(1)
    threading.Thread(target=lambda: (server.wait(), os.write(tell, b".")), daemon=True).start()
    if _next_order(ended, owner_pid) != KILL:
        server.terminate()
        select.select([ended], [], [], grace_s)
    server.kill()
    code = server.wait()
    return code if code >= 0 else 128 - code


def _spawn(command: list[str]) -> subprocess.Popen[bytes]:
    keeper_pid = os.getpid()

    def die_with_keeper() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper_pid:  # it died before the line above took effect
            os._exit(CANNOT_EXECUTE)

    # This process has one thread yet, which lives as long as it does: both hazards of preexec_fn are absent.
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2, preexec_fn=die_with_keeper)  # noqa: S603, PLW1509


def _next_order(ended: int, owner_pid: int) -> bytes:
    """Wait for an order, the owner's death or the server's end; return the order, empty for the other two."""
    while os.getppid() == owner_pid:
        readable, _, _ = select.select([0, ended], [], [], _OWNER_CHECK_S)
        if ended in readable:
            return b""
        if readable:
            return os.read(0, 1)
    return b""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
