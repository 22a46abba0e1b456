from __future__ import annotations

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from tsdsr import flow, seeding
from tsdsr.flow import FlowSchedule


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = seeding.generator(seed)
    z, noise = (torch.randn(3, 2, 4, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    return z, noise, torch.tensor([0.1, 0.5, 0.95], dtype=torch.float64)


def test_sigma_is_the_schedulers_own_table():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    # diffusers' table runs from index 0 (t = 1000) to index 999 (t = 1)
    t = torch.arange(1000, 0, -1, dtype=torch.float64)
    sigma = FlowSchedule.from_scheduler(scheduler).sigma(t)
    torch.testing.assert_close(sigma.float(), scheduler.sigmas[:1000].float(), rtol=1e-6, atol=1e-7)
    timestep = FlowSchedule.from_scheduler(scheduler).timestep(sigma)
    torch.testing.assert_close(timestep.float(), scheduler.timesteps.float(), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_sigma_rises_from_0_to_1(shift):
    t = torch.linspace(0, 1000, 101, dtype=torch.float64)
    sigma = FlowSchedule(shift).sigma(t)
    assert sigma[0] == 0
    assert sigma[-1] == 1
    assert (sigma.diff() > 0).all()


def test_sigma_keeps_the_dtype():
    assert FlowSchedule(3.0).sigma(torch.tensor([10.0])).dtype == torch.float32
    assert FlowSchedule(3.0).sigma(torch.tensor([10.0], dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("shift", [0.0, -1.0, float("nan")])
def test_a_shift_that_is_not_positive_is_refused(shift):
    with pytest.raises(ValueError, match="shift"):
        FlowSchedule(shift)


@pytest.mark.parametrize(
    "changes",
    [{"use_dynamic_shifting": True}, {"use_karras_sigmas": True}, {"num_train_timesteps": 500}],
)
def test_another_kind_of_scheduler_is_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        FlowSchedule.from_scheduler(FlowMatchEulerDiscreteScheduler(shift=3.0, **changes))


def test_velocity_and_noise_round_trip():
    z, noise, sigma = batch()
    z_t, v = flow.add_noise(z, noise, sigma), flow.velocity(z, noise)
    torch.testing.assert_close(flow.noise_from_velocity(z_t, v, sigma), noise)


def test_an_euler_step_is_exact_on_a_straight_path():
    z, noise, sigma = batch()
    z_t, v = flow.add_noise(z, noise, sigma), flow.velocity(z, noise)
    for sigma_next in (0.6 * sigma, torch.zeros(3, dtype=torch.float64)):
        stepped = flow.euler_step(z_t, v, sigma, sigma_next)
        torch.testing.assert_close(stepped, flow.add_noise(z, noise, sigma_next))


def test_the_ends_of_the_path():
    z, noise, _ = batch()
    torch.testing.assert_close(flow.add_noise(z, noise, torch.zeros(3, dtype=torch.float64)), z)
    torch.testing.assert_close(flow.add_noise(z, noise, torch.ones(3, dtype=torch.float64)), noise)


def test_a_rows_noise_does_not_depend_on_its_batch():
    z = torch.zeros(4, 2, 3, 3)
    together = flow.gaussian_like(z, [seeding.generator(0, "noise", i) for i in range(4)])
    apart = [flow.gaussian_like(z[:1], [seeding.generator(0, "noise", i)]) for i in range(4)]
    assert torch.equal(together, torch.cat(apart))
    assert len({float(row.sum()) for row in together}) == 4


def generators(count: int) -> list[torch.Generator]:
    return [seeding.generator(0, "noise", i) for i in range(count)]


def test_on_a_cpu_noise_is_the_same_wherever_the_recipe_says_it_is_drawn():
    z = torch.zeros(2, 2, 3, 3)
    draws = [flow.gaussian_like(z, generators(2), on_device=choice) for choice in (False, True)]
    assert torch.equal(*draws)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpus_own_draws_belong_to_their_seeds():
    z = torch.zeros(4, 16, 64, 64, device="cuda")
    together = flow.gaussian_like(z, generators(4), on_device=True)
    apart = [flow.gaussian_like(z[:1], generators(4)[i : i + 1], on_device=True) for i in range(4)]
    assert torch.equal(together, torch.cat(apart))
    assert float(together.mean().abs()) < 0.02
    assert float((together.std() - 1).abs()) < 0.02
