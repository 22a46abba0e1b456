"""The optimiser of one group of parameters: AdamW, clipping, a schedule that follows from the step, its state as
tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tsdsr.config import ScheduleConfig
from tsdsr.methods.base import Group


def lr_factor(step: int, total: int, config: ScheduleConfig) -> float:
    """Factor of the learning rate at `step` (from 0): linear warm-up, then constant or cosine with hard restarts."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    if config.name == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * ((progress * config.cycles) % 1.0)))


class GroupOptimizer:
    """AdamW over a group's parameters.

    Args:
        total: steps of the whole run, for the schedule.
    """

    def __init__(self, group: Group, total: int) -> None:
        assert all(p.requires_grad for p in group.parameters.values()), "a trainable parameter is frozen"
        self.group, self.total = group, total
        self.adamw = torch.optim.AdamW(
            group.parameters.values(),
            lr=group.lr,
            betas=group.adamw.betas,
            weight_decay=group.adamw.weight_decay,
            # the meta device has no fused update
            fused=not any(parameter.is_meta for parameter in group.parameters.values()),
        )

    def lr(self, step: int) -> float:
        """The learning rate that belongs to `step`."""
        return self.group.lr * lr_factor(step, self.total, self.group.schedule)

    def zero_grad(self) -> None:
        self.adamw.zero_grad(set_to_none=True)

    def clip(self) -> Tensor:
        """Scale the gradients to the group's norm at most; returns the norm before."""
        return nn.utils.clip_grad_norm_(self.group.parameters.values(), self.group.adamw.clip_norm)

    def step(self, step: int, skip: Tensor | None = None) -> None:
        """Update at the learning rate that belongs to `step`.

        Args:
            skip: 1 on the device leaves parameters and moments as they are, 0 updates them; nobody waits for it.
        """
        for group in self.adamw.param_groups:
            group["lr"] = self.lr(step)
        if self.adamw.defaults["fused"]:
            self.adamw.found_inf = skip  # as torch's GradScaler tells a fused update
        self.adamw.step()

    def state(self) -> dict[str, Tensor]:
        """`<parameter>.<exp_avg ...>` -> tensor."""
        return {
            f"{name}.{key}": torch.as_tensor(value)
            for name, parameter in self.group.parameters.items()
            for key, value in self.adamw.state[parameter].items()
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state` gave; the moments in their parameter's memory layout, as the fused update wants them.

        The fused update counts its steps on the parameter's device, the others on the CPU.
        """
        for name, parameter in self.group.parameters.items():
            self.adamw.state[parameter] = {
                "step": tensors[f"{name}.step"].to(parameter.device if self.adamw.defaults["fused"] else "cpu"),
                **{
                    key: torch.empty_like(parameter).copy_(tensors[f"{name}.{key}"])
                    for key in ("exp_avg", "exp_avg_sq")
                },
            }
