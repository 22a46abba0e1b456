from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from tests.tsdsr.training.rig import distill_config
from tsdsr.config import PhaseConfig, ScheduleConfig
from tsdsr.methods.base import Group
from tsdsr.training.optim import GroupOptimizer, lr_factor
from tsdsr.training.trainer import Plan


def schedule(name="cosine_with_restarts", warmup=10, cycles=2) -> ScheduleConfig:
    return ScheduleConfig(name=name, warmup_steps=warmup, cycles=cycles)


def test_warm_up_rises_in_equal_steps_and_never_starts_at_zero():
    factors = [lr_factor(step, [range(110)], schedule("constant")) for step in range(12)]
    assert factors[0] > 0
    assert factors[10:] == [1.0, 1.0]
    rises = [b - a for a, b in pairwise(factors[:11])]
    assert rises == pytest.approx([rises[0]] * 10)


def test_cosine_with_hard_restarts():
    factors = [lr_factor(step, [range(110)], schedule()) for step in range(110)]
    assert factors[10] == 1.0  # warm-up ends at the top
    assert factors[60] == 1.0  # second cycle of 50 steps
    assert factors[35] == pytest.approx(0.5)
    assert factors[59] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.98)))
    assert all(b < a for a, b in pairwise(factors[10:60]))
    assert min(factors) >= 0


def test_without_warm_up():
    assert lr_factor(0, [range(10)], schedule(warmup=0)) == 1.0
    assert lr_factor(0, [range(10)], schedule("constant", warmup=0)) == 1.0


@pytest.mark.parametrize("name", ["constant", "cosine_with_restarts"])
@pytest.mark.parametrize("warmup", [0, 20])
@pytest.mark.parametrize("shares", [(0.8, 0.2), (0.5, 0.5), (0.1, 0.6, 0.3)])
def test_a_phases_share_of_the_summed_learning_rate_is_its_share_of_the_steps(name, warmup, shares):
    phases = {str(i): PhaseConfig(share=share, losses={"x": 1.0}) for i, share in enumerate(shares)}
    spans = Plan(steps=450, batch_size=1, phases=phases, log_every=1, checkpoint_every=1).spans
    assert [len(span) for span in spans.values()] == [round(450 * share) for share in shares]
    config = schedule(name, warmup=warmup, cycles=1)
    sums = [sum(lr_factor(step, list(spans.values()), config) for step in span) for span in spans.values()]
    assert [part / sum(sums) for part in sums] == pytest.approx(shares, abs=0.01)


def optimizer(seed: int = 0) -> GroupOptimizer:
    draw = torch.Generator().manual_seed(seed)
    named = {name: torch.nn.Parameter(torch.randn(3, generator=draw)) for name in ("x", "y")}
    filters = torch.randn(4, 3, 2, 2, generator=draw).to(memory_format=torch.channels_last)
    named["z"] = torch.nn.Parameter(filters)
    config = distill_config()
    return GroupOptimizer(Group("named", named, 0.1, config.optimizer, schedule(warmup=2)), [range(20)])


def descend(made: GroupOptimizer, steps: range) -> None:
    for step in steps:
        made.zero_grad()
        sum((parameter.cumsum(0) - 1).pow(2).sum() for parameter in made.group.parameters.values()).backward()
        made.clip()
        made.step(step)


def test_a_restored_optimizer_goes_on_exactly():
    whole, first, second = optimizer(), optimizer(), optimizer(seed=1)
    descend(whole, range(6))
    descend(first, range(3))
    with torch.no_grad():
        for name, parameter in second.group.parameters.items():
            parameter.copy_(first.group.parameters[name])
    second.load_state({name: value.clone().contiguous() for name, value in first.state().items()})  # as files hold them
    descend(second, range(3, 6))
    for name in whole.group.parameters:
        assert torch.equal(second.group.parameters[name], whole.group.parameters[name])


def test_clip_scales_to_the_norm_and_returns_the_one_before():
    made = optimizer()
    for parameter in made.group.parameters.values():
        parameter.grad = torch.full_like(parameter, 2.0)
    count = sum(parameter.numel() for parameter in made.group.parameters.values())
    assert float(made.clip()) == pytest.approx(math.sqrt(count * 4))
    norm = torch.cat([parameter.grad.flatten() for parameter in made.group.parameters.values()]).norm()
    assert float(norm) == pytest.approx(made.group.adamw.clip_norm, rel=1e-4)


def test_a_frozen_parameter_is_refused():
    config = distill_config()
    frozen = {"x": torch.nn.Parameter(torch.zeros(2), requires_grad=False)}
    with pytest.raises(AssertionError, match="frozen"):
        GroupOptimizer(Group("frozen", frozen, 0.1, config.optimizer, config.lr_schedule), [range(20)])
