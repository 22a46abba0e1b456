"""Our settings, random numbers and networks as the literal Algorithm 1 takes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.reference.algorithm1 import Draws, Settings
from tsdsr import seeding
from tsdsr.data.dataset import Batch
from tsdsr.flow import gaussian_like
from tsdsr.models import composed


def pefts_own(model: Any) -> Any:
    """Undo `composed.install`: LoRA layers as PEFT runs them."""
    back = {ours: theirs for theirs, ours in composed.COMPOSED.items()}
    for layer in model.modules():
        layer.__class__ = back.get(type(layer), type(layer))
    return model


def settings_of(config: Any, losses: dict[str, float]) -> Settings:
    """The literal version's name for each setting."""
    tsd, guidance = config.tsd, config.guidance_scale
    return Settings(
        lam=tsd.lam,
        dasm_steps=tsd.dasm.steps,
        dasm_step_size=tsd.dasm.step_size,
        dasm_weight=tsd.dasm.weight,
        teacher_scale=guidance.teacher,
        fake_scale=guidance.fake_score,
        loss_weights=losses,
        residual=tsd.residual,
    )


def draws_of(config: Any, batch: Batch) -> Draws:
    """The numbers that ours draws for these positions, drawn again."""
    tsd = [seeding.generator(0, "tsd", position) for position in batch.positions]
    fake = [seeding.generator(0, "fake_score", position, 0) for position in batch.positions]

    def uniform(generators: list[torch.Generator], low: float, high: float) -> Tensor:
        return torch.stack([torch.rand((), generator=g) for g in generators]).to(batch.z.device) * (high - low) + low

    t = uniform(tsd, *config.tsd.t_range)
    fake_t = uniform(fake, *config.fake_score.t_range)
    dropped = uniform(fake, 0.0, 1.0) < config.fake_score.caption_dropout
    return Draws(gaussian_like(batch.z, tsd), t, gaussian_like(batch.z, fake), fake_t, dropped)
