"""docker-compose.yml and what it mounts are right as far as that can be known without a Docker engine.

The file is read as Compose reads it (anchors, merges, default values), held against the Compose specification, and
against its neighbours: the CLI that it calls, the files that it mounts, the metrics that the dashboard shows.
The health checks of the project's own services are executed, against real servers.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import grpc
import prometheus_client
import pytest
import yaml
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
DASHBOARDS = ROOT / ".docker/grafana/dashboards"
OWN_IMAGE = "streamfti:local"
METRICS_MODULES = ("feature_pipeline/metrics.py", "inference_pipeline/metrics.py")

YamlMapping = dict[str, Any]  # a YAML mapping, before anything about it has been checked


def interpolated(text: str) -> str:
    """The text with each ``${NAME:-default}`` replaced by its default: what a user without settings gets."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


COMPOSE: YamlMapping = yaml.safe_load(interpolated(COMPOSE_FILE.read_text()))
SERVICES: dict[str, YamlMapping] = COMPOSE["services"]
OWN_SERVICES = [name for name, service in SERVICES.items() if service["image"] == OWN_IMAGE]
JOBS = [name for name, service in SERVICES.items() if service["restart"] == "no"]
every_service = pytest.mark.parametrize("name", SERVICES)
every_own_service = pytest.mark.parametrize("name", OWN_SERVICES)


def validators() -> dict[str, list[str]]:
    """The programs on this machine that know the Compose specification: its JSON schema always, Docker if there."""
    schema = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    found = {"json-schema": [*schema, str(COMPOSE_FILE)]}
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], check=False, capture_output=True).returncode == 0:
        found["docker-compose"] = [docker, "compose", "--file", str(COMPOSE_FILE), "config", "--quiet"]
    return found


@pytest.mark.parametrize("validator", validators().values(), ids=validators())
def test_file_conforms_to_the_compose_specification(validator: list[str]) -> None:
    outcome = subprocess.run(validator, check=False, capture_output=True, text=True, cwd=ROOT)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_file_has_no_obsolete_version_key() -> None:
    assert "version" not in COMPOSE


def test_own_and_third_party_services_are_all_there() -> None:
    assert set(OWN_SERVICES) == {"apply", "features", "serve"}
    assert JOBS == ["apply"]
    assert set(SERVICES) - set(OWN_SERVICES) == {"kafka", "schema-registry", "redis", "prometheus", "grafana"}


@every_service
def test_service_that_stays_up_has_a_health_check_and_a_supervisor(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    if name in JOBS:  # it ends, so it is waited for by its success: see the test of depends_on
        assert check == {"disable": True}
        return
    assert check["test"][0] in {"CMD", "CMD-SHELL"}
    assert len(check["test"]) > 1
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)
    assert SERVICES[name]["restart"] == "unless-stopped"


@every_service
def test_dependency_exists_and_is_waited_for(name: str) -> None:
    for target, how in SERVICES[name].get("depends_on", {}).items():
        assert target in SERVICES
        expected = "service_completed_successfully" if target in JOBS else "service_healthy"
        assert how == {"condition": expected}, f"{name} must wait for {target}"


def test_the_two_pipelines_do_not_wait_for_each_other() -> None:
    assert "serve" not in SERVICES["features"]["depends_on"]
    assert "features" not in SERVICES["serve"]["depends_on"]


@every_service
def test_third_party_image_is_pinned_to_a_full_version(name: str) -> None:
    image = SERVICES[name]["image"]
    assert image == OWN_IMAGE or re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", image)


@every_service
def test_port_is_bound_to_loopback(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)


def test_no_two_services_publish_the_same_port() -> None:
    published = [port.split(":")[1] for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == len(set(published))


def mounts(name: str) -> list[YamlMapping]:
    """The mounts of a service in the long form, whichever way the file writes them."""
    return [
        {"type": "volume", "source": mount.split(":")[0], "target": mount.split(":")[1]}
        if isinstance(mount, str)
        else mount
        for mount in SERVICES[name].get("volumes", [])
    ]


@every_service
def test_everything_mounted_exists(name: str) -> None:
    for mount in mounts(name):
        if mount["type"] == "volume":
            assert mount["source"] in COMPOSE["volumes"]
        else:
            assert (ROOT / mount["source"]).exists(), f"{name} mounts {mount['source']}, which is not there"
            assert mount["read_only"] is True
            assert mount["bind"] == {"create_host_path": False}


def test_every_volume_is_mounted_somewhere() -> None:
    mounted = {mount["source"] for name in SERVICES for mount in mounts(name) if mount["type"] == "volume"}
    assert mounted == set(COMPOSE["volumes"])


@pytest.mark.parametrize(("name", "folder"), [("kafka", "/var/lib/kafka/data"), ("redis", "/data")])
def test_server_keeps_its_data_in_a_volume(name: str, folder: str) -> None:
    assert folder in {mount["target"] for mount in mounts(name) if mount["type"] == "volume"}


def test_kafka_writes_to_its_volume() -> None:
    assert SERVICES["kafka"]["environment"]["KAFKA_LOG_DIRS"] == "/var/lib/kafka/data"


def option(command: list[str], name: str) -> str:
    """The word after ``name`` in a command."""
    return command[command.index(name) + 1]


def test_redis_never_evicts_and_survives_a_restart() -> None:
    command = SERVICES["redis"]["command"]
    assert option(command, "--maxmemory-policy") == "noeviction"
    assert option(command, "--maxmemory") != "0"
    assert option(command, "--appendonly") == "yes"


@every_own_service
def test_own_service_is_told_where_the_stores_are(name: str) -> None:
    environment = SERVICES[name]["environment"]
    assert environment["REDIS_URL"].startswith("redis://redis:6379")
    assert environment["KAFKA_BOOTSTRAP_SERVERS"] == "kafka:9092"
    assert environment["STREAMFTI_HOME"] in {mount["target"] for mount in mounts(name) if mount["source"] == "home"}


def on_host(word: str, name: str) -> str:
    """A word of a service's command, with a path of the container replaced by the file mounted there."""
    sources = {mount["target"]: str(ROOT / mount["source"]) for mount in mounts(name) if mount["type"] == "bind"}
    return sources.get(word, word)


@every_own_service
def test_own_service_runs_a_command_that_exists(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in SERVICES[name]["environment"].items():
        monkeypatch.setenv(variable, value)
    program, *words = [on_host(word, name) for word in SERVICES[name]["command"]]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    command = importlib.metadata.EntryPoint(program, scripts[program], "console_scripts").load()
    context = click.Context(command, info_name=program)
    while isinstance(command, click.Group):
        subcommand = command.get_command(context, words[0])
        assert subcommand is not None, f"{context.command_path} has no command {words[0]!r}"
        command, context = subcommand, click.Context(subcommand, parent=context, info_name=words[0])
        words = words[1:]
    # Parses and validates every argument and option as a call would, and stops short of calling.
    command.make_context(context.info_name, words, parent=context.parent).close()


def health_check(name: str, port: int, free_port: int) -> int:
    """The exit code of a service's own health check, pointed at ``free_port`` of this machine."""
    kind, program, *words = SERVICES[name]["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "python")
    assert f"127.0.0.1:{port}" in words[-1]
    words[-1] = words[-1].replace(f"127.0.0.1:{port}", f"127.0.0.1:{free_port}")
    return subprocess.run([sys.executable, *words], check=False, capture_output=True, timeout=60).returncode


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port that refuses connections for as long as the test runs: bound, and not listening."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


def test_features_is_healthy_while_it_serves_its_metrics() -> None:
    server, thread = prometheus_client.start_http_server(0, addr="127.0.0.1")
    try:
        assert health_check("features", 9400, server.server_port) == 0
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_features_is_unhealthy_when_nothing_listens(unused_port: int) -> None:
    assert health_check("features", 9400, unused_port) != 0


@pytest.mark.parametrize(("status", "healthy"), [("SERVING", True), ("NOT_SERVING", False)])
def test_serve_is_healthy_when_the_health_service_says_so(*, status: str, healthy: bool) -> None:
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    servicer.set("", health_pb2.HealthCheckResponse.ServingStatus.Value(status))
    free_port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert (health_check("serve", 50051, free_port) == 0) is healthy
    finally:
        server.stop(grace=None).wait()


def test_serve_is_unhealthy_when_nothing_listens(unused_port: int) -> None:
    assert health_check("serve", 50051, unused_port) != 0


def test_prometheus_scrapes_each_pipeline_on_its_metrics_port() -> None:
    config = yaml.safe_load((ROOT / ".docker/prometheus.yml").read_text())
    targets = {
        target for job in config["scrape_configs"] for group in job["static_configs"] for target in group["targets"]
    }
    commands = {name: SERVICES[name]["command"] for name in OWN_SERVICES}
    exposed = {
        f"{name}:{option(words, '--metrics-port')}" for name, words in commands.items() if "--metrics-port" in words
    }
    assert targets == exposed == {"features:9400", "serve:9401"}


def panels() -> list[YamlMapping]:
    """Every panel of every dashboard, rows included."""
    return [panel for path in sorted(DASHBOARDS.glob("*.json")) for panel in json.loads(path.read_text())["panels"]]


def queries() -> list[str]:
    """Every query of every panel."""
    return [target["expr"] for panel in panels() for target in panel.get("targets", [])]


def string_constants(path: Path) -> Iterator[str]:
    """Every string literal of a Python file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def exported_metrics() -> set[str]:
    """Names of the metrics that the pipelines declare, as their source spells them."""
    constants = {text for module in METRICS_MODULES for text in string_constants(ROOT / "streamfti" / module)}
    return {text for text in constants if re.fullmatch(r"streamfti_[a-z0-9_]+", text)}


def metrics_shown() -> set[str]:
    """Names of the metrics that the dashboards query, without the suffixes of a histogram's series."""
    names = {name for query in queries() for name in re.findall(r"\bstreamfti_[a-z0-9_]+", query)}
    return {re.sub(r"_seconds_(bucket|sum|count)$", "_seconds", name) for name in names}


def test_dashboard_shows_only_metrics_that_are_exported() -> None:
    assert metrics_shown() - exported_metrics() == set()


def test_dashboard_shows_every_metric_that_is_exported() -> None:
    assert exported_metrics() - metrics_shown() == set()


def test_dashboard_has_a_row_for_each_pipeline() -> None:
    assert [panel["title"] for panel in panels() if panel["type"] == "row"] == ["Feature pipeline", "Inference"]


def test_every_panel_says_what_it_shows() -> None:
    assert all(panel["description"] for panel in panels() if panel["type"] != "row")


def test_dashboard_asks_the_provisioned_data_source() -> None:
    provisioned = yaml.safe_load((ROOT / ".docker/grafana/provisioning/datasources/prometheus.yml").read_text())
    (source,) = provisioned["datasources"]
    host, _, port = source["url"].removeprefix("http://").partition(":")
    assert (host, port) == ("prometheus", "9090")
    asked = {panel["datasource"]["uid"] for panel in panels() if panel["type"] != "row"}
    assert asked == {source["uid"]}


def test_grafana_finds_the_dashboards_where_they_are_mounted() -> None:
    providers = yaml.safe_load((ROOT / ".docker/grafana/provisioning/dashboards/streamfti.yml").read_text())
    folders = {provider["options"]["path"] for provider in providers["providers"]}
    targets = {mount["target"]: ROOT / mount["source"] for mount in mounts("grafana")}
    assert {targets[folder] for folder in folders} == {DASHBOARDS}
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (DASHBOARDS / Path(home).name).is_file()


DOCKERFILE = ROOT / ".docker/Dockerfile"


def copied_from_the_repository() -> set[str]:
    """What the image is made of: the sources of each COPY that does not take from another stage."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), flags=re.MULTILINE)
    return {source for line in lines for source in line.split()}


def test_one_service_builds_the_image_that_all_own_services_run() -> None:
    builders = [name for name, service in SERVICES.items() if "build" in service]
    assert builders == ["apply"]
    build = SERVICES["apply"]["build"]
    assert (ROOT / build["context"] / build["dockerfile"]) == DOCKERFILE


def test_own_image_is_never_pulled() -> None:
    assert {SERVICES[name]["pull_policy"] for name in OWN_SERVICES} == {"build", "never"}


def test_base_images_are_pinned_and_the_same() -> None:
    (base,) = set(re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(), flags=re.MULTILINE))
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", base)


def test_image_does_not_run_as_root() -> None:
    assert "USER streamfti" in DOCKERFILE.read_text().splitlines()


def test_image_gets_files_that_exist_and_are_sent_to_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sources = copied_from_the_repository()
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == sources
    assert [source for source in sorted(sources) if not (ROOT / source).exists()] == []
