"""The optimiser of one network: AdamW, clipping, a schedule that follows from the step, its state as tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tsdsr.config import OptimizerConfig, ScheduleConfig


def lr_factor(step: int, total: int, config: ScheduleConfig) -> float:
    """Factor of the learning rate at `step` (from 0): linear warm-up, then constant or cosine with hard restarts."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    if config.name == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * ((progress * config.cycles) % 1.0)))


class NetworkOptimizer:
    """AdamW over named adapter parameters, kept in float32.

    Args:
        named: the trainable parameters; the names key the saved state.
        total: steps of the whole run, for the schedule.
    """

    def __init__(
        self, named: dict[str, nn.Parameter], lr: float, total: int, config: OptimizerConfig, schedule: ScheduleConfig
    ) -> None:
        assert all(parameter.requires_grad for parameter in named.values()), "a trainable parameter is frozen"
        self.named, self.lr, self.total = named, lr, total
        self.clip_norm, self.schedule = config.clip_norm, schedule
        self.adamw = torch.optim.AdamW(
            named.values(),
            lr=lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=not any(parameter.is_meta for parameter in named.values()),  # the meta device has no fused update
        )

    def zero_grad(self) -> None:
        self.adamw.zero_grad(set_to_none=True)

    def clip(self) -> Tensor:
        """Scale the gradients to `clip_norm` at most; returns the norm before."""
        return nn.utils.clip_grad_norm_(self.named.values(), self.clip_norm)

    def step(self, step: int) -> None:
        """Update at the learning rate that belongs to `step`."""
        for group in self.adamw.param_groups:
            group["lr"] = self.lr * lr_factor(step, self.total, self.schedule)
        self.adamw.step()

    def state(self) -> dict[str, Tensor]:
        return adamw_state(self.adamw, self.named)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        load_adamw_state(self.adamw, self.named, tensors)


def adamw_state(adamw: torch.optim.AdamW, named: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """`<parameter>.<exp_avg ...>` -> tensor."""
    return {
        f"{name}.{key}": torch.as_tensor(value)
        for name, parameter in named.items()
        for key, value in adamw.state[parameter].items()
    }


def load_adamw_state(
    adamw: torch.optim.AdamW, named: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Restore what `adamw_state` gave; the moments in their parameter's memory layout, as the fused update wants them.

    The fused update counts its steps on the parameter's device, the others on the CPU.
    """
    for name, parameter in named.items():
        adamw.state[parameter] = {
            "step": tensors[f"{name}.step"].to(parameter.device if adamw.defaults["fused"] else "cpu"),
            **{key: torch.empty_like(parameter).copy_(tensors[f"{name}.{key}"]) for key in ("exp_avg", "exp_avg_sq")},
        }
