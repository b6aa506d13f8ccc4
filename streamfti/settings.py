"""Where a command finds its parts: the home folder, Redis, Kafka. The only reader of the environment, beside `dev`.

Settings are read once, where a process is put together, and handed on as plain values. No component looks here.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import click

from streamfti.dev.running import read_running
from streamfti.errors import SettingsError, did_you_mean

__all__ = [
    "DEFAULT_BOOTSTRAP_SERVERS",
    "DEFAULT_HOME",
    "DEFAULT_REDIS_URL",
    "Settings",
    "load_settings",
    "masked_url",
    "settings_options",
]

DEFAULT_HOME = ".streamfti"
DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"
DEFAULT_BOOTSTRAP_SERVERS = "127.0.0.1:9092"

_HOME, _REDIS, _KAFKA = "STREAMFTI_HOME", "REDIS_URL", "KAFKA_BOOTSTRAP_SERVERS"
_SCHEMAS = "SCHEMA_REGISTRY_URL"
_OURS = "STREAMFTI_"
_KNOWN = (_HOME, "STREAMFTI_ADDRESS")
"""Every variable that begins as ours do; the other one is the default of the clients' option `--address`."""

_PASSWORD = re.compile(r"((?:^|://)[^:@/?#]*:)[^/?#]*(@)|(?<=[?&]password=)[^&#]*")

SettingName = Literal["home", "redis_url", "bootstrap_servers", "schema_registry_url"]

T = TypeVar("T")
"""What a command returns."""


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """Where everything is. Its repr shows no password.

    Attributes:
        home: the folder of the offline log, the model registry and the schemas.
        redis_url: the online store, with its password if it has one.
        bootstrap_servers: the brokers.
        schema_registry_url: the schema registry, with its password if it has one; None for the files of this machine.
    """

    home: Path
    redis_url: str
    bootstrap_servers: str
    schema_registry_url: str | None = None

    @property
    def log_folder(self) -> Path:
        """The root of the offline log."""
        return self.home / "log"

    @property
    def registry_folder(self) -> Path:
        """The root of the model registry."""
        return self.home / "registry"

    @property
    def schemas_folder(self) -> Path:
        """The root of the schema registry."""
        return self.home / "schemas"

    def __repr__(self) -> str:
        return (
            f"Settings(home={str(self.home)!r}, redis_url={masked_url(self.redis_url)!r}, "
            f"bootstrap_servers={self.bootstrap_servers!r}, "
            f"schema_registry_url={self.schema_registry_url and masked_url(self.schema_registry_url)!r})"
        )


def load_settings(
    *,
    home: Path | None = None,
    redis_url: str | None = None,
    bootstrap_servers: str | None = None,
    schema_registry_url: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Decide each setting: what is given here, else the environment, else a running `dev up`, else the default.

    An empty variable is as good as none.

    Args:
        home: the value of `--home`; it decides in which folder a running `dev up` is looked for.
        redis_url: the value of `--redis-url`.
        bootstrap_servers: the value of `--bootstrap-servers`.
        schema_registry_url: the value of `--schema-registry-url`.
        environ: the environment, instead of that of the process.

    Raises:
        SettingsError: if a variable begins with `STREAMFTI_` but is none of ours, or the online store or the schema
            registry is no URL.
        ContractError: if what `dev up` left is damaged.
    """
    variables = os.environ if environ is None else environ
    _refuse_unknown(variables)
    folder = home or Path(variables.get(_HOME) or DEFAULT_HOME)
    redis_url = redis_url or variables.get(_REDIS)
    bootstrap_servers = bootstrap_servers or variables.get(_KAFKA)
    running = None if redis_url and bootstrap_servers else read_running(folder)
    redis_url = redis_url or (running.redis_url if running else DEFAULT_REDIS_URL)
    _check_redis_url(redis_url)
    schema_registry_url = schema_registry_url or variables.get(_SCHEMAS) or None
    if schema_registry_url is not None:
        _check_registry_url(schema_registry_url)
    return Settings(
        home=folder,
        redis_url=redis_url,
        bootstrap_servers=bootstrap_servers or (running.bootstrap_servers if running else DEFAULT_BOOTSTRAP_SERVERS),
        schema_registry_url=schema_registry_url,
    )


def _refuse_unknown(variables: Mapping[str, str]) -> None:
    for name in sorted(variables):
        if name.startswith(_OURS) and name not in _KNOWN:
            msg = f"the environment must name settings of StreamFTI, got {name}"
            raise SettingsError(msg, hint=did_you_mean(name, _KNOWN))


def _check_redis_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_address = parts.scheme == "unix" or (parts.scheme in {"redis", "rediss"} and parts.port != 0)
    except ValueError:  # a port that is no number, or a bracket that is not closed
        is_address = False
    if not is_address:
        msg = f"the online store must be a URL of a Redis, got {masked_url(url)!r}"
        raise SettingsError(msg, hint=f"for example {DEFAULT_REDIS_URL}; the schemes are redis, rediss and unix")


def _check_registry_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # as above
        is_address = False
    if not is_address:
        msg = f"the schema registry must be a URL of HTTP, got {masked_url(url)!r}"
        raise SettingsError(msg, hint="for example http://127.0.0.1:8081")


def masked_url(url: str) -> str:
    """Return a URL without its password, wherever in it that stands."""
    return _PASSWORD.sub(lambda found: f"{found[1] or ''}***{found[2] or ''}", url)


def settings_options(*names: SettingName) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Give a click command options for the named settings, and hand it the outcome as its argument `settings`.

    Settings that are not named are decided without an option.
    """

    def decorate(command: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(command)
        def with_settings(*args: object, **values: Any) -> T:  # noqa: ANN401  # whatever the command takes
            given = {name: values.pop(name) for name in names}
            return command(*args, settings=load_settings(**given), **values)

        decorated: Callable[..., T] = with_settings
        for name in reversed(names):
            decorated = _OPTIONS[name](decorated)
        return decorated

    return decorate


_OPTIONS: dict[SettingName, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "home": click.option(
        "--home",
        type=click.Path(file_okay=False, path_type=Path),
        help=f"Folder of the log, the models and the schemas.  [env: {_HOME}; default: {DEFAULT_HOME}]",
    ),
    "redis_url": click.option(
        "--redis-url",
        metavar="URL",
        help=f"The online store.  [env: {_REDIS}; default: that of `dev up`, else {DEFAULT_REDIS_URL}]",
    ),
    "bootstrap_servers": click.option(
        "--bootstrap-servers",
        metavar="HOST:PORT",
        help=f"The Kafka brokers.  [env: {_KAFKA}; default: that of `dev up`, else {DEFAULT_BOOTSTRAP_SERVERS}]",
    ),
    "schema_registry_url": click.option(
        "--schema-registry-url",
        metavar="URL",
        help=f"The schema registry, as Confluent's.  [env: {_SCHEMAS}; default: files in the home]",
    ),
}
