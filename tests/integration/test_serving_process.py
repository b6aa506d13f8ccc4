"""The life of a server: health, metrics, stores that fail, too many calls, a stop, and the commands around it."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

import click
import grpc
import pytest
from click.testing import CliRunner, Result
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from streamfti.clock import to_us
from streamfti.definitions.catalog import Catalog
from streamfti.dev.redis_server import RedisServer, start_redis
from streamfti.dev.running import Addresses, announce
from streamfti.errors import (
    DefinitionError,
    InvalidRequest,
    MissingPart,
    ServingError,
    StoreUnavailable,
)
from streamfti.inference_pipeline.client import InferenceClient
from streamfti.inference_pipeline.commands import get_features, predict, serve
from streamfti.inference_pipeline.server import SERVER_OPTIONS
from tests.integration.conftest import (  # pytest has loaded it under this name before it loads a test
    APPLIED_UNTIL_US,
    GOOD,
    NOW,
    Served,
    serving,
)

# --- how it runs


def test_health_is_told_by_model_and_a_stop_is_announced(catalog: Catalog, home: Path, store: RedisServer) -> None:
    serving_status, stopping = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    with serving(catalog, home, store.url) as running:
        stub: Any = health_pb2_grpc.HealthStub(running.channel)
        for name in ("", "fraud", "streamfti.v1.InferenceService"):
            assert stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5).status == serving_status
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            stub.Check(health_pb2.HealthCheckRequest(service="other"), timeout=5)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="fraud"), timeout=10)
        assert next(watch).status == serving_status
        with ThreadPoolExecutor(1) as pool:
            stopped = pool.submit(running.server.stop, 5.0)
            assert next(watch).status == stopping
            watch.cancel()
            assert stopped.result(timeout=10)


def test_reflection_knows_the_service(served: Served) -> None:
    database = ProtoReflectionDescriptorDatabase(served.channel)
    assert "streamfti.v1.InferenceService" in database.get_services()
    found = database.FindFileContainingSymbol("streamfti.v1.PredictRequest")
    assert found.name == "streamfti/v1/inference.proto"


def test_every_option_is_one_that_grpc_knows() -> None:
    spec = importlib.util.find_spec("grpc._cython.cygrpc")
    assert spec is not None
    binary = Path(str(spec.origin)).read_bytes()
    names = [name for name, _ in SERVER_OPTIONS]
    assert [name for name in names if name.encode() not in binary] == []


def test_calls_and_statuses_are_counted(catalog: Catalog, home: Path, store: RedisServer) -> None:
    with serving(catalog, home, store.url) as running:
        running.client.predict("fraud", GOOD)
        running.client.predict("fraud", {**GOOD, "shop": None})
        with pytest.raises(InvalidRequest, match="has no field"):
            running.client.predict("fraud", {**GOOD, "x": 1})
        value = running.metrics.get_sample_value
        calls = {"method": "Predict", "code": "OK"}
        assert value("streamfti_requests_total", calls) == 2
        assert value("streamfti_requests_total", {**calls, "code": "INVALID_ARGUMENT"}) == 1
        assert value("streamfti_request_seconds_count", {"method": "Predict"}) == 3
        assert value("streamfti_feature_status_total", {"group": "Card", "status": "PRESENT"}) == 8
        assert value("streamfti_feature_status_total", {"group": "Shop", "status": "MISSING"}) == 2
        assert value("streamfti_model_info", {"model": "fraud", "version": "1"}) == 1


def test_nobody_there_is_a_missing_part() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    with (
        InferenceClient(address) as client,
        pytest.raises(MissingPart, match=f"no inference server answers there: {address}"),
    ):
        client.predict("fraud", GOOD)


# --- when the store fails


class HoldingProxy:
    """A TCP proxy before Redis: while it holds, what clients send is kept back."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.holding = threading.Event()
        self.caught = threading.Event()
        self.released = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._listener.close()
        for connection in self._sockets:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._port))
            self._sockets += [near, far]
            threading.Thread(target=self._pump, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, False), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, may_hold: bool) -> None:  # noqa: FBT001  # a thread's argument
        try:
            while data := source.recv(1 << 16):
                if may_hold and self.holding.is_set():
                    self.caught.set()
                    self.released.wait()
                target.sendall(data)
        except OSError:
            return
        target.close()


def test_a_store_that_is_gone_is_unavailable_until_it_is_back(tmp_path: Path, catalog: Catalog, home: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(start_redis(tmp_path))
        running = stack.enter_context(serving(catalog, home, server.url, read_timeout_s=0.2))
        before = running.client.predict("fraud", GOOD)[0]
        server.kill()
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"^a store does not answer; the server's log has the details"):
            running.client.predict("fraud", GOOD, timeout_s=3.0)
        assert time.monotonic() - started < 3.0
        stack.enter_context(start_redis(tmp_path, port=server.port))
        assert running.client.predict("fraud", GOOD)[0] == before


def test_a_store_that_hangs_is_unavailable_within_the_deadline(
    store: RedisServer, catalog: Catalog, home: Path
) -> None:
    with HoldingProxy(store.port) as proxy, serving(catalog, home, proxy.url, read_timeout_s=0.2) as running:
        running.client.predict("fraud", GOOD)
        proxy.holding.set()
        with pytest.raises(StoreUnavailable, match="a store does not answer"):
            running.client.predict("fraud", GOOD, timeout_s=3.0)
        with pytest.raises(ServingError, match="did not answer in time"):
            running.client.predict("fraud", GOOD, timeout_s=0.05)


def outcome(client: InferenceClient) -> str:
    try:
        client.predict("fraud", GOOD, timeout_s=30)
    except ServingError as error:
        return error.message
    return "answered"


def test_more_calls_than_can_wait_are_refused_at_once_and_the_others_answered(
    store: RedisServer, catalog: Catalog, home: Path
) -> None:
    with (
        HoldingProxy(store.port) as proxy,
        serving(catalog, home, proxy.url, read_timeout_s=30) as running,
        ThreadPoolExecutor(160) as pool,
    ):
        proxy.holding.set()
        calls = [pool.submit(outcome, running.client) for _ in range(160)]
        refused = [call.result() for call in itertools.islice(as_completed(calls, timeout=20), 160 - 128)]
        assert all("the inference server has too much to do" in text for text in refused)
        proxy.released.set()
        assert [call.result(timeout=20) for call in calls].count("answered") == 128


# --- the commands


@dataclass(frozen=True)
class Process:
    process: subprocess.Popen[str]
    address: str
    metrics: str

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@contextmanager
def serve_process(definitions: Path, home: Path, url: str) -> Iterator[Process]:
    program = "from streamfti.inference_pipeline.commands import serve; serve()"
    options = ["--store-timeout", "10", "--port", "0", "--metrics-port", "0", "--home", str(home), "--redis-url", url]
    command = [sys.executable, "-c", program, str(definitions), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline().strip() for _ in range(4)]
            assert lines[0].startswith("listening on 127.0.0.1:")
            assert lines[1:3] == ["model fraud version 1, features fraud_features", "feature services: fraud_features"]
            yield Process(process, lines[0].removeprefix("listening on "), lines[3].removeprefix("metrics at "))
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_answers_what_is_in_flight_and_exits_with_0(
    definitions: Path, home: Path, store: RedisServer, number: signal.Signals
) -> None:
    with (
        HoldingProxy(store.port) as proxy,
        serve_process(definitions, home, proxy.url) as server,
        InferenceClient(server.address) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        client.predict("fraud", GOOD)
        proxy.holding.set()
        in_flight = pool.submit(client.predict, "fraud", GOOD, timeout_s=10)
        assert proxy.caught.wait(10)
        server.process.send_signal(number)
        assert server.line() == f"{number.name}: answering what is in flight\n"
        proxy.released.set()
        assert in_flight.result(timeout=10).model.version == 1
        assert server.line() == "stopped\n"
        assert server.process.wait(timeout=10) == 0
        with pytest.raises(MissingPart, match="no inference server answers there"):
            client.predict("fraud", GOOD)


def test_a_served_process_publishes_its_metrics(definitions: Path, home: Path, store: RedisServer) -> None:
    with serve_process(definitions, home, store.url) as server, InferenceClient(server.address) as client:
        client.predict("fraud", GOOD)
        with urlopen(server.metrics, timeout=5) as response:  # noqa: S310  # the address that the server printed
            text = response.read().decode()
    assert 'streamfti_requests_total{code="OK",method="Predict"} 1.0' in text
    assert 'streamfti_model_info{model="fraud",version="1"} 1.0' in text


PAIRS = ["card_id=c1", "shop=7", "amount=12.5", "country=NL", "night=true"]


def run(command: click.Command, served: Served, *arguments: str) -> Result:
    options = ["--address", served.server.address, *arguments]
    return CliRunner().invoke(command, options, catch_exceptions=True)


def test_predict_reads_values_in_the_declared_types(served: Served) -> None:
    expected = served.client.predict("fraud", GOOD)[0]
    result = run(predict, served, "--model", "fraud", "--json", "--features", *PAIRS)
    document = json.loads(result.output)
    assert document["prediction"] == expected
    assert document["version"] == 1
    assert document["features"]["Shop.n_1h"] == {"value": 1, "status": "PRESENT"}
    assert document["progress"]["Card"]["40"]["next_offset"] == 2
    assert document["freshness"]["Card"] == {
        "applied_until_us": APPLIED_UNTIL_US,
        "freshness_us": 4_000_000,
        "is_stale": True,
    }
    assert document["freshness"]["Shop"]["is_stale"] is None


def test_predict_prints_what_a_person_wants_to_know(served: Served) -> None:
    result = run(predict, served, "--model", "fraud", "--features", *PAIRS[:-2], "country", "night=0")
    assert result.exit_code == 0
    lines = [line.split() for line in result.output.splitlines()]
    assert lines[0] == ["prediction", "701.5"]
    assert lines[1] == ["model", "fraud", "version", "1"]
    assert ["country", "-", "MISSING"] in lines
    assert ["night", "False", "PRESENT"] in lines


def test_get_features_prints_values_and_statuses(served: Served) -> None:
    arguments = ("--service", "fraud_features", "--as-of", "2026-01-01T13:00:00+01:00", "card_id=c1")
    lines = [line.split() for line in run(get_features, served, *arguments).output.splitlines()]
    assert lines[0] == ["as", "of", NOW.isoformat()]
    assert ["Card.n_5m", "1", "PRESENT"] in lines
    assert ["Shop.most_1h", "-", "MISSING"] in lines
    assert ["Card", "is", "up", "to", "date", "as", "of", "4.0", "s", "ago:", "STALE"] in lines
    assert ["Shop", "is", "up", "to", "date", "as", "of", "4.0", "s", "ago"] in lines
    document = json.loads(run(get_features, served, *arguments, "--json").output)
    assert document["query_time_us"] == to_us(NOW)
    assert document["features"]["Card.usual_1h"] == {"value": 145.0, "status": "PRESENT"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nigth=1"], r"model 'fraud' has no field 'nigth' \(did you mean 'night'\?\)"),
        (["amount=much"], r"'amount' must be float64, got 'much' \(for example amount=7.5; a bare amount without '='"),
        (["shop=7", "shop=8"], "field 'shop' must be given once, got it twice"),
        (["shop=9223372036854775808"], "field 'shop' must hold integers of 64 bits, got 9223372036854775808"),
        (["shop=1.5"], "field 'shop' must be int64, got '1.5'"),
        (["night=maybe"], "field 'night' must be bool, got 'maybe'"),
        (["--as-of", "yesterday"], "--as-of must be an ISO 8601 time with its zone, got 'yesterday'"),
        (["--as-of", "2026-01-01T12:00:00"], "--as-of must be an ISO 8601 time with its zone"),
    ],
)
def test_a_wrong_argument_is_one_clear_error(served: Served, arguments: list[str], message: str) -> None:
    result = run(predict, served, "--model", "fraud", *arguments)
    assert isinstance(result.exception, InvalidRequest)
    assert re.search(message, str(result.exception))


def test_serve_says_that_the_store_is_not_there(definitions: Path, home: Path) -> None:
    arguments = [str(definitions), "--home", str(home), "--redis-url", "redis://127.0.0.1:1/0"]
    result = CliRunner().invoke(serve, arguments)
    assert isinstance(result.exception, StoreUnavailable)
    assert "127.0.0.1:1" in str(result.exception)


def test_serve_names_a_model_that_is_not_defined(definitions: Path, home: Path, store: RedisServer) -> None:
    arguments = [str(definitions), "--home", str(home), "--redis-url", store.url, "--model", "frand"]
    result = CliRunner().invoke(serve, arguments)
    assert isinstance(result.exception, DefinitionError)
    assert "did you mean 'fraud'?" in str(result.exception)


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (predict, ["--model", "fraud", "--address", ""], "it must be HOST:PORT such as 127.0.0.1:50051, got ''"),
        (predict, ["--model", "fraud", "--address", "localhost"], "it must be HOST:PORT"),
        (get_features, ["--service", "s", "--address", "h:99999"], "it must be HOST:PORT"),
        (serve, ["definitions.py", "--port", "70000"], "70000 is not in the range"),
        (serve, ["definitions.py", "--metrics-port", "70000"], "70000 is not in the range"),
    ],
)
def test_an_address_that_cannot_be_is_wrong_usage(command: click.Command, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert message in result.output


def cli(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streamfti.cli", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_a_server_that_is_not_there_is_one_line_and_a_hint(tmp_path: Path) -> None:
    done = cli("predict", "--model", "fraud", "--address", "127.0.0.1:1", "card_id=c1", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: no inference server answers there: 127.0.0.1:1")
    assert hint == "hint: is it running? `streamfti serve` starts one and says its address"


def test_serve_finds_the_servers_of_dev_up_and_says_in_one_line_that_its_port_is_taken(
    tmp_path: Path, definitions: Path, home: Path, store: RedisServer, served: Served
) -> None:
    """That it comes as far as its port shows that it has found both stores without an option."""
    project = tmp_path / ".streamfti"
    project.mkdir()
    (project / "registry").symlink_to(home / "registry")
    addresses = Addresses(redis_url=store.url, bootstrap_servers="127.0.0.1:1", kafka_in_memory=True, pid=os.getpid())
    port = served.server.address.rpartition(":")[2]
    with announce(project, addresses):
        done = cli("serve", str(definitions), "--port", port, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]
    assert f"must be able to bind 127.0.0.1:{port}" in done.stderr
