"""HFSD against its formula written out, with teachers that are formulas, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.tiny import relative
from tsdsr import seeding
from tsdsr.flow import FlowSchedule, expand
from tsdsr.losses.hfsd import hfsd_loss

SCHEDULE = FlowSchedule(3.0)
SHAPE = (3, 2, 4, 4)


def inputs() -> dict[str, Tensor]:
    draw = seeding.generator(0, "hfsd")
    z_hat, z_tea, noise = (torch.randn(*SHAPE, generator=draw, dtype=torch.float64) for _ in range(3))
    return {"z_hat": z_hat, "z_tea": z_tea, "noise": noise, "t": torch.tensor([10.0, 60.0, 110.0], dtype=torch.float64)}


def teacher(z_t: Tensor, timestep: Tensor) -> Tensor:
    """Nonlinear, different at every time."""
    s = expand(timestep / 1000, z_t)
    return torch.sin(z_t) * (1 + s) + 0.3 * s * z_t**2 - 0.1


def run(given, *, teacher=teacher, **options):
    return hfsd_loss(**given, teacher=teacher, schedule=SCHEDULE, **options)


@pytest.mark.parametrize("residual", ["noise", "velocity"])
def test_the_gradient_is_the_difference_of_the_teachers_estimates(residual):
    given = inputs()
    wanted = []
    for b in range(3):  # one sample after the other, one call an estimate
        u = float(given["t"][b]) / 1000
        s = 3 * u / (1 + 2 * u)
        estimates = []
        for z in (given["z_hat"][b : b + 1], given["z_tea"][b : b + 1]):
            z_t = (1 - s) * z + s * given["noise"][b : b + 1]
            v = teacher(z_t, torch.tensor([1000 * s], dtype=torch.float64))
            estimates.append(z_t + (1 - s) * v if residual == "noise" else v)
        wanted.append(estimates[0] - estimates[1])
    given["z_hat"].requires_grad_(True)
    loss = run(given, residual=residual)
    loss.per_sample.mean().backward()
    direction = torch.cat(wanted)
    assert relative(loss.direction, direction) < 1e-12
    # d mean_b mean(g z_hat) / d z_hat = g / numel
    assert relative(given["z_hat"].grad, direction / direction.numel()) < 1e-12


def test_it_reaches_the_students_latent_alone():
    given = {name: value.requires_grad_(True) for name, value in inputs().items()}
    weight = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    run(given, teacher=lambda z_t, timestep: weight * teacher(z_t, timestep)).per_sample.sum().backward()
    assert given["z_hat"].grad.abs().sum() > 0
    assert weight.grad is None
    assert all(given[name].grad is None for name in ("z_tea", "noise", "t"))


@pytest.mark.parametrize("residual", ["noise", "velocity"])
def test_it_vanishes_where_the_student_agrees_with_its_teacher(residual):
    given = inputs()
    given["z_hat"] = given["z_tea"].clone().requires_grad_(True)
    loss = run(given, residual=residual)
    loss.per_sample.sum().backward()
    assert torch.equal(loss.direction, torch.zeros(SHAPE, dtype=torch.float64))
    assert torch.equal(given["z_hat"].grad, torch.zeros(SHAPE, dtype=torch.float64))


def test_a_teacher_that_returns_its_input_says_nothing_in_noise_form_and_pushes_away_in_velocity_form():
    given = inputs()

    def returns_its_input(z_t, timestep):  # its clean estimate is what was noised: v = noise - z
        s = expand(timestep / 1000, z_t)
        noise = torch.cat([given["noise"]] * 2)
        return noise - (z_t - s * noise) / (1 - s)

    assert run(given, teacher=returns_its_input).direction.abs().max() < 1e-14
    pushed = run(given, teacher=returns_its_input, residual="velocity").direction
    assert relative(pushed, given["z_tea"] - given["z_hat"]) < 1e-12


def test_a_teacher_with_one_answer_pulls_the_student_to_the_multi_step_output():
    given = inputs()

    def one_answer(z_t, timestep):  # its clean estimate is the same for both: v = (z_t - c) / sigma
        return (z_t - 0.4) / expand(timestep / 1000, z_t)

    sigma = expand(SCHEDULE.sigma(given["t"]), given["z_hat"])
    pull = (1 - sigma) / sigma * (given["z_hat"] - given["z_tea"])
    assert relative(run(given, teacher=one_answer).direction, pull) < 1e-12


def test_a_batch_equals_its_samples():
    given = inputs()
    together = run(given).per_sample
    apart = [run({name: value[b : b + 1] for name, value in given.items()}).per_sample for b in range(3)]
    torch.testing.assert_close(together, torch.cat(apart))
