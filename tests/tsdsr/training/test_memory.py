"""The count on the meta device against what torch really allocates, and against sizes known by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.reference.measuring import peak_memory
from tsdsr.config import Params
from tsdsr.live_memory import LiveMemory, fused_attention
from tsdsr.models import adapters
from tsdsr.training import memory
from tsdsr.training.memory import StepMemoryProbe

GIB = 2**30
EVERY_TERM = {"all": {"losses": {"lpips": 2.0, "tsd": 0.6, "latent_mse": 1.0}}}
TINY: dict[str, Any] = {
    "data": {"crop_size": 64},
    "distill": {"batch_size": 2, "accumulation": 1, "num_workers": 1, "phases": EVERY_TERM},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "saving": {"gradient_checkpointing": True, "low_memory": True, "vae_slice": 1},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_count_is_what_a_real_step_allocates(params: Params, options: dict[str, Any]) -> None:
    """Beyond what is there before the step, as torch's profiler sees it on a CPU."""
    params = params.overlay(TINY).overlay({"distill": options, "data": {"crop_size": 128}})
    params = params.overlay({"distill": {"batch_size": 4}})  # smaller, and a convolution's workspace decides
    (phase,) = memory.hungriest(params)
    probes = [StepMemoryProbe(params, torch.device(device)) for device in ("meta", "cpu")]
    for probe in probes:
        probe.prime()
        for optimizer in probe.optimizers:
            optimizer.zero_grad()  # the profiler does not see what goes that was there before it
    counted, real = probes
    with fused_attention(), LiveMemory(counted.device, counted.tensors()) as live:
        start = live.held
        counted.step(phase)
    measured = peak_memory(lambda: real.step(phase), real.device)
    assert live.peak - start == pytest.approx(measured, rel=0.03)


def test_a_discriminator_is_counted_and_not_averaged(params: Params, root: Path) -> None:
    recipe = yaml.safe_load((root / "params/tadsr.yaml").read_text())
    params = params.overlay(recipe).overlay({"data": {"crop_size": 64}, "distill": {"batch_size": 2}})
    found, probe = memory.count(params), StepMemoryProbe(params, torch.device("meta"))
    discriminator, student = (sum(p.numel() for p in group.parameters.values()) for group in probe.method.groups())
    assert found.trained == 4 * (4 * (student + discriminator) + student)  # with gradient and two moments; EMA
    assert found.activations > 0


def test_weights_and_adapters_are_counted_exactly(params: Params) -> None:
    params = params.overlay(TINY).overlay({"distill": {"ema_decay": 0.9, "precision": "bfloat16"}})
    found = memory.count(params)
    probe = StepMemoryProbe(params, torch.device("cpu"))
    student = probe.method.student
    models = student.transformer, student.vae
    sizes = [sum(p.numel() for p in adapters.parameters(m, adapters.STUDENT).values()) for m in models]
    fake = sum(p.numel() for p in adapters.parameters(student.transformer, adapters.FAKE_SCORE).values())
    assert found.trained == 4 * (4 * (sum(sizes) + fake) + sum(sizes))  # with gradient and two moments; EMA
    assert found.checkpoint == 4 * (3 * (sum(sizes) + fake) + sum(sizes))
    frozen = sum(p.numel() for model in models for p in model.parameters() if not p.requires_grad)
    places = student.transformer.pos_embed.pos_embed.numel()
    float32 = 2_470_854 + 2 * (probe.null.embeds.numel() + probe.null.pooled.numel())  # LPIPS; the two prompts
    assert found.weights == 2 * (frozen + places) + 4 * float32
    assert found.total == found.weights + found.trained + found.activations


def test_each_saving_saves(params: Params) -> None:
    params = params.overlay(TINY).overlay({"distill": {"batch_size": 4}})

    def activations(**options: Any) -> int:
        return memory.count(params.overlay({"distill": options})).activations

    plain = activations()
    assert activations(gradient_checkpointing=True) < 0.8 * plain
    assert activations(vae_slice=1) < 0.8 * plain
    assert activations(accumulation=4) < 0.4 * plain


def test_the_hungriest_phases(params: Params) -> None:
    """A phase whose terms are all another's cannot be the peak; a term of weight 0 is none."""

    def kept(early: dict[str, float], late: dict[str, float]) -> list[str]:
        none = {"tsd": 0.0, "lpips": 0.0, "latent_mse": 0.0}
        rows = {
            "early": {"share": 0.5, "dasm": False, "losses": none | early},
            "late": {"share": 0.5, "dasm": True, "losses": none | late},
        }
        changed = params.overlay({"distill": {"phases": rows}})
        chosen = memory.hungriest(changed)
        return [name for name, phase in changed.distill.phases.items() if phase in chosen]

    assert kept({"tsd": 1.0}, {"tsd": 2.0, "lpips": 1.0}) == ["late"]
    assert kept({"tsd": 1.0, "lpips": 1.0}, {"tsd": 1.0}) == ["early", "late"]  # DASM is the late one's alone
    assert kept({"latent_mse": 1.0, "tsd": 0.0}, {"lpips": 1.0}) == ["early", "late"]


def test_sd3_mediums_params_fit_24_gb(params: Params, root: Path) -> None:
    overlay = yaml.safe_load((root / "params/sd3-medium.yaml").read_text())
    found = memory.count(params.overlay(overlay))
    assert 3.8 * GIB < found.weights < 4.2 * GIB  # 2.03 B and 0.08 B parameters of 2 bytes, and the prompts
    assert found.trained < 2.5 * GIB  # 1.9 with gradients and moments, 0.35 of the average
    assert found.total < 0.5 * 24 * GIB
