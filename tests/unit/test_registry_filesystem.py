"""The model registry: versions appear whole and once, aliases move by compare-and-set, every byte is checked."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from streamfti.clock import ManualClock
from streamfti.errors import ArtifactCorrupt, ModelNotFound, RegistryError, VersionConflict
from streamfti.stores.registry.filesystem import ModelRegistry
from streamfti.stores.registry.golden import GoldenRows
from streamfti.stores.registry.manifest import ModelFacts, ModelManifest

FACTS = ModelFacts(
    service="fraud",
    service_fingerprint="f" * 64,
    inputs={"numeric": ["amount", "CardSpend.spend_1h"], "categories": ["merchant"]},
    task="binary",
    metrics={"auc": 0.75},
    opset={"": 15},
)
GOLDEN = GoldenRows(
    np.array([[1, np.nan], [2, 3]], np.float32), np.array([["a"], ["\u00e9\u4e2d"]]), np.array([0.25, 0.5], np.float32)
)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path, clock=ManualClock(NOON))


def publish(registry: ModelRegistry, model: bytes = b"model") -> ModelManifest:
    return registry.publish("fraud", FACTS, model=model, golden=GOLDEN)


def test_what_is_published_is_what_is_loaded(registry: ModelRegistry) -> None:
    manifest = publish(registry)
    loaded = registry.load("fraud", 1)
    assert loaded.manifest == manifest
    assert loaded.model_bytes == b"model"
    np.testing.assert_array_equal(loaded.golden.numeric, GOLDEN.numeric)
    np.testing.assert_array_equal(loaded.golden.categories, GOLDEN.categories)
    np.testing.assert_array_equal(loaded.golden.outputs, GOLDEN.outputs)
    assert (manifest.name, manifest.version, manifest.created_at) == ("fraud", 1, NOON)
    assert manifest.metrics == {"auc": 0.75}


def test_each_publication_is_a_new_version_and_moves_no_alias(registry: ModelRegistry) -> None:
    publish(registry)
    registry.promote("fraud", 1)
    assert publish(registry, b"other").version == 2
    assert registry.versions("fraud") == [1, 2]
    assert registry.load("fraud").model_bytes == b"model"
    assert registry.load("fraud", "2").model_bytes == b"other"


def test_a_version_begun_by_a_killed_process_is_invisible(registry: ModelRegistry, tmp_path: Path) -> None:
    begun = tmp_path / "models" / "fraud" / ".tmp-killed"
    begun.mkdir(parents=True)
    (begun / "model.onnx").write_bytes(b"half")
    assert registry.names() == []
    assert publish(registry).version == 1
    assert registry.versions("fraud") == [1]


def test_a_failed_publication_leaves_nothing(registry: ModelRegistry, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="must be plain JSON"):
        registry.publish("fraud", dataclasses.replace(FACTS, metrics={"auc": float("nan")}), model=b"m", golden=GOLDEN)
    assert list((tmp_path / "models" / "fraud").iterdir()) == []


def test_the_same_rows_and_facts_give_the_same_bytes(registry: ModelRegistry, tmp_path: Path) -> None:
    publish(registry)
    publish(registry)
    first, second = (tmp_path / "models" / "fraud" / version for version in ("1", "2"))
    assert (first / "golden.npz").read_bytes() == (second / "golden.npz").read_bytes()
    assert (first / "manifest.json").read_text().replace('"version": 1', '"version": 2') == (
        second / "manifest.json"
    ).read_text()


def test_a_manifest_survives_its_json() -> None:
    manifest = ModelManifest(
        **dataclasses.asdict(FACTS), name="fraud", version=3, created_at=NOON, files={"model.onnx": "00"}
    )
    assert ModelManifest.load(manifest.dump()) == manifest


@pytest.mark.parametrize("file", ["model.onnx", "golden.npz", "manifest.json"])
@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b + b" ", lambda b: bytes([b[0] ^ 1]) + b[1:]], ids=["cut", "longer", "flip"]
)
def test_a_tampered_file_is_refused_by_name(
    registry: ModelRegistry, tmp_path: Path, file: str, damage: Callable[[bytes], bytes]
) -> None:
    publish(registry)
    registry.promote("fraud", 1)
    path = tmp_path / "models" / "fraud" / "1" / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ArtifactCorrupt, match=f"{file} of model 'fraud' version 1"):
        registry.load("fraud")


def test_a_missing_file_is_refused_by_name(registry: ModelRegistry, tmp_path: Path) -> None:
    publish(registry)
    (tmp_path / "models" / "fraud" / "1" / "model.onnx").unlink()
    with pytest.raises(ArtifactCorrupt, match=r"model\.onnx of model 'fraud' version 1 must be readable"):
        registry.load("fraud", 1)


def test_a_version_in_the_place_of_another_is_refused(registry: ModelRegistry, tmp_path: Path) -> None:
    publish(registry)
    (tmp_path / "models" / "fraud" / "1").rename(tmp_path / "models" / "fraud" / "7")
    with pytest.raises(ArtifactCorrupt, match="must be its own, got that of 'fraud' version 1"):
        registry.load("fraud", 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "must have schema version 1, got 2"),
        ({"extra": 1}, "must have exactly the keys"),
        ({"created_at": "noon"}, "must be an ISO 8601 time"),
        ({"files": {"../../etc/passwd": "00"}}, "must be its own"),
        ({"files": ["model.onnx"]}, "files of a manifest must be of type dict"),
        ({"version": "1"}, "version of a manifest must be of type int"),
        ({"inputs": None}, "inputs of a manifest must be of type dict"),
    ],
)
def test_a_malformed_manifest_is_refused(
    registry: ModelRegistry, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    publish(registry)
    path = tmp_path / "models" / "fraud" / "1" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtifactCorrupt, match=message):
        registry.load("fraud", 1)


def test_pickled_golden_rows_are_never_unpickled() -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
            return pytest.fail, ("unpickled",)

    buffer = io.BytesIO()
    bomb = np.empty((1, 1), object)
    bomb[0, 0] = Bomb()
    np.savez(buffer, numeric=bomb, categories=bomb, outputs=bomb)
    with pytest.raises(ArtifactCorrupt, match="golden rows must be"):
        GoldenRows.load(buffer.getvalue())


def test_golden_rows_of_unequal_length_are_refused() -> None:
    with pytest.raises(RegistryError, match="must have shapes"):
        GoldenRows(GOLDEN.numeric, GOLDEN.categories, GOLDEN.outputs[:1])


def test_what_is_not_there_is_said_with_the_nearest_name(registry: ModelRegistry) -> None:
    publish(registry)
    with pytest.raises(ModelNotFound, match="did you mean 'fraud'"):
        registry.load("frauds", 1)
    with pytest.raises(ModelNotFound, match=r"no version 4.*known: 1"):
        registry.load("fraud", 4)
    registry.promote("fraud", 1)
    with pytest.raises(ModelNotFound, match="did you mean 'champion'"):
        registry.load("fraud", "champions")
    with pytest.raises(ModelNotFound, match="no version 2"):
        registry.promote("fraud", 2)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", ".hidden", "caf\u00e9", "a\n"])
def test_a_name_that_is_no_safe_path_is_refused(registry: ModelRegistry, name: str) -> None:
    with pytest.raises(RegistryError, match="must be made of letters"):
        registry.publish(name, FACTS, model=b"m", golden=GOLDEN)
    with pytest.raises(RegistryError, match="must be made of letters"):
        registry.versions(name)
    publish(registry)
    with pytest.raises(RegistryError, match="an alias must be made of letters"):
        registry.promote("fraud", 1, name)


def test_an_alias_cannot_look_like_a_version(registry: ModelRegistry) -> None:
    publish(registry)
    with pytest.raises(RegistryError, match="must not be a number, got '1'"):
        registry.promote("fraud", 1, "1")


def test_promotion_is_compare_and_set(registry: ModelRegistry) -> None:
    publish(registry)
    publish(registry)
    registry.promote("fraud", 1, expected=0)
    with pytest.raises(VersionConflict, match="must point at nothing yet, got version 1"):
        registry.promote("fraud", 2, expected=0)
    registry.promote("fraud", 2, expected=1)
    with pytest.raises(VersionConflict, match="must point at version 1, got version 2"):
        registry.promote("fraud", 1, expected=1)
    assert registry.aliases("fraud") == {"champion": 2}


def test_a_damaged_version_is_not_promoted(registry: ModelRegistry, tmp_path: Path) -> None:
    publish(registry)
    (tmp_path / "models" / "fraud" / "1" / "model.onnx").write_bytes(b"other")
    with pytest.raises(ArtifactCorrupt, match=r"model\.onnx"):
        registry.promote("fraud", 1)
    assert registry.aliases("fraud") == {}


def test_rollback_walks_back_through_the_promotions(registry: ModelRegistry) -> None:
    for version in (1, 2, 3):
        publish(registry)
        registry.promote("fraud", version)
    assert registry.rollback("fraud").version == 2
    assert registry.rollback("fraud").version == 1
    with pytest.raises(ModelNotFound, match="must have an earlier version to go back to"):
        registry.rollback("fraud")
    registry.promote("fraud", 3)
    assert registry.rollback("fraud").version == 1
    assert [move.version for move in registry.history("fraud")] == [1, 2, 3, 2, 1, 3, 1]


def test_promoting_what_is_promoted_adds_no_move(registry: ModelRegistry) -> None:
    publish(registry)
    registry.promote("fraud", 1)
    registry.promote("fraud", 1)
    assert len(registry.history("fraud")) == 1


def test_a_damaged_alias_is_refused_by_name(registry: ModelRegistry, tmp_path: Path) -> None:
    publish(registry)
    registry.promote("fraud", 1)
    path = tmp_path / "models" / "fraud" / "aliases" / "champion" / "000001.json"
    path.write_text("{}")
    with pytest.raises(ArtifactCorrupt, match=r"alias file '000001\.json'"):
        registry.load("fraud")


@pytest.mark.parametrize("change", [{"previous": 5}, {"previous": "x"}, {"version": "1"}, {"number": 1}])
def test_a_move_that_cannot_be_is_refused_and_not_followed(
    registry: ModelRegistry, tmp_path: Path, change: dict[str, object]
) -> None:
    for version in (1, 2):
        publish(registry)
        registry.promote("fraud", version)
    path = tmp_path / "models" / "fraud" / "aliases" / "champion" / "000002.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtifactCorrupt, match=r"'000002\.json' .* must hold move 2"):
        registry.rollback("fraud")


def test_a_move_that_is_gone_is_not_passed_over(registry: ModelRegistry, tmp_path: Path) -> None:
    for version in (1, 2):
        publish(registry)
        registry.promote("fraud", version)
    (tmp_path / "models" / "fraud" / "aliases" / "champion" / "000001.json").unlink()
    with pytest.raises(ArtifactCorrupt, match=r"'000001\.json'"):
        registry.rollback("fraud")


def test_an_alias_that_cannot_be_written_is_said(registry: ModelRegistry, tmp_path: Path) -> None:
    publish(registry)
    (tmp_path / "models" / "fraud" / "aliases").write_text("in the way")
    with pytest.raises(RegistryError, match="must be writable"):
        registry.promote("fraud", 1)


def test_an_empty_registry_says_what_fills_it(registry: ModelRegistry) -> None:
    with pytest.raises(ModelNotFound) as caught:
        registry.load("fraud")
    assert caught.value.hint == "`streamfti train` registers one"


_RACER = """
import sys
from pathlib import Path
import numpy as np
from streamfti.errors import VersionConflict
from streamfti.stores.registry.filesystem import ModelRegistry
from streamfti.stores.registry.golden import GoldenRows
from streamfti.stores.registry.manifest import ModelFacts

registry = ModelRegistry(Path(sys.argv[1]))
facts = ModelFacts(service="s", service_fingerprint="f", inputs={"numeric": ["x"], "categories": []}, task="binary")
golden = GoldenRows(np.zeros((1, 1), np.float32), np.empty((1, 0), np.str_), np.zeros(1, np.float32))
sys.stdin.readline()
won = 0
for _ in range(20):
    manifest = registry.publish("fraud", facts, model=sys.argv[2].encode(), golden=golden)
    try:
        registry.promote("fraud", manifest.version, "racing", expected=registry.aliases("fraud").get("racing", 0))
        won += 1
    except VersionConflict:
        pass
    registry.promote("fraud", manifest.version)
    print(manifest.version)
print("won", won)
"""


def test_processes_that_publish_and_promote_at_once_lose_nothing(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _RACER, str(tmp_path), str(i)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(4)
    ]
    outputs = []
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        outputs.append(racer.communicate(timeout=60)[0].split())
        assert racer.returncode == 0
    versions = [int(word) for output in outputs for word in output[:-2]]
    registry = ModelRegistry(tmp_path)
    assert sorted(versions) == registry.versions("fraud") == list(range(1, 81))
    for i, output in enumerate(outputs):
        assert {registry.load("fraud", version).model_bytes for version in output[:-2]} == {str(i).encode()}
    # Every promotion that said it won is in the history, once, and nothing else is.
    assert len(registry.history("fraud", "racing")) == sum(int(output[-1]) for output in outputs)
    assert sorted(move.version for move in registry.history("fraud")) == list(range(1, 81))
    assert not list(tmp_path.rglob(".tmp-*"))


def test_the_registry_loads_no_arrow_and_no_training_library() -> None:
    code = (
        "import sys, streamfti.stores.registry.filesystem\n"
        "assert not {'pyarrow', 'polars', 'onnx', 'onnxruntime', 'sklearn', 'lightgbm'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
