"""Each stage of dvc.yaml depends on the code it runs: its script and every file of ours that this imports.

Run as a script, it prints what each stage's dependencies should be.
"""

from __future__ import annotations

import ast
import shlex
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
# Of no consequence for what a stage writes: values come in through `params`, and the rest reports, logs or starts.
PLUMBING = (
    "tsdsr/__init__.py",
    "tsdsr/compat.py",
    "tsdsr/config/",
    "tsdsr/errors.py",
    "tsdsr/files.py",
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
WATCHED = dict.fromkeys(("distill", "ablate-distill"), ("tsdsr/metrics/", "tsdsr/weights/"))


def stages() -> dict[str, dict]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


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


@pytest.mark.parametrize("name", stages())
def test_stage_depends_on_the_code_it_runs(name: str) -> None:
    stage = stages()[name]
    code = [dep for dep in stage["deps"] if dep.startswith(("tsdsr/", "pipeline/"))]
    wanted = closure(name)
    missing = {path for path in wanted if not any(path == dep or path.startswith(f"{dep}/") for dep in code)}
    assert not missing, "not among its deps"
    unused = {dep for dep in code if (dep.endswith(".py") and dep not in wanted) or not (ROOT / dep).exists()}
    assert not unused, "deps that it does not use"


def test_an_edit_of_a_loss_trains_again_but_does_not_degrade_again() -> None:
    users = {name for name, stage in stages().items() if any(dep.startswith("tsdsr/losses") for dep in stage["deps"])}
    assert {"distill", "ablate-distill"} <= users
    assert users.isdisjoint({"prepare-degradations", "teacher", "precompute"})


def test_a_metric_is_no_reason_to_train_again() -> None:
    for name in ("distill", "ablate-distill"):
        stage = stages()[name]
        scoring = ("tsdsr/metrics", "data/pairs/test", "pipeline/evaluate")
        assert not any(dep.startswith(scoring) for dep in stage["deps"])
        assert "evaluate" not in stage["params"]


if __name__ == "__main__":
    for name in stages():
        print(name, *sorted(closure(name)), sep="\n      - ")
