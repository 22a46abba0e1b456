"""A whole distillation on networks small enough for a test: models, data by position, and a trainer around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.tiny import CHANNELS, random_prompt, randomize, tiny_transformer, tiny_vae
from tsdsr import seeding
from tsdsr.config import DistillConfig, Params
from tsdsr.data.dataset import Batch
from tsdsr.flow import FlowSchedule
from tsdsr.models import adapters
from tsdsr.models.student import Student
from tsdsr.training.checkpoint import CheckpointStore
from tsdsr.training.loop import Trainer, World, wrap
from tsdsr.training.networks import assemble
from tsdsr.training.step import DistillationModel, Distiller
from tsdsr.training.trajectories import HQTrajectories

ROOT = Path(__file__).parents[3]
SMALL: dict[str, Any] = {  # all that the tests rely on: params.yaml may change its recipe
    "steps": 6,
    "batch_size": 4,
    "accumulation": 1,
    "num_workers": 0,
    "precision": "float32",
    "gradient_checkpointing": False,
    "low_memory": False,
    "vae_slice": None,
    "lora": {"rank": 4, "alpha": 4, "vae_rank": 3},
    "guidance_scale": {"teacher": 7.5, "fake_score": 7.5},
    "tsd": {
        "lambda": 0.7,
        "residual": "velocity",
        "t_range": [50, 950],
        "trajectory_draws": 0,
        "dasm": {"steps": 3, "step_size": 50, "weight": 0.3, "random_offset": False},
    },
    "fake_score": {"t_range": [50, 950], "updates_per_step": 1, "caption_dropout": 0.1},
    "phases": {
        "early": {"share": 0.6, "dasm": False, "losses": {"lpips": 1.0, "tsd": 1.0, "latent_mse": 1.0}},
        "late": {"share": 0.4, "dasm": True, "losses": {"lpips": 1.0, "tsd": 2.0, "latent_mse": 0.0}},
    },
    "optimizer": {"student_lr": 1.0e-2, "fake_score_lr": 1.0e-2, "clip_norm": 1.0},
    "lr_schedule": {"name": "cosine_with_restarts", "warmup_steps": 1, "cycles": 1},
    "ema_decay": 0.0,
    "checkpoint": {"every": 2, "keep": 2},
    "log_every": 3,
}


class RandomData:
    """Batches that follow from their positions, as `DistillationData`'s do."""

    def batch(self, positions: Sequence[int]) -> Batch:
        return Batch(
            lq=torch.stack([_draw("lq", p, 3, 4, 4).clamp(-1, 1) for p in positions]),
            hq=torch.stack([_draw("hq", p, 3, 16, 16).clamp(-1, 1) for p in positions]),
            z=torch.stack([_draw("z", p % 5, CHANNELS, 8, 8) for p in positions]),
            embeds=torch.stack([random_prompt(p % 5).embeds for p in positions]),
            pooled=torch.stack([random_prompt(p % 5).pooled for p in positions]),
            positions=tuple(positions),
            names=tuple(f"photograph-{p % 5}" for p in positions),
        )

    def prefetched(self, wanted: Sequence[Sequence[int]]) -> Iterator[Batch]:
        return map(self.batch, wanted)


def _draw(what: str, position: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeding.generator(0, what, position))


def perceptual(x_hat: Tensor, hq: Tensor) -> Tensor:
    """Stands for LPIPS: smooth, and of every pixel."""
    return (torch.tanh(x_hat) - hq).pow(2).mean((1, 2, 3))


def distill_config(**changes: Any) -> DistillConfig:
    """params.yaml's, at the rig's size, with changes."""
    return Params.load(ROOT / "params.yaml").overlay({"distill": SMALL}).overlay({"distill": changes}).distill


def models(config: DistillConfig, *, dtype: torch.dtype = torch.float32, **shape: Any) -> Student:
    """A student and a fake score on one base; their adapters start at random values, not at nothing."""
    transformer, vae = tiny_transformer(**shape).to(dtype), tiny_vae().to(dtype)
    student = assemble(vae, transformer, config, use_shift=False, seed=0)
    for model, name in [
        (transformer, adapters.STUDENT),
        (vae, adapters.STUDENT),
        (transformer, adapters.FAKE_SCORE),
    ]:
        randomize(model, name, scale=0.02)
    return student


def distiller(
    config: DistillConfig, world: World | None = None, trajectories: HQTrajectories | None = None, **options: Any
) -> Distiller:
    student = models(config, **options)
    return Distiller(
        wrap(DistillationModel(student, random_prompt(10)), world or World()),
        student,
        null=random_prompt(11),
        schedule=FlowSchedule(3.0),
        perceptual=perceptual,
        config=config,
        scale=4,
        seed=0,
        trajectories=trajectories,
    )


def trainer(
    config: DistillConfig, directory: Path, world: World | None = None, *, key: str = "key", **callbacks: Any
) -> Trainer:
    return Trainer(
        distiller(config, world),
        RandomData(),  # type: ignore[arg-type]
        CheckpointStore(directory, key, config.checkpoint.keep),
        config=config,
        device=torch.device("cpu"),
        world=world or World(),
        **callbacks,
    )


def all_adapters(student: Student) -> dict[str, Tensor]:
    """Every trainable, by network and key."""
    parts = {
        "student": (student.transformer, adapters.STUDENT),
        "vae": (student.vae, adapters.STUDENT),
        "fake_score": (student.transformer, adapters.FAKE_SCORE),
    }
    return {
        f"{part}/{key}": value
        for part, (model, name) in parts.items()
        for key, value in adapters.state_dict(model, name).items()
    }


def gradients(student: Student) -> dict[str, Tensor]:
    """Every gradient there is, by network and parameter."""
    return {
        f"{part}/{name}": parameter.grad.clone(memory_format=torch.contiguous_format)
        for part, model in (("transformer", student.transformer), ("vae", student.vae))
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
