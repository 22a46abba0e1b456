"""The Makefile around DVC: in an archive without git, and where a stage fails. Nothing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """What an archive of the repository holds of the Makefile and DVC, with tools that are installed already."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, tmp_path / ".dvc")
    tools = tmp_path / ".venv/bin"
    tools.mkdir(parents=True)
    for name in ("dvc", "python"):  # a link to python would start it outside of its environment
        (tools / name).write_text(f'#!/bin/sh\nexec "{Path(sys.executable).parent / name}" "$@"\n')
        (tools / name).chmod(0o755)
    installed = tmp_path / ".venv/.installed"
    installed.touch()
    os.utime(installed, (time.time() + 60, time.time() + 60))  # later than what it is made from
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "GIT_"))}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_repro_runs_in_an_archive_without_git(archive: Path) -> None:
    (archive / "dvc.yaml").write_text("stages: {one: {cmd: echo made > out, outs: [out]}}\n")
    done = make(archive, "repro")
    assert done.returncode == 0, done.stderr
    assert (archive / "out").read_text() == "made\n"


def test_a_stages_error_comes_below_what_dvc_says(archive: Path) -> None:
    (archive / "one.py").write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pipeline.stages import stage\n"
        "from tsdsr.errors import UserError\n"
        "def main(): raise UserError('captions: no such folder; make it')\n"
        "stage.run(main)\n"
    )
    (archive / "dvc.yaml").write_text("stages: {one: {cmd: python one.py, deps: [one.py], outs: [out]}}\n")
    done = make(archive, "repro")
    assert done.returncode != 0
    *before, error, makes_own = done.stderr.strip().splitlines()
    assert error == "error: captions: no such folder; make it", done.stdout + done.stderr
    assert makes_own.startswith("make: ***")
    assert any("failed to reproduce" in line for line in before)


def test_nano_goes_on_from_the_run_that_ended(archive: Path) -> None:
    for name in ("params.yaml", "params"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, archive / name)
    stage = "{cmd: mkdir -p data/students/full && cp start data/students/full, params: [distill.start], deps: [start]"
    (archive / "dvc.yaml").write_text(f"stages: {{distill: {stage}, outs: [data/students/full]}}}}\n")
    start = archive / "data/students/start"
    assert make(archive, "nano").returncode != 0  # the stage fails
    assert not start.exists()
    (archive / "start").write_text("first")
    done = make(archive, "nano")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Running stage") == 2
    (archive / "start").write_text("second")  # START is there, so the second run alone is repeated
    again = make(archive, "nano")
    assert again.stdout.count("Running stage") == 1, again.stdout + again.stderr
    assert [(start / "start").read_text(), (archive / "data/students/full/start").read_text()] == ["first", "second"]
    assert "start: data/students/start" in (archive / "params.yaml").read_text()


def test_torch_without_cuda_is_asked_of_pytorchs_index(archive: Path) -> None:
    (archive / ".venv/.installed").unlink()
    index = "--extra-index-url https://download.pytorch.org/whl/cpu"
    assert make(archive, "--dry-run", "setup", "TORCH=cpu").stdout.count(index) == 2
    assert index not in make(archive, "--dry-run", "setup").stdout


def test_help_lists_every_target(archive: Path) -> None:
    text = make(archive, "help").stdout
    for target in ("repro", "test", "lint", "nano", "ui", "sweep", "cluster", "gpu-check", "setup", "clean"):
        assert f"\n{target} " in f"\n{text}"
