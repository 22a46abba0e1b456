"""The TSD loss against Algorithm 1 written out sample by sample, in float64, with models that are formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.reference.algorithm1 import Settings, literal_direction, sigma_of
from tests.tiny import relative
from tsdsr import seeding
from tsdsr.flow import FlowSchedule, expand
from tsdsr.losses import tsd_loss
from tsdsr.losses.tsd import photograph_trajectory, trajectory_sigmas

SHIFT = 3.0
SHAPE = (3, 2, 4, 4)


def psi(z_t: Tensor, timestep: Tensor) -> Tensor:
    """A teacher: nonlinear, different at every time."""
    s = expand(timestep / 1000, z_t)
    return torch.sin(z_t) * (1 + s) + 0.3 * s * z_t**2 - 0.1


def phi(z_t: Tensor, timestep: Tensor) -> Tensor:
    """A fake score."""
    s = expand(timestep / 1000, z_t)
    return torch.cos(0.7 * z_t) * s + 0.2 * z_t


def inputs(seed: int = 0, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    draw = seeding.generator(seed, "tsd")
    z_hat, z, noise = (torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype) for _ in range(3))
    t = torch.rand(shape[0], generator=draw, dtype=torch.float64) * 900 + 50
    return {"z_hat": z_hat, "z": z, "noise": noise, "t": t.to(dtype)}


def run(given: dict[str, Tensor], **changes):
    options = {
        "teacher": psi,
        "fake": phi,
        "schedule": FlowSchedule(SHIFT),
        "lam": 0.7,
        "dasm_steps": 3,
        "dasm_step_size": 50.0,
        "dasm_weight": 0.3,
    }
    return tsd_loss(**(given | options | changes))


def level(t: float) -> float:
    return float(sigma_of(torch.tensor([t], dtype=torch.float64), SHIFT))


def algorithm_1(given, *, lam, steps, stride, weight, residual="velocity", offsets=None) -> Tensor:
    """The literal version, one sample after the other."""
    settings = Settings(lam, steps, stride, weight, shift=SHIFT, residual=residual)
    rows = range(given["z"].shape[0])
    samples = [[given[name][b : b + 1] for name in ("z_hat", "z", "noise", "t")] for b in rows]
    offset = [None if offsets is None else offsets[b : b + 1] for b in rows]

    def at(model):
        return lambda z_t, t: model(z_t, 1000 * sigma_of(t, SHIFT).flatten())

    return torch.cat([literal_direction(*samples[b], at(psi), at(phi), settings, offset[b]) for b in rows])


@pytest.mark.parametrize("residual", ["velocity", "noise"])
@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(("steps", "stride"), [(0, 50.0), (1, 25.0), (3, 50.0), (7, 100.0)])
def test_direction_is_algorithm_1(residual, lam, steps, stride):
    given = inputs()
    found = run(given, lam=lam, dasm_steps=steps, dasm_step_size=stride, residual=residual).direction
    wanted = algorithm_1(given, lam=lam, steps=steps, stride=stride, weight=0.3, residual=residual)
    assert relative(found, wanted) < 1e-12


@pytest.mark.parametrize("steps", [3, 4])
def test_points_lie_closer_near_zero_and_none_is_free_of_noise(steps):
    given = inputs()
    given["t"] = torch.tensor([60.0, 120.0, 900.0], dtype=torch.float64)
    found = run(given, dasm_steps=steps).direction
    assert relative(found, algorithm_1(given, lam=0.7, steps=steps, stride=50.0, weight=0.3)) < 1e-12
    sigmas = trajectory_sigmas(FlowSchedule(SHIFT), given["t"], steps, 50.0)
    assert float(torch.stack(sigmas).min()) > level(1.0)


def test_times_and_offset_are_those_of_the_released_script():
    """Its linspace over scheduler indices, whose entries are whole numbers here."""
    for t, bias, indices in [(700.0, 24.0, [300, 356, 412, 468]), (121.0, 0.0, [879, 909, 939, 969])]:
        found = trajectory_sigmas(
            FlowSchedule(SHIFT), torch.tensor([t], dtype=torch.float64), 3, 50.0, torch.tensor([bias])
        )
        assert [float(sigma) for sigma in found] == pytest.approx([level(1000 - index) for index in indices])


def test_the_offset_is_spread_over_the_further_points():
    given, offsets = inputs(), torch.tensor([-20.0, 0.0, 24.0], dtype=torch.float64)
    found = run(given, dasm_offset=offsets).direction
    wanted = algorithm_1(given, lam=0.7, steps=3, stride=50.0, weight=0.3, offsets=offsets)
    assert relative(found, wanted) < 1e-12
    assert relative(found, run(given).direction) > 1e-6


def test_float32_is_within_1e_5_of_float64():
    given = inputs(dtype=torch.float32)
    found = run(given).direction
    assert found.dtype == torch.float32
    wide = {name: value.double() for name, value in given.items()}
    assert relative(found, algorithm_1(wide, lam=0.7, steps=3, stride=50.0, weight=0.3)) < 1e-5


def test_half_precision_inputs_are_computed_in_float32():
    given = inputs(dtype=torch.bfloat16)
    assert run(given).direction.dtype == torch.float32
    wide = {name: value.double() for name, value in given.items()}
    wanted = algorithm_1(wide, lam=0.7, steps=3, stride=50.0, weight=0.3)
    assert relative(run(given).direction.double(), wanted) < 1e-5


def test_gradient_is_direction_over_numel_and_nothing_else_receives_one():
    given = inputs()
    teacher_scale, fake_scale = (torch.ones((), dtype=torch.float64, requires_grad=True) for _ in range(2))
    given["z_hat"].requires_grad_(True)
    given["z"].requires_grad_(True)
    result = run(
        given, teacher=lambda z_t, s: teacher_scale * psi(z_t, s), fake=lambda z_t, s: fake_scale * phi(z_t, s)
    )
    result.loss.backward()
    torch.testing.assert_close(given["z_hat"].grad, result.direction / result.direction.numel(), rtol=1e-14, atol=0)
    assert teacher_scale.grad is None
    assert fake_scale.grad is None
    assert given["z"].grad is None
    assert not result.direction.requires_grad


def test_loss_is_half_the_mean_square_of_the_direction():
    result = run(inputs())
    torch.testing.assert_close(result.loss, 0.5 * result.direction.pow(2).mean())
    torch.testing.assert_close(result.per_sample, 0.5 * result.direction.pow(2).flatten(1).mean(1))


def test_a_batch_equals_its_samples():
    given = inputs()
    together = run(given)
    for b in range(SHAPE[0]):
        alone = run({name: value[b : b + 1] for name, value in given.items()})
        torch.testing.assert_close(together.direction[b : b + 1], alone.direction)
        torch.testing.assert_close(together.per_sample[b : b + 1], alone.per_sample)
        torch.testing.assert_close(together.sigma[b : b + 1], alone.sigma)
        for name, values in together.statistics.items():
            torch.testing.assert_close(values[b : b + 1], alone.statistics[name])


def test_callables_get_whole_blocks_of_the_batch_at_1000_sigma():
    given, seen = inputs(), []

    def spy(model):
        def call(z_t, timestep):
            seen.append((z_t.shape, timestep))
            return model(z_t, timestep)

        return call

    run(given, teacher=spy(psi), fake=spy(phi))
    wanted = [1000 * sigma for sigma in trajectory_sigmas(FlowSchedule(SHIFT), given["t"], 3, 50.0)]
    for shape, timestep in seen:
        assert shape[1:] == SHAPE[1:]
        assert shape[0] % SHAPE[0] == 0
        blocks = timestep.reshape(-1, SHAPE[0])
        assert any(torch.allclose(blocks, point.expand_as(blocks)) for point in wanted)


def test_vsd_alone_does_not_ask_for_what_cancels():
    """At lambda 1, psi(z_t) drops out of Eq. (5), and with it z's trajectory; the first point keeps it for its norm."""
    rows = []
    run(inputs(), lam=1.0, teacher=lambda z_t, s: rows.append(z_t.shape[0]) or psi(z_t, s))
    assert rows == [6, 3, 3, 3]


@pytest.mark.parametrize("lam", [0.3, 1.0])
def test_vsd_vanishes_when_phi_is_psi(lam):
    """At lambda 1 the direction is VSD alone, Eq. (3), and psi = phi leaves nothing; else lambda's share of it goes."""
    given = inputs()
    assert float(run(given, fake=psi, lam=lam).statistics["vsd_norm"].max()) == 0
    if lam == 1.0:
        assert float(run(given, fake=psi, lam=lam).direction.abs().max()) < 1e-14


def test_tsm_vanishes_when_the_student_is_right():
    given = inputs()
    given["z_hat"] = given["z"].clone()
    assert float(run(given, lam=0.0, dasm_steps=0).statistics["tsm_norm"].max()) == 0
    assert float(run(given, lam=0.0, dasm_steps=0).direction.abs().max()) == 0
    # and along both trajectories, when phi is psi too
    assert float(run(given, lam=0.7, fake=psi).direction.abs().max()) < 1e-14


# A toy whose scores are known. With data ~ N(mean, std^2) per element, the optimal velocity E[noise - z_0 | z_t] is
#   (sigma - (1 - sigma) std^2) / ((1 - sigma)^2 std^2 + sigma^2) (z_t - (1 - sigma) mean) - mean


def gaussian_velocity(mean: float, std: float):
    def velocity(z_t: Tensor, timestep: Tensor) -> Tensor:
        sigma = expand(timestep / 1000, z_t)
        variance = (1 - sigma) ** 2 * std**2 + sigma**2
        return (sigma - (1 - sigma) * std**2) / variance * (z_t - (1 - sigma) * mean) - mean

    return velocity


def test_gaussian_velocity_is_the_conditional_mean():
    """The toy's own oracle: least squares of noise - z_0 on z_t over many draws."""
    draw, sigma, mean, std = seeding.generator(0, "toy"), 0.6, 1.5, 0.4
    z_0, noise = (torch.randn(400_000, generator=draw, dtype=torch.float64) for _ in range(2))
    z_0 = mean + std * z_0
    z_t = (1 - sigma) * z_0 + sigma * noise
    centred, target = z_t - z_t.mean(), noise - z_0
    slope = (centred * (target - target.mean())).mean() / centred.pow(2).mean()
    probe = torch.tensor([[[[0.0, 2.0]]]], dtype=torch.float64)
    fitted = target.mean() + slope * (probe - z_t.mean())
    found = gaussian_velocity(mean, std)(probe, torch.tensor([1000 * sigma], dtype=torch.float64))
    torch.testing.assert_close(found, fitted, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("residual", ["velocity", "noise"])
def test_vsd_moves_a_gaussian_student_to_the_data(residual):
    """Student N(m, std), data N(mean, std), both scores exact: gradient descent on VSD carries m to mean."""
    mean, std = 1.5, 0.5
    teacher = gaussian_velocity(mean, std)
    centre = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    distances = []
    for step in range(60):
        given = inputs(step, (64, 1, 2, 2))
        z_hat = centre + std * given.pop("z_hat")
        given["z"] = mean + std * given["z"]
        result = run(
            {"z_hat": z_hat, **given},
            teacher=teacher,
            fake=gaussian_velocity(float(centre.detach()), std),
            lam=1.0,
            dasm_steps=0,
            residual=residual,
        )
        (gradient,) = torch.autograd.grad(result.loss, centre)
        with torch.no_grad():
            centre -= 2.0 * gradient
        distances.append(abs(float(centre.detach()) - mean))
    assert distances[0] < 2.5
    assert distances[-1] < 0.2 * distances[0]


def test_a_step_of_tsm_moves_towards_the_target():
    """Data of small spread round z: psi points at it, so a TSM step with the noise residual must lessen |z_hat - z|."""
    given = inputs(1, (8, 1, 2, 2))
    given["z"] = torch.full_like(given["z"], 0.8)
    teacher = gaussian_velocity(0.8, 0.2)
    before = (given["z_hat"] - given["z"]).pow(2).mean()
    g = run(given, teacher=teacher, lam=0.0, dasm_steps=0, residual="noise").direction
    assert (given["z_hat"] - 0.1 * g - given["z"]).pow(2).mean() < before


def test_the_sign_of_the_velocity_residual_at_two_points():
    """A teacher that returns its own clean input says nothing of where z_hat should go. The noise form then gives 0;
    the velocity form gives -(z_hat - z) times sigma^2, i.e. a descent step leads away from z."""
    given = inputs(2, (4, 2, 3, 3))
    z_0_of = {}

    def returns_its_input(z_t, timestep):
        # "clean estimate = what was noised": v = noise - z_0, for both stacked blocks
        blocks = z_t.shape[0] // 4
        clean = torch.cat([given["z_hat"], given["z"]])[: 4 * blocks]
        z_0_of["rows"] = clean.shape[0]
        return torch.cat([given["noise"]] * blocks) - clean

    sigma = expand(FlowSchedule(SHIFT).sigma(given["t"]), given["z"])
    options = {"teacher": returns_its_input, "lam": 0.0, "dasm_steps": 0}
    noise_form = run(given, residual="noise", **options).direction
    velocity_form = run(given, residual="velocity", **options).direction
    assert z_0_of["rows"] == 8
    assert float(noise_form.abs().max()) < 1e-14
    torch.testing.assert_close(velocity_form, -(sigma**2) * (given["z_hat"] - given["z"]))
    distance = (given["z_hat"] - given["z"]).norm()
    assert (given["z_hat"] - 0.5 * velocity_form - given["z"]).norm() > distance


def test_vsd_is_the_same_in_both_forms_up_to_one_minus_sigma():
    given = inputs()
    options = {"lam": 1.0, "dasm_steps": 0}
    factor = 1 - expand(FlowSchedule(SHIFT).sigma(given["t"]), given["z"])
    noise_form = run(given, residual="noise", **options).direction
    torch.testing.assert_close(noise_form, factor * run(given, residual="velocity", **options).direction)


def test_norms_are_root_mean_squares_of_the_first_point():
    given = inputs()
    result = run(given)
    sigma = FlowSchedule(SHIFT).sigma(given["t"])
    z_hat_t = (1 - expand(sigma, given["z"])) * given["z_hat"] + expand(sigma, given["z"]) * given["noise"]
    residual = psi(z_hat_t, 1000 * sigma) - phi(z_hat_t, 1000 * sigma)
    wanted = [math.sqrt(float(row.pow(2).mean())) for row in residual]
    torch.testing.assert_close(result.statistics["vsd_norm"], torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("residual", ["velocity", "noise"])
def test_velocities_on_z_that_are_known_already_change_nothing(lam, residual):
    """psi on z's trajectory depends on z, noise and t alone: taken beforehand, it gives the same direction."""
    given, schedule = inputs(), FlowSchedule(SHIFT)
    sigmas = trajectory_sigmas(schedule, given["t"], 3, 50.0)
    known = photograph_trajectory(given["z"], given["noise"], sigmas, psi, schedule)
    rows = []
    counted = lambda z_t, s: rows.append(z_t.shape[0]) or psi(z_t, s)  # noqa: E731
    found = run(given, lam=lam, residual=residual, teacher=counted, teacher_on_z=known)
    torch.testing.assert_close(found.direction, run(given, lam=lam, residual=residual).direction)
    assert rows == [3, 3, 3, 3]  # z_hat's rows alone


def test_cosines_are_with_the_straight_line_to_the_photograph():
    """A teacher that knows the photograph is right on both points; one that denoises to the student only on neither."""
    given = inputs()
    z, noise = given["z"], given["noise"]

    def knowing(z_t, timestep):
        target = torch.cat([z] * (z_t.shape[0] // z.shape[0]))
        return (z_t - target) / expand(timestep / 1000, z_t)

    statistics = run(given, teacher=knowing).statistics
    torch.testing.assert_close(statistics["cosine_z"], torch.ones(3, dtype=z.dtype))
    torch.testing.assert_close(statistics["cosine_z_hat"], torch.ones(3, dtype=z.dtype))
    pleased = run(
        given, teacher=lambda z_t, s: torch.cat([noise - given["z_hat"], noise - z])[: z_t.shape[0]]
    ).statistics
    torch.testing.assert_close(pleased["cosine_z"], torch.ones(3, dtype=z.dtype))
    b = 1
    sigma = level(float(given["t"][b]))
    away = (1 - sigma) * given["z_hat"][b] + sigma * noise[b] - z[b]
    told = noise[b] - given["z_hat"][b]
    cosine = float((away * told).sum() / (away.norm() * told.norm()))
    assert float(pleased["cosine_z_hat"][b]) == pytest.approx(cosine)
    assert cosine < 0.95
