"""The committed code of the wire contract is what the compiler makes of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "streamfti" / "_proto"


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("_proto_generate", ROOT / "proto" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*.py*"))
        if "__pycache__" not in path.parts
    }


def test_committed_code_is_what_the_contract_generates(tmp_path: Path) -> None:
    _generator().generate(tmp_path)
    assert _files(tmp_path) == _files(COMMITTED), "run: python proto/generate.py"


def test_generated_code_imports_itself_by_the_package_it_stands_in() -> None:
    source = (COMMITTED / "v1" / "inference_pb2_grpc.py").read_text(encoding="utf-8")
    assert "from streamfti._proto.v1 import inference_pb2" in source
    assert "from streamfti.v1" not in source


@pytest.mark.parametrize("path", sorted((ROOT / "proto").rglob("*.proto")), ids=lambda path: path.name)
def test_every_field_of_the_contract_has_a_comment(path: Path) -> None:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    fields = [i for i, line in enumerate(lines) if " = " in line and line.endswith(";") and not line.startswith("//")]
    fields = [i for i in fields if not lines[i].startswith(("syntax", "option"))]
    bare = [lines[i] for i in fields if not lines[i - 1].startswith("//")]
    assert len(fields) > 50
    assert bare == []
