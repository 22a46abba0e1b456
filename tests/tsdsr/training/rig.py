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
from tsdsr.methods import METHODS
from tsdsr.methods.base import Distillation, MethodInputs, Moment, TurnOutput
from tsdsr.models import adapters, restoring
from tsdsr.models.restoring import RestoringTeacher
from tsdsr.models.student import Student
from tsdsr.training.checkpoint import CheckpointStore
from tsdsr.training.trainer import Callbacks, Plan, Trainer
from tsdsr.training.world import World

ROOT = Path(__file__).parents[3]
SMALL: dict[str, Any] = {  # all that the tests rely on: params.yaml may change its recipe
    "method": "tsdsr",
    "start": None,
    "steps": 6,
    "batch_size": 4,
    "accumulation": 1,
    "num_workers": 0,
    "shift_positions": False,
    "precision": "float32",
    "gradient_checkpointing": False,
    "low_memory": False,
    "vae_slice": None,
    "lora": {"rank": 4, "alpha": 4, "vae_rank": 3, "fake_score_rank": 4},
    "guidance_scale": {"teacher": 7.5, "fake_score": 7.5},
    "tsd": {
        "lambda": 0.7,
        "residual": "velocity",
        "t_range": [50, 950],
        "trajectory_draws": 0,
        "dasm": {"steps": 3, "step_size": 50, "weight": 0.3, "random_offset": False},
    },
    "teacher_features": {"t": 50},
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
    "max_skipped": 0,
}


class RandomData:
    """Batches that follow from their positions, as `DistillationData`'s do; `side` is the latents'."""

    def __init__(self, side: int = 8) -> None:
        self.side = side

    def batch(self, positions: Sequence[int]) -> Batch:
        lq, z, hq = ((side, side) for side in (self.side // 2, self.side, 2 * self.side))
        return Batch(
            lq=torch.stack([_draw("lq", p, 3, *lq).clamp(-1, 1) for p in positions]),
            hq=torch.stack([_draw("hq", p, 3, *hq).clamp(-1, 1) for p in positions]),
            z=torch.stack([_draw("z", p % 5, CHANNELS, *z) for p in positions]),
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


def random_restorer(transformer: Any) -> RestoringTeacher:
    restoring.attach(transformer, rank=3, seed=0, trainable=False)
    randomize(transformer, restoring.RESTORER, scale=0.05)
    projection = transformer.get_submodule(restoring.PROJECTION)
    projection.weight.data = 0.1 * torch.randn(projection.weight.shape, generator=seeding.generator(0, "lq"))
    return RestoringTeacher(transformer, random_prompt(10))


def method(config: DistillConfig, *, dtype: torch.dtype = torch.float32, **shape: Any) -> Any:
    """The config's method on tiny networks; its adapters start at random values, not at nothing."""
    transformer, vae, restorer = tiny_transformer(**shape).to(dtype), tiny_vae().to(dtype), None
    if METHODS[config.method].restores:
        restorer = random_restorer(transformer)
    inputs = MethodInputs(
        config,
        vae,
        transformer,
        FlowSchedule(3.0),
        null=random_prompt(11),
        default=random_prompt(10),
        perceptual=perceptual,
        scale=4,
        use_shift=False,
        seed=0,
        adapter_seed=0,
        restorer=restorer,
    )
    made = METHODS[config.method](inputs)
    for model, name in [
        (transformer, adapters.STUDENT),
        (vae, adapters.STUDENT),
        (transformer, adapters.FAKE_SCORE),
    ]:
        randomize(model, name, scale=0.02)
    vae.to(memory_format=torch.channels_last)  # as the method had laid it out
    return made


def student_turn(made: Distillation, batch: Batch, phase: Any, share: float = 1.0) -> TurnOutput:
    """Forward and backward of the student."""
    return made.turns[0].run(batch, Moment(0, 1, phase, share=share))


def fake_score_turn(made: Distillation, batch: Batch, z_hat: Tensor, update: int = 0, share: float = 1.0) -> Tensor:
    """Forward and backward of Eq. (9); its loss."""
    moment = Moment(0, 1, None, update, share, carried={"z_hat": z_hat})
    return made.turns[1].run(batch, moment).terms["fake_score"]


def trainer(
    config: DistillConfig,
    directory: Path,
    world: World | None = None,
    *,
    key: str = "key",
    guard: Any = None,
    **callbacks: Any,
) -> Trainer:
    return Trainer(
        method(config),
        RandomData(),
        CheckpointStore(directory, key, config.checkpoint.keep),
        plan=Plan.of(config),
        device=torch.device("cpu"),
        world=world,
        callbacks=Callbacks(**callbacks),
        guard=guard,
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
        if adapters.has_adapter(model, name)
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
