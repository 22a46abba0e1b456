"""The whole `dvc repro`, on the smoke overlay, in a fresh clone: what `make repro` does, in miniature."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.repro


def run(clone: Path, *command: str) -> str:
    """Run a command in the clone with this interpreter's tools first on PATH; returns its output."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "RAY_", "GIT_"))
    }
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(clone),
        "HOME": str(clone / "home"),  # no git identity, no DVC configuration of the person who runs this
    }
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone after `dvc repro` with params/smoke.yaml applied."""
    target = tmp_path_factory.mktemp("repro") / "tsdsr"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(target)], check=True)
    (target / "home").mkdir()
    run(target, "python", "-m", "pipeline.params", "apply", "params/smoke.yaml")
    run(target, "dvc", "repro")
    return target


@pytest.mark.timeout(3000)
def test_every_stage_leaves_its_outputs(clone: Path) -> None:
    for student in ("full", "wo_tsm-seed0"):
        assert (clone / "data/students" / student / "transformer.safetensors").is_file()
        assert (clone / f"reports/curves/{student}.csv").is_file()
    names = {path.name for path in (clone / "data/pairs/test/hq").iterdir()}
    for method in ("full", "wo_tsm-seed0", "bicubic", "round_trip"):
        assert {path.name for path in (clone / "data/restored" / method).iterdir()} == names
        with (clone / f"reports/scores/{method}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert {row["name"] for row in rows} == names
        assert all(5 < float(row["psnr"]) < 60 and 0 < float(row["ssim"]) <= 1 for row in rows)
    assert "<html" in (clone / "reports/index.html").read_text(encoding="utf-8")


def test_ablations_differ_from_the_full_student(clone: Path) -> None:
    weights = {
        name: (clone / f"data/students/{name}/transformer.safetensors").read_bytes()
        for name in ("full", "wo_tsm-seed0")
    }
    assert len(set(weights.values())) == 2


def test_a_second_repro_runs_nothing(clone: Path) -> None:
    assert "Running stage" not in run(clone, "dvc", "repro")


def test_git_is_clean_after_the_same_params_were_run_again(clone: Path) -> None:
    """No time, path, run or commit is in what DVC hashes, or in what git tracks."""
    author = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    run(clone, "git", *author, "commit", "--quiet", "--all", "--message", "as it was run")
    run(clone, "dvc", "repro", "--force", "--single-item", "evaluate", "report")
    assert run(clone, "git", "status", "--porcelain").splitlines() == ["?? home/"]
    assert "full" not in run(clone, "dvc", "metrics", "diff")
    assert "psnr" in run(clone, "dvc", "metrics", "show")


def test_mlflow_holds_a_parent_with_a_child_a_variant(clone: Path) -> None:
    script = (
        "import json; from mlflow import MlflowClient; c = MlflowClient('sqlite:///mlflow.db');"
        "runs = c.search_runs([e.experiment_id for e in c.search_experiments()], max_results=100);"
        "print('RESULT' + json.dumps([[r.info.run_name, r.data.tags.get('mlflow.parentRunId'), r.info.run_id,"
        " len(r.data.params), r.data.metrics] for r in runs]))"
    )
    output = run(clone, "python", "-c", script)
    runs = json.loads(output.split("RESULT")[1].splitlines()[0])
    children = {name: (parent, metrics) for name, parent, _, _, metrics in runs if parent}
    for name in ("full", "wo_tsm-seed0"):
        assert name in children
        assert any("psnr" in key for key in children[name][1]), f"{name} has no PSNR: {sorted(children[name][1])}"
    assert len({parent for parent, _ in children.values()}) == 1, "the variants must share one parent"


def test_the_trained_student_upscales_a_photograph(clone: Path) -> None:
    from PIL import Image

    lq = sorted((clone / "data/pairs/test/lq").iterdir())[0]
    run(clone, "tsdsr", "upscale", str(lq), "-o", "out.png", "--model", "full")
    with Image.open(lq) as small, Image.open(clone / "out.png") as large:
        assert large.size == (4 * small.width, 4 * small.height)
