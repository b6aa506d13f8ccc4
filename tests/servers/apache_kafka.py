"""A real Apache Kafka of one node (KRaft), for the tests: jars by Maven, run by Java, data in a given folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path
from tempfile import mkdtemp

from streamfti.dev.kafka_broker import KafkaServer, broker_answers
from streamfti.dev.process import ServerProcess, free_port, start_listening
from streamfti.errors import MissingPart

__all__ = ["missing_tools", "start_apache_kafka"]

_POM = Path(__file__).parent / "pom.xml"
_LEAST_JAVA = 17
_RESOLVE_S, _FORMAT_S, _READY_S, _GRACE_S = 600, 60, 90.0, 20.0
_JAVA_OPTIONS = [
    "-Xmx512m",
    "-XX:+UseSerialGC",  # starts fast, and one node of a test needs no more
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
]


def missing_tools() -> str | None:
    """Return what this machine lacks to run Apache Kafka, as a sentence; None when nothing is missing."""
    java = shutil.which("java")
    if java is None or shutil.which("mvn") is None:
        return f"{'java' if java is None else 'mvn'} must be on the PATH to run Apache Kafka, got nothing"
    version = _java_version(java)
    if version < _LEAST_JAVA:
        return f"Java must be {_LEAST_JAVA} or newer to run Apache Kafka, got {version}"
    return None


def start_apache_kafka(data_dir: Path) -> KafkaServer:
    """Resolve, format and start a node on a new folder; return it when it lists its topics.

    Raises:
        MissingPart: if any of these steps fails, with what the step said.
    """
    class_path = f"{_jars()}{os.sep}*"

    def start(port: int) -> KafkaServer:
        # A folder per attempt: the ports are part of what is formatted.
        folder = Path(mkdtemp(prefix="node-", dir=data_dir))
        cluster_id = _cluster_id()
        properties = _write_properties(folder, port, free_port())
        _run(_java(class_path, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", properties), _FORMAT_S)
        command = _java(class_path, "kafka.Kafka", properties)
        process = ServerProcess("kafka", command, folder, grace_s=_GRACE_S)
        return KafkaServer(process, port, cluster_id=cluster_id, kind="apache", in_memory=False)

    return start_listening(start, _answers, port=None, within_s=_READY_S)


def _answers(server: KafkaServer) -> bool:
    return broker_answers(server.bootstrap_servers, within_s=1.0, cluster_id=server.cluster_id)


def _jars() -> Path:
    """Return the folder of jars, resolved once for each content of the pom; it appears whole or not at all."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamfti-tests"
    jars = caches / f"kafka-{hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]}"
    if jars.is_dir():
        return jars
    caches.mkdir(parents=True, exist_ok=True)
    draft = Path(mkdtemp(prefix="draft-", dir=caches))
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={draft}"]
    try:
        _run(["mvn", "-q", "-B", "-f", str(_POM), *goal], _RESOLVE_S)
        draft.rename(jars)
    except OSError:
        if not jars.is_dir():  # else another run was faster: its folder is as good
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return jars


def _write_properties(folder: Path, port: int, controller_port: int) -> str:
    properties = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "log.dirs": folder / "logs",
        "log.retention.ms": -1,  # the events of the tests are years old, by the time that they carry
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": 0,
        "offsets.topic.num.partitions": 1,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.num.partitions": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
    }
    path = folder / "server.properties"
    path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()), encoding="utf-8")
    return str(path)


def _cluster_id() -> str:
    """Return a new id in Kafka's form: 16 random bytes in URL-safe base64, not starting like an option."""
    while (text := urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def _java(class_path: str, main_class: str, *arguments: str) -> list[str]:
    return ["java", *_JAVA_OPTIONS, "-cp", class_path, main_class, *arguments]


def _java_version(java: str) -> int:
    """Return the major version: "17.0.15" is 17, and "1.8.0" is 8."""
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    _, _, quoted = said.partition('"')
    numbers = quoted.partition('"')[0].removeprefix("1.").split(".")
    return int(numbers[0]) if numbers[0].isdigit() else 0


def _run(command: list[str], within_s: int) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=within_s)
    except subprocess.TimeoutExpired as error:
        msg = f"{' '.join(command[:2])} must end within {within_s} s, got no end"
        raise MissingPart(msg) from error
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()[-2000:]
        msg = f"{' '.join(command)} must succeed, got code {done.returncode}:\n{said}"
        raise MissingPart(msg)
