"""`tsdsr doctor`: what it finds, what it proposes, and its exit status."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tsdsr import cli, doctor, fit_checks, machine, memory_estimate
from tsdsr.config import Params
from tsdsr.doctor import BAD, NOTE, OK, WARN, Finding
from tsdsr.memory_estimate import GIB, DistillMemory

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
    need = DistillMemory(weights=GIB, trained=GIB, activations=GIB, checkpoint=GIB)
    monkeypatch.setattr(memory_estimate, "estimate", lambda params: need)


@pytest.mark.usefixtures("roomy", "small_model")
def test_the_committed_params_fit_on_a_machine_with_room(params: Params) -> None:
    found = fit_checks.check(params)
    assert {finding.state for finding in found} == {OK, NOTE}


@pytest.mark.usefixtures("roomy", "small_model")
@pytest.mark.parametrize(
    ("change", "state", "subject", "cure"),
    [
        ({"distill": {"device": "cuda"}}, BAD, "distill.device", "auto"),
        ({"distill": {"precision": "bfloat16"}}, WARN, "distill.precision", "float32"),
        (
            {"distill": {"batch_size": 4, "num_workers": 4, "threads_per_worker": 4}},
            WARN,
            "distill.threads_per_worker",
            ": 2",
        ),
        ({"data": {"source": "no/such/folder"}}, BAD, "data.source", "path"),
        ({"teacher": {"preset": "sd3-medium"}}, BAD, "teacher.source", "hub id"),
        ({"teacher": {"preset": "sd3-medium", "source": "./absent"}}, BAD, "teacher.source", "path"),
        ({"sweep": {"resources": {"gpus": 1}}}, WARN, "sweep.resources", "gpus: 0"),
        ({"sweep": {"resources": {"cpus": 64}}}, WARN, "sweep.resources", "cpus: 8"),
    ],
)
def test_each_fault_is_named_with_its_cure(
    params: Params, change: dict[str, object], state: str, subject: str, cure: str
) -> None:
    assert cure in cures(fit_checks.check(params.overlay(change)), state)[subject]


@pytest.mark.usefixtures("roomy", "small_model")
def test_too_little_memory_or_disk_is_answered_with_settings_that_lower_it(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 2 * GIB)
    monkeypatch.setattr(machine, "free_disk", lambda path: GIB)
    params = params.overlay({"distill": {"batch_size": 4}})
    found = cures(fit_checks.check(params), BAD)
    assert "distill.accumulation: 4" in found["distill memory"]
    assert "distill.gradient_checkpointing: true" in found["distill memory"]
    assert "keep: 1" in found["distill checkpoints"]
    saved = params.overlay({"distill": {"accumulation": 4, "gradient_checkpointing": True}})
    assert "accumulation" not in cures(fit_checks.check(saved), BAD)["distill memory"]


def test_the_estimate_counts_weights_and_adapters_exactly(params: Params) -> None:
    from tsdsr.models import adapters, presets

    preset, lora = presets.get("tiny"), params.distill.lora
    vae, transformer = presets.build_vae(preset, seed=0), presets.build_transformer(preset, seed=0)
    base = sum(parameter.numel() for model in (vae, transformer) for parameter in model.parameters())
    adapters.add_adapter(
        transformer, adapters.STUDENT, rank=lora.rank, alpha=1, targets=adapters.STUDENT_TARGETS, seed=0
    )
    adapters.add_adapter(
        transformer, adapters.FAKE_SCORE, rank=lora.rank, alpha=1, targets=adapters.ATTENTION_TARGETS, seed=0
    )
    adapters.add_adapter(
        vae, adapters.STUDENT, rank=lora.vae_rank, alpha=1, targets=adapters.VAE_ENCODER_TARGETS, seed=0
    )
    trained = [(transformer, adapters.STUDENT), (transformer, adapters.FAKE_SCORE), (vae, adapters.STUDENT)]
    numbers = sum(value.numel() for model, name in trained for value in adapters.parameters(model, name).values())
    found = memory_estimate.estimate(params)
    assert found.weights == 4 * base
    assert found.trained == 16 * numbers


def test_the_estimate_follows_the_settings_that_lower_it(params: Params) -> None:
    params = params.overlay({"distill": {"batch_size": 4}})
    plain = memory_estimate.estimate(params)
    checkpointed = memory_estimate.estimate(params.overlay({"distill": {"gradient_checkpointing": True}}))
    split = memory_estimate.estimate(params.overlay({"distill": {"accumulation": 4}}))
    assert checkpointed.activations < 0.7 * plain.activations
    assert split.activations == plain.activations // 4
    assert (checkpointed.weights, split.trained) == (plain.weights, plain.trained)


def test_sd3_medium_is_counted_without_its_weights(params: Params, root: Path) -> None:
    overlay = yaml.safe_load((root / "params/sd3-medium.yaml").read_text())
    found = memory_estimate.estimate(params.overlay(overlay))
    assert (
        3.8 * GIB < found.weights < 4.2 * GIB
    )  # 2.0 B parameters of the transformer and 0.08 B of the VAE, 2 bytes each
    assert found.total < 24 * GIB


def test_services_that_answer_and_that_do_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{port}")
        assert [finding.state for finding in doctor.services()] == [OK, OK]
    outbox = tmp_path / ".tsdsr/tracking-outbox/full-0"
    outbox.mkdir(parents=True)
    (outbox / "operations.jsonl").write_text("{}\n")
    found = doctor.services()
    assert [finding.state for finding in found] == [BAD, WARN, WARN]
    assert "pipeline.tracking" in found[2].cure
    assert not any("secret" in finding.text for finding in found)
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert [finding.state for finding in doctor.services()] == [OK, OK, WARN]


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


def test_help_needs_no_torch() -> None:
    code = """
import sys
from tsdsr import cli
try:
    cli.main(["doctor", "--help"])
except SystemExit:
    assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
