"""Each stage of dvc.yaml depends on the code it runs: its script and every file of ours that this imports.

Run as a script, it prints what each stage's dependencies should be.
"""

from __future__ import annotations

import ast
import shlex
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
# Of no consequence for what a stage writes: values come in through `params`, and the rest reports, logs or starts.
PLUMBING = (
    "tsdsr/__init__.py",
    "tsdsr/commands/",
    "tsdsr/compat.py",
    "tsdsr/config/",
    "tsdsr/errors.py",
    "tsdsr/files.py",
    "tsdsr/machine.py",
    "tsdsr/seeding.py",
    "pipeline/__init__.py",
    "pipeline/cluster/",
    "pipeline/process/",
    "pipeline/stages/__init__.py",
    "pipeline/stages/control.py",
    "pipeline/stages/lineage.py",
    "pipeline/stages/progress.py",
    "pipeline/stages/stage.py",
    "pipeline/tracking/",
)
# distill scores its validation set, and trains the same whatever the scores: a new metric is no reason to train again.
COMPRESSING = ("compress-prune", "compress-restore", "compress-vae", "compress")
WATCHED = dict.fromkeys(("distill", "ablate-distill", *COMPRESSING), ("tsdsr/metrics/", "tsdsr/weights/"))


def stages() -> dict[str, dict]:
    found: dict[str, dict] = {}
    for name in ("dvc.yaml", "compress/dvc.yaml"):
        found |= yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))["stages"]
    return found


def script_of(stage: dict) -> str:
    words = shlex.split(stage["cmd"])
    return words[words.index("-m") + 1].replace(".", "/") + ".py"


@cache
def imports(path: str) -> frozenset[str]:
    """Files of ours that a file imports, at its top or inside a function; not those for type checking alone."""
    found: set[str] = set()
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if name.split(".")[0] in {"tsdsr", "pipeline"}:
                base = name.replace(".", "/")
                found |= {file for file in (f"{base}.py", f"{base}/__init__.py") if (ROOT / file).is_file()}
    return frozenset(found)


def closure(name: str) -> set[str]:
    """A stage's script and all it reaches; plumbing and what it only watches are neither counted nor followed."""
    apart = (*PLUMBING, *WATCHED.get(name, ()))
    reached, waiting = set(), [script_of(stages()[name])]
    while waiting:
        path = waiting.pop()
        if path not in reached and not path.startswith(apart):
            reached.add(path)
            waiting += imports(path)
    return {path for path in reached if (ROOT / path).read_text(encoding="utf-8").strip()}


def code_of(stage: dict) -> list[str]:
    return [dep for dep in stage["deps"] if dep.startswith(("tsdsr/", "pipeline/"))]


def within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def run_again_by(path: str) -> set[str]:
    """The stages that an edit of this file runs again."""
    assert (ROOT / path).is_file()
    return {name for name, stage in stages().items() if any(within(path, dep) for dep in stage["deps"])}


@pytest.mark.parametrize("name", stages())
def test_stage_depends_on_the_code_it_runs(name: str) -> None:
    code, wanted = code_of(stages()[name]), closure(name)
    missing = {path for path in wanted if not any(within(path, dep) for dep in code)}
    assert not missing, "not among its deps"
    unused = {dep for dep in code if not any(within(path, dep) for path in wanted)}
    assert not unused, "deps that it does not use"


def test_an_edit_runs_again_what_it_changes_and_no_more() -> None:
    distilling, scoring = {"distill", "ablate-distill", *COMPRESSING}, {"evaluate", "ablate", "compress-evaluate"}
    assert run_again_by("tsdsr/losses/tsd.py") == distilling
    assert run_again_by("tsdsr/reporting/page.py") == {"report"}
    assert run_again_by("tsdsr/metrics/images.py") == scoring | {"report"}
    assert run_again_by("tsdsr/inference/pipeline.py") == scoring | set(COMPRESSING)
    assert run_again_by("tsdsr/degradation/model.py") == {"prepare-degradations", "teacher"} | distilling
    assert run_again_by("pipeline/stages/progress.py") == set()


def test_a_metric_is_no_reason_to_train_again() -> None:
    for name in ("distill", "ablate-distill"):
        stage = stages()[name]
        scoring = ("tsdsr/metrics", "data/pairs/test", "pipeline/evaluate")
        assert not any(dep.startswith(scoring) for dep in stage["deps"])
        assert "evaluate" not in stage["params"]


def test_the_file_stays_readable() -> None:
    assert len((ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()) <= 130


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git repository")
def test_git_tracks_of_reports_what_is_the_same_after_every_run() -> None:
    """The rest is rewritten by a run, with its run's id and commit, and is DVC's or nobody's."""
    tracked = subprocess.run(["git", "ls-files", "reports"], cwd=ROOT, capture_output=True, text=True, check=True)
    kept = ("reports/before_after.png", "reports/model_size.json", "reports/studies/")
    assert [name for name in tracked.stdout.splitlines() if not name.startswith(kept)] == []


if __name__ == "__main__":
    for name in stages():
        print(name, *sorted(closure(name)), sep="\n      - ")


def test_the_experiment_does_not_run_the_compression() -> None:
    """DVC runs a stage before every other that depends on a folder around one of its outs."""
    experiment, compression = (
        yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))["stages"]
        for name in ("dvc.yaml", "compress/dvc.yaml")
    )
    needed = {dep for stage in experiment.values() for dep in stage.get("deps", ())}
    made = [out for stage in compression.values() for out in stage.get("outs", ())]
    assert made
    assert not [out for out in made if any(out == dep or out.startswith(f"{dep}/") for dep in needed)]
