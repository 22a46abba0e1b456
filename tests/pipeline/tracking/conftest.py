from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.tracking import provenance, sync
from pipeline.tracking import runs as tracking
from tsdsr.config import Params

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One SQLite store for the module: creating its tables takes longer than all else here."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture
def params(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Params:
    """The committed params with an experiment of the test's own, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(provenance.ROOT_VARIABLE, str(database))
    monkeypatch.setattr(sync, "_AWAY", set())
    monkeypatch.setattr(tracking, "_OPENED", {})
    return Params.load(REPOSITORY / "params.yaml").overlay({"tracking": {"experiment": request.node.name}})


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """Files with the names of a student's."""
    folder = tmp_path / "students/full"
    folder.mkdir(parents=True)
    for name in ("transformer.safetensors", "vae.safetensors", "prompt.safetensors"):
        (folder / name).write_text(name)
    (folder / "student.json").write_text(json.dumps({"scale": 4, "lora": {"rank": 8}}))
    (tmp_path / "manifest.json").write_text("{}")
    return folder
