"""The pattern as a loss: nothing for a photograph's own spectrum, and a step against its gradient weakens a grid."""

import math

import pytest
import torch
from torch.nn import functional

from tsdsr.losses.pattern import PERIODS, harmonic_excess, pattern_loss

SIDE = 128


@pytest.fixture
def picture():
    """[2,3,128,128] in [-1, 1]: coarse and fine noise, which has no period."""
    generator = torch.Generator().manual_seed(0)
    coarse = functional.interpolate(torch.randn(2, 3, 18, 18, generator=generator), size=SIDE, mode="bicubic")
    return (0.3 * coarse + 0.1 * torch.randn(2, 3, SIDE, SIDE, generator=generator)).clamp(-1, 1)


def grid(period: int) -> torch.Tensor:
    patch = torch.randn(period, period, generator=torch.Generator().manual_seed(period))
    return (0.05 * (patch - patch.mean())).repeat(SIDE // period, SIDE // period)


def test_a_picture_against_itself_is_zero(picture):
    assert pattern_loss(picture, picture).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("period", PERIODS)
def test_a_grid_costs_its_rise_and_a_lack_of_it_nothing(picture, period):
    with_grid = picture + grid(period)
    rises = [harmonic_excess(with_grid, p) / harmonic_excess(picture, p) for p in PERIODS]
    wanted = torch.stack([rise.log().clamp(min=0) for rise in rises]).mean(0).float()
    assert wanted.min() > 0.5
    torch.testing.assert_close(pattern_loss(with_grid, picture), wanted)
    assert pattern_loss(picture, with_grid).max() < 0.05 * wanted.max()


def test_contrast_and_brightness_do_not_matter(picture):
    noisy = picture + grid(8)
    torch.testing.assert_close(pattern_loss(0.5 * noisy + 0.2, picture), pattern_loss(noisy, picture))


def test_steps_against_the_gradient_remove_the_grid_alone(picture):
    faulty = picture + grid(8)
    found = faulty.clone()
    for _ in range(30):
        leaf = found.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(pattern_loss(leaf, picture).sum(), leaf)
        found = found - 0.3 * gradient / gradient.norm().clamp_min(1e-9)
    assert pattern_loss(found, picture).max() < 0.3 * pattern_loss(faulty, picture).min()
    assert (found - picture).square().mean() < (faulty - picture).square().mean()


def test_nothing_is_gained_by_energy_beside_the_harmonics(picture):
    """A grid of nearly the same period is no remedy: two bins beside a harmonic the gradient has no energy."""
    leaf = (picture + grid(16)).requires_grad_()
    (gradient,) = torch.autograd.grad(pattern_loss(leaf, picture).sum(), leaf)
    power = torch.fft.fft2(gradient[:, 1].double()).abs().square()
    harmonics = SIDE // 16 * torch.arange(1, 7)
    assert power[:, harmonics + 2][..., harmonics].max() < 1e-3 * power[:, harmonics][..., harmonics].mean()


def test_the_harmonics_of_a_cosine_are_its_own():
    """All energy of a cosine of the period is on a harmonic; of another period, on none."""
    x = torch.arange(SIDE, dtype=torch.float64)
    excess = {p: float(harmonic_excess(torch.cos(2 * math.pi * x / p).expand(1, 3, SIDE, SIDE), 8)) for p in (8, 5)}
    assert excess[8] > 1000 * excess[5]


def test_a_small_picture_is_refused():
    with pytest.raises(ValueError, match="fewer than 8 patches of 16"):
        pattern_loss(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64))
