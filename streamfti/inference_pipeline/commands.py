"""The commands of the inference pipeline: `serve`, and `predict` and `get-features` as its clients."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from prometheus_client import CollectorRegistry, start_http_server
from typing_extensions import override

from streamfti.clock import SystemClock, from_us
from streamfti.compute.stored_state import stored_state
from streamfti.compute.values import Status
from streamfti.definitions.catalog import Catalog, load_catalog
from streamfti.definitions.dtypes import DType
from streamfti.errors import InvalidRequest, ServingError, did_you_mean
from streamfti.inference_pipeline.client import InferenceClient
from streamfti.inference_pipeline.metrics import ServingMetrics
from streamfti.inference_pipeline.routes import Routes
from streamfti.inference_pipeline.server import InferenceServer, StopSignals
from streamfti.inference_pipeline.tables import FeatureVectors, GroupProgress, Predictions, RequestField, Scalar
from streamfti.settings import Settings, settings_options
from streamfti.stores.online.meaning import check_stored_meaning
from streamfti.stores.online.redis_store import OnlineReader
from streamfti.stores.registry.filesystem import ModelRegistry

__all__ = ["get_features", "predict", "serve"]

_MAX_PORT = 65_535
_PORT = click.IntRange(0, _MAX_PORT)
_STORE_TIMEOUT_S = 0.5  # hundreds of times what a read takes, and still well within a caller's deadline
_GRACE_S = 10.0  # for calls in flight at a stop, besides the time-out of the store, which they may have to wait for


class _HostPort(click.ParamType[str]):
    """An address such as `127.0.0.1:50051`."""

    name = "host:port"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        host, _, port = str(value).rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) <= _MAX_PORT:
            self.fail(f"it must be HOST:PORT such as 127.0.0.1:50051, got {value!r}", param, ctx)
        return str(value)


_ADDRESS = click.option(
    "--address",
    type=_HostPort(),
    envvar="STREAMFTI_ADDRESS",
    default="127.0.0.1:50051",
    show_default=True,
    show_envvar=True,
    help="Where the inference server listens.",
)
_AS_OF = click.option(
    "--as-of", help="Query time with its zone, such as 2026-01-31T12:00:00Z; by default the server's clock."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
_PAIRS = click.argument("pairs", nargs=-1, metavar="NAME=VALUE...")


@click.command()
@click.argument("definitions", type=click.Path(path_type=Path))
@click.option("--model", "models", multiple=True, help="A model to serve; may be repeated. By default, all of them.")
@click.option("--alias", default="champion", show_default=True, help="Which version of each model to load.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind.")
@click.option("--port", type=_PORT, default=50051, show_default=True, help="Port to bind; 0 takes a free one.")
@click.option(
    "--store-timeout",
    "store_timeout_s",
    default=_STORE_TIMEOUT_S,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds that a read of the online store may take.",
)
@settings_options("home", "redis_url")
@click.option("--metrics-port", type=_PORT, help="Port for Prometheus; 0 takes a free one. By default, none.")
def serve(
    definitions: Path,
    *,
    models: tuple[str, ...],
    alias: str,
    host: str,
    port: int,
    store_timeout_s: float,
    metrics_port: int | None,
    settings: Settings,
) -> None:
    """Serve the models and features of DEFINITIONS over gRPC until SIGTERM or Ctrl-C.

    The first line printed is `listening on HOST:PORT`. A stop answers the calls in flight first.
    """
    catalog = load_catalog(definitions)
    registry = CollectorRegistry()
    metrics, clock = ServingMetrics(registry), SystemClock()
    with StopSignals() as signals, _online(settings.redis_url, store_timeout_s, catalog) as online:
        routes = Routes.build(
            catalog,
            models or catalog.models,
            registry=ModelRegistry(settings.registry_folder),
            online=online,
            ref=alias,
            clock=clock,
            metrics=metrics,
        )
        server = InferenceServer(routes, host=host, port=port, metrics=metrics, clock=clock)
        with _metrics_endpoint(registry, host, metrics_port) as endpoint:
            server.start()
            _announce(server, routes, endpoint)
            click.echo(f"{signals.wait()}: answering what is in flight")
            server.stop(_GRACE_S + store_timeout_s)
    click.echo("stopped")


@contextmanager
def _online(url: str, timeout_s: float, catalog: Catalog) -> Iterator[OnlineReader]:
    """Open the online store and see that it answers, with what these definitions wrote."""
    online = OnlineReader(url, timeout_s=timeout_s)
    try:
        check_stored_meaning([(g, stored_state(g)) for g in catalog.groups.values()], online)
        yield online
    finally:
        online.close()


@contextmanager
def _metrics_endpoint(registry: CollectorRegistry, host: str, port: int | None) -> Iterator[str | None]:
    if port is None:
        yield None
        return
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as exc:
        msg = f"the metrics must be able to bind {host}:{port}, which is refused: {exc.strerror}"
        raise ServingError(msg, hint="--metrics-port 0 takes a free port") from exc
    yield f"http://{host}:{server.server_port}/metrics"
    server.shutdown()
    server.server_close()
    thread.join()


def _announce(server: InferenceServer, routes: Routes, endpoint: str | None) -> None:
    click.echo(f"listening on {server.address}")
    for predictor in routes.predictors.values():
        identity = predictor.info.identity
        click.echo(f"model {identity.name} version {identity.version}, features {identity.service}")
    click.echo(f"feature services: {', '.join(routes.lookups) or 'none'}")
    if endpoint:
        click.echo(f"metrics at {endpoint}")


@click.command()
@_ADDRESS
@click.option("--model", required=True, help="The model to ask.")
@_AS_OF
@click.option("--features", "with_features", is_flag=True, help="Print what the model was given, too.")
@_JSON
@_PAIRS
def predict(
    *, address: str, model: str, as_of: str | None, with_features: bool, as_json: bool, pairs: tuple[str, ...]
) -> None:
    """Ask a server for one prediction.

    Entity key fields and request features are given as NAME=VALUE, in the types that the server declares; a bare
    NAME is null.
    """
    with InferenceClient(address) as client:
        inputs = _parsed(pairs, client.model(model).fields, f"model {model!r}")
        answer = client.predict(model, inputs, as_of=_time(as_of), include_features=with_features)
    if as_json:
        click.echo(json.dumps(_prediction_document(answer)))
        return
    click.echo(f"prediction  {answer[0]:.6g}")
    click.echo(f"model       {answer.model.name} version {answer.model.version}")
    click.echo(f"as of       {from_us(answer.query_time_us).isoformat()}")
    click.echo(f"id          {answer.prediction_id}")
    if answer.features is not None:
        _print_features(answer.features)


@click.command("get-features")
@_ADDRESS
@click.option("--service", required=True, help="The feature service to read.")
@_AS_OF
@_JSON
@_PAIRS
def get_features(*, address: str, service: str, as_of: str | None, as_json: bool, pairs: tuple[str, ...]) -> None:
    """Read stored and on-demand features of one entity, or of one entity for each group, from a server.

    Entity key fields, and what on-demand features need of a request, are given as NAME=VALUE, in the types that the
    server declares; a bare NAME is null. An on-demand feature whose request features are not all given is MISSING.
    """
    with InferenceClient(address) as client:
        inputs = _parsed(pairs, client.feature_service(service).fields, f"feature service {service!r}")
        columns = {name: [value] for name, value in inputs.items()}
        answer = client.get_features(service, columns, as_of=_time(as_of))
    if as_json:
        document = {"service": answer.service, "service_fingerprint": answer.service_fingerprint}
        click.echo(json.dumps(document | _features_document(answer.vectors)))
        return
    click.echo(f"as of  {from_us(answer.vectors.query_time_us).isoformat()}")
    _print_features(answer.vectors)


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = datetime.min  # noqa: DTZ901  # naive, and so refused below with the same words
    if at.tzinfo is None:
        msg = f"--as-of must be an ISO 8601 time with its zone, got {text!r}"
        raise InvalidRequest(msg, hint="for example 2026-01-31T12:00:00Z")
    return at.astimezone(UTC)


def _parsed(pairs: Iterable[str], fields: Iterable[RequestField], subject: str) -> dict[str, Scalar | None]:
    """Read NAME=VALUE arguments in the types of the declared fields."""
    by_name = {field.name: field for field in fields}
    values: dict[str, Scalar | None] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if name not in by_name:
            msg = f"{subject} has no field {name!r}"
            raise InvalidRequest(msg, hint=did_you_mean(name, by_name))
        if name in values:
            msg = f"field {name!r} must be given once, got it twice"
            raise InvalidRequest(msg, hint="one call asks for one entity; many rows are for InferenceClient")
        values[name] = _value(by_name[name], text) if equals else None
    return values


_EXAMPLES = {DType.INT64: "7", DType.FLOAT64: "7.5", DType.BOOL: "true"}
_BOOLS = {"true": True, "1": True, "false": False, "0": False}


def _value(field: RequestField, text: str) -> Scalar:
    try:
        match field.dtype:
            case DType.INT64:
                return int(text)
            case DType.FLOAT64:
                return float(text)
            case DType.BOOL:
                return _BOOLS[text.lower()]
            case _:
                return text
    except (ValueError, KeyError) as exc:
        msg = f"field {field.name!r} must be {field.dtype.value}, got {text!r}"
        example = f"for example {field.name}={_EXAMPLES[field.dtype]}"
        bare = f"; a bare {field.name} without '=' is null" if field.nullable else ""
        raise InvalidRequest(msg, hint=example + bare) from exc


def _prediction_document(answer: Predictions) -> Mapping[str, Any]:
    document = {
        "prediction": answer[0],
        "prediction_id": answer.prediction_id,
        "model": answer.model.name,
        "version": answer.model.version,
        "service_fingerprint": answer.model.service_fingerprint,
        "query_time_us": answer.query_time_us,
    }
    return document if answer.features is None else document | _features_document(answer.features)


def _features_document(vectors: FeatureVectors) -> dict[str, Any]:
    features = {name: {"value": value, "status": status.name} for name, value, status in _rows(vectors)}
    progress = {
        group.group: {
            str(partition): {"next_offset": p.next_offset, "newest_event_time_us": p.newest_event_time_us}
            for partition, p in group.partitions.items()
        }
        for group in vectors.progress
    }
    freshness = {
        group.group: {
            "applied_until_us": group.applied_until_us,
            "freshness_us": group.freshness_us,
            "is_stale": group.is_stale,
        }
        for group in vectors.progress
    }
    return {
        "query_time_us": vectors.query_time_us,
        "features": features,
        "progress": progress,
        "freshness": freshness,
    }


def _print_features(vectors: FeatureVectors) -> None:
    rows = [(name, "-" if value is None else f"{value}", status.name) for name, value, status in _rows(vectors)]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    for name, value, status in rows:
        click.echo(f"{name:<{widths[0]}}  {value:>{widths[1]}}  {status}")
    for group in vectors.progress:
        click.echo(_freshness(group))


def _freshness(group: GroupProgress) -> str:
    fresh = "is not known to be fresh"
    if group.freshness_us is not None:
        fresh = f"is up to date as of {group.freshness_us / 1e6:.1f} s ago"
    return f"{group.group} {fresh}{': STALE' if group.is_stale else ''}"


def _rows(vectors: FeatureVectors) -> Iterator[tuple[str, Scalar | None, Status]]:
    """Iterate over the columns of one entity; a value that is not there is None."""
    for name, column in vectors.columns.items():
        status = Status(int(column.status[0]))
        yield name, None if status >= Status.EXPIRED else column.values[:1].tolist()[0], status
