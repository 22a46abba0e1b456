"""`make gpu-check` without a GPU: its parts' bounds and failures, its pack, and one part in its small form."""

from __future__ import annotations

import json
import tarfile
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu_check import Part
from benchmarks.vae_precision import Rounded
from tsdsr.errors import UserError

FINE = ["-c", 'print(\'some words\'); print(\'{"name": "fine", "ratio": 2.0}\')']
SLEEPS = ["-c", "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"]


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gpu_check, "LOGS", tmp_path / "logs")
    return tmp_path / "logs"


def test_a_failure_or_a_lack_of_time_hides_no_other_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failing = ["-c", "print('before'); raise SystemExit('no such kernel')"]
    chosen = [
        Part("breaks", 30, [], failing),
        Part("sleeps", 0.2, [], SLEEPS),
        Part("says_nothing", 30, [], ["-c", "print('no result')"]),
        Part("differs", 30, [], ["-c", 'print(\'{"name": "differs", "equal": false}\')']),
        Part("fine", 30, [], FINE),
    ]
    started = time.monotonic()
    assert gpu_check.check(chosen, "cpu", tmp_path / "results") == 1
    assert time.monotonic() - started < 30
    said = capsys.readouterr().out
    told = ("exit status 1", "no such kernel", "not done after 1 s", "its last line is no JSON", "its two sides differ")
    for words in (*told, "1 of 5 parts"):
        assert words in said
    (written,) = (tmp_path / "results").glob("fine_*")
    found = json.loads(written.read_text())
    assert found["ratio"] == 2.0
    assert found["hardware"]["torch"] == torch.__version__
    assert written.name.startswith("fine_cpu-")


@pytest.mark.parametrize("count", [1, 8])
def test_a_result_is_named_after_the_card_that_it_is_of(count: int) -> None:
    cards = ", ".join(["NVIDIA H100 80GB HBM3"] * count)
    assert gpu_check.label({"gpus": cards}, "cuda") == "nvidia-h100-80gb-hbm3"


def test_in_a_pack_no_part_looks_for_photographs_of_absent_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / gpu_check.PHOTOGRAPHS).mkdir(parents=True)
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    given = {part.name for part in gpu_check.parts() if str(gpu_check.PHOTOGRAPHS) in part.cuda}
    assert given == {"tiny_distill", "vae_precision", "upscale"}


def test_the_parts_fit_in_nine_minutes_and_have_what_they_run(root: Path) -> None:
    found = gpu_check.parts()
    assert sum(part.limit for part in found) <= 9 * 60 - 15  # the rest is for the start of the command itself
    names = [word for part in found for word in part.cuda if word.endswith(".py")]
    assert all((root / name).is_file() for name in names)
    tests = {
        f"tests/{name}.py"
        for name in ("pipeline/test_teacher", "tsdsr/test_device", "tsdsr/training/test_distillation")
    }
    assert tests <= set(found[0].cuda)


def test_emulated_bfloat16_is_what_its_own_operations_give() -> None:
    x, y = torch.randn(2, 100).bfloat16()
    with Rounded():
        found = torch.nn.functional.silu(x.float()) * y.float()
    assert torch.equal(found.bfloat16(), torch.nn.functional.silu(x) * y)


def test_the_small_form_distills(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    chosen = [part for part in gpu_check.parts() if part.name == "tiny_distill"]
    assert gpu_check.check(chosen, "cpu", tmp_path) == 0, capsys.readouterr().out
    (written,) = tmp_path.glob("tiny_distill_*.json")
    assert json.loads(written.read_text())["equal"] is True


def test_without_a_gpu_it_ends_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["gpu_check"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"torch finds no GPU here; --device cpu"):
        gpu_check.main()


def test_a_pack_has_sources_teacher_and_photographs(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (root / ".git").exists():
        pytest.skip("the tracked files are asked of git")
    gpu_check.pack(tmp_path / "pack.tar.gz")
    with tarfile.open(tmp_path / "pack.tar.gz") as archive:
        names = set(archive.getnames())
    teacher = "tsdsr/tsdsr/shipped/nano/teacher/transformer/diffusion_pytorch_model.safetensors"
    assert {"tsdsr/params.yaml", "tsdsr/tests/conftest.py", "tsdsr/benchmarks/gpu_check.py", teacher} <= names
    assert sum(name.startswith("tsdsr/build/photographs/") for name in names) > 5
    monkeypatch.setattr(gpu_check, "MAX_PACK", 2**20)
    with pytest.raises(UserError, match="MiB; 1 is the most"):
        gpu_check.pack(tmp_path / "other.tar.gz")
    assert not (tmp_path / "other.tar.gz").exists()
