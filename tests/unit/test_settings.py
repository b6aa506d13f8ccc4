from __future__ import annotations

import os
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from streamfti.dev.running import Addresses, announce
from streamfti.errors import SettingsError
from streamfti.settings import Settings, load_settings, masked_url, settings_options


def test_defaults_stand_where_nothing_else_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings(environ={}) == Settings(Path(".streamfti"), "redis://127.0.0.1:6379/0", "127.0.0.1:9092")


def test_a_running_dev_up_of_the_home_is_found(tmp_path: Path) -> None:
    with announce(tmp_path, _addresses()):
        found = load_settings(home=tmp_path, environ={})
    assert found == Settings(tmp_path, "redis://dev:1/0", "dev:2")


def test_the_environment_names_the_home_of_the_running_dev_up(tmp_path: Path) -> None:
    with announce(tmp_path, _addresses()):
        found = load_settings(environ={"STREAMFTI_HOME": str(tmp_path)})
    assert found == Settings(tmp_path, "redis://dev:1/0", "dev:2")


def test_the_environment_goes_before_a_running_dev_up_one_by_one(tmp_path: Path) -> None:
    with announce(tmp_path, _addresses()):
        found = load_settings(home=tmp_path, environ={"REDIS_URL": "redis://env:3/0"})
    assert found == Settings(tmp_path, "redis://env:3/0", "dev:2")


def test_a_flag_goes_before_the_environment() -> None:
    environ = {"STREAMFTI_HOME": "/env", "REDIS_URL": "redis://env/0", "KAFKA_BOOTSTRAP_SERVERS": "env:1"}
    assert load_settings(environ=environ) == Settings(Path("/env"), "redis://env/0", "env:1")
    given = load_settings(home=Path("h"), redis_url="redis://flag/0", bootstrap_servers="flag:1", environ=environ)
    assert given == Settings(Path("h"), "redis://flag/0", "flag:1")


def test_an_empty_variable_is_as_good_as_none(tmp_path: Path) -> None:
    environ = {"STREAMFTI_HOME": str(tmp_path), "REDIS_URL": "", "KAFKA_BOOTSTRAP_SERVERS": ""}
    assert load_settings(environ=environ).redis_url == "redis://127.0.0.1:6379/0"


def test_an_unknown_variable_of_ours_is_an_error_that_offers_the_right_one() -> None:
    with pytest.raises(SettingsError, match=r"got STREAMFTI_HOEM \(did you mean 'STREAMFTI_HOME'\?\)"):
        load_settings(environ={"STREAMFTI_HOEM": "x", "OTHER_HOEM": "y"})


def test_the_folders_are_below_the_home() -> None:
    settings = load_settings(home=Path("h"), environ={})
    assert (settings.log_folder, settings.registry_folder, settings.schemas_folder) == (
        Path("h/log"),
        Path("h/registry"),
        Path("h/schemas"),
    )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://me:se:cr@et@host:1/0", "redis://me:***@host:1/0"),
        ("rediss://:secret@host/0?ssl_cert_reqs=none", "rediss://:***@host/0?ssl_cert_reqs=none"),
        ("redis://host/0?db=1&password=secret", "redis://host/0?db=1&password=***"),
        ("unix:///run/redis.sock?password=secret", "unix:///run/redis.sock?password=***"),
    ],
)
def test_passwords_are_masked_wherever_they_stand(url: str, shown: str) -> None:
    assert masked_url(url) == shown
    assert "secret" not in repr(load_settings(redis_url=url, environ={}))


def test_the_schema_registry_is_that_of_the_flag_else_the_environment_else_files() -> None:
    environ = {"SCHEMA_REGISTRY_URL": "http://me:secret@env:8081"}
    found = load_settings(environ=environ)
    assert found.schema_registry_url == environ["SCHEMA_REGISTRY_URL"]
    assert "http://me:***@env:8081" in repr(found)
    assert "secret" not in repr(found)
    given = load_settings(schema_registry_url="https://flag", environ=environ)
    assert given.schema_registry_url == "https://flag"
    assert load_settings(environ={"SCHEMA_REGISTRY_URL": ""}).schema_registry_url is None


@pytest.mark.parametrize("url", ["env:8081", "redis://r", "http://", "http://h:port"])
def test_a_schema_registry_is_a_url_of_http(url: str) -> None:
    with pytest.raises(SettingsError, match="the schema registry must be a URL of HTTP, got"):
        load_settings(environ={"SCHEMA_REGISTRY_URL": url})


def test_a_command_gets_its_settings_from_options(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STREAMFTI_HOME", "REDIS_URL", "KAFKA_BOOTSTRAP_SERVERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "env:1")

    @click.command()
    @click.argument("word")
    @settings_options("home", "redis_url")
    def show(word: str, settings: Settings) -> None:
        click.echo(f"{word} {settings}")

    result = CliRunner().invoke(show, ["hello", "--home", "h", "--redis-url", "redis://:pw@r/0"])
    assert result.output == (
        "hello Settings(home='h', redis_url='redis://:***@r/0', bootstrap_servers='env:1', schema_registry_url=None)\n"
    )
    assert CliRunner().invoke(show, ["hello", "--bootstrap-servers", "x:1"]).exit_code == 2


def _addresses() -> Addresses:
    return Addresses(redis_url="redis://dev:1/0", bootstrap_servers="dev:2", kafka_in_memory=True, pid=os.getpid())


@pytest.mark.parametrize("url", ["nonsense", "127.0.0.1:6379", "http://h/0", "redis://h:port/0", "redis://[::1/0"])
def test_an_online_store_that_is_no_url_is_said_with_an_example(url: str) -> None:
    with pytest.raises(SettingsError, match="must be a URL of a Redis, got") as caught:
        load_settings(environ={"REDIS_URL": url})
    assert "redis://127.0.0.1:6379/0" in caught.value.hint


def test_a_wrong_url_is_told_without_its_password() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(redis_url="redis://:hunter2@h:port/0", environ={})
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize("url", ["redis://h", "rediss://user:secret@h:1/2", "unix:///run/redis.sock?db=1"])
def test_every_scheme_of_redis_is_taken(url: str) -> None:
    assert load_settings(redis_url=url, environ={}).redis_url == url
