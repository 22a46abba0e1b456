"""`tsdsr doctor`: what it finds, what it proposes, and its exit status."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tsdsr import machine
from tsdsr.commands import doctor, fit_checks
from tsdsr.commands import main as cli
from tsdsr.commands.findings import BAD, NOTE, OK, WARN, Finding
from tsdsr.config import Params
from tsdsr.training import memory

GIB = 2**30

FOUR_WORKERS = {"batch_size": 4, "num_workers": 4, "threads_per_worker": 4}


def cures(findings: list[Finding], state: str) -> dict[str, str]:
    return {finding.subject: finding.cure for finding in findings if finding.state == state}


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 8 CPUs and 64 GiB without a GPU, whatever this one is."""
    monkeypatch.setattr(machine, "cpus", lambda: 8)
    monkeypatch.setattr(machine, "available_memory", lambda: 64 * GIB)
    monkeypatch.setattr(machine, "free_disk", lambda path: 100 * GIB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.fixture
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A need of 3 GiB, without building the networks."""
    need = memory.DistillMemory(weights=GIB, trained=GIB, activations=GIB, checkpoint=GIB)
    monkeypatch.setattr(memory, "count", lambda params: need)


@pytest.mark.usefixtures("roomy", "small_model")
def test_the_committed_params_fit_on_a_machine_with_room(params: Params) -> None:
    found = fit_checks.check(params, count_memory=True)
    assert {finding.state for finding in found} == {OK, NOTE}


@pytest.mark.usefixtures("roomy", "small_model")
@pytest.mark.parametrize(
    ("change", "state", "subject", "cure"),
    [
        ({"distill": {"device": "cuda"}}, BAD, "distill.device", "auto"),
        ({"distill": {"precision": "bfloat16"}}, WARN, "distill.precision", "float32"),
        ({"distill": {"fp8_scores": True}}, WARN, "distill.fp8_scores", "false"),
        (
            {"distill": {"batch_size": 4, "num_workers": 4, "threads_per_worker": 4}},
            WARN,
            "distill.threads_per_worker",
            ": 2",
        ),
        ({"data": {"source": "no/such/folder"}}, BAD, "data.source", "path"),
        ({"teacher": {"preset": "sd3-medium"}}, BAD, "teacher.source", "hub id"),
        ({"teacher": {"preset": "sd3-medium", "source": "./absent"}}, BAD, "teacher.source", "path"),
        ({"evaluate": {"weights_dir": "no/such"}}, WARN, "evaluate.weights_dir", "path"),
        ({"sweep": {"resources": {"gpus": 1}}}, WARN, "sweep.resources", "gpus: 0"),
        ({"sweep": {"resources": {"cpus": 64}}}, WARN, "sweep.resources", "cpus: 8"),
    ],
)
def test_each_fault_is_named_with_its_cure(
    params: Params, change: dict[str, object], state: str, subject: str, cure: str
) -> None:
    assert cure in cures(fit_checks.check(params.overlay(change), count_memory=False), state)[subject]


@pytest.mark.usefixtures("roomy", "small_model")
def test_a_gpu_without_fp8_units_is_named(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    found = fit_checks.check(params.overlay({"distill": {"fp8_scores": True}}), count_memory=False)
    assert [row.text for row in found if row.subject == "distill.fp8_scores"] == [
        "needs FP8 units, which NVIDIA A100 does not have"
    ]


@pytest.mark.usefixtures("roomy", "small_model")
def test_too_little_memory_or_disk_is_answered_with_settings_that_lower_it(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 2 * GIB)
    monkeypatch.setattr(machine, "free_disk", lambda path: GIB)
    params = params.overlay({"distill": {"batch_size": 4}})
    found = cures(fit_checks.check(params, count_memory=True), BAD)
    assert "distill.accumulation: 4" in found["distill memory"]
    assert "distill.gradient_checkpointing: true" in found["distill memory"]
    assert "distill.vae_slice: 1" in found["distill memory"]
    assert "keep: 1" in found["distill checkpoints"]
    saved = params.overlay({"distill": {"accumulation": 4, "gradient_checkpointing": True}})
    assert "accumulation" not in cures(fit_checks.check(saved, count_memory=True), BAD)["distill memory"]


def test_services_that_answer_and_that_do_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # nobody else can: until it listens, the port refuses
        port = server.getsockname()[1]
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{port}")
        found = doctor.services()
        server.listen()
        assert [finding.state for finding in doctor.services()] == [OK, OK]
    assert [finding.state for finding in found] == [BAD, WARN]
    assert "python -m pipeline.tracking`" in found[1].cure
    assert not any("secret" in finding.text for finding in found)
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://user:secret@host/runs")
    assert doctor.services()[1].text.endswith("copied to postgresql://***@host/runs")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert [finding.state for finding in doctor.services()] == [OK, OK]


def test_the_command_says_all_of_it(root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    broken = Path(shutil.copy(root / "params.yaml", tmp_path / "broken.yaml"))
    broken.write_text(broken.read_text().replace("batch_size: 4", "batch_sizes: 4"))
    assert cli.main(["doctor", "--params", str(broken)]) == 1
    printed = capsys.readouterr().out
    for word in (
        "Versions",
        "torch",
        "memory",
        "/dev/shm",
        "Weights",
        "lpips",
        "Services",
        "ray",
        "mlflow",
        "batch_sizes",
    ):
        assert word in printed


def test_in_a_process_of_its_own_it_comes_to_its_end(root: Path) -> None:
    """Here other tests have imported what it needs, in an order that works."""
    command = [sys.executable, "-m", "tsdsr", "doctor", "--memory"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert "distill memory" in done.stdout, done.stderr


def test_it_is_quick_because_it_imports_no_libraries_for_training(root: Path) -> None:
    code = """
import sys
from tsdsr.commands.main import main
main(["doctor"])
heavy = {"diffusers", "transformers", "peft", "lpips", "torchvision"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "tsdsr doctor --memory" in done.stdout
