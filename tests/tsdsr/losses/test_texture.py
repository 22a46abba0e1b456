"""The texture terms tell blurred from sharp, noise from detail, and see the two ways of faking it."""

import math

import pytest
import torch
from torch.nn import functional

from tsdsr.losses.texture import detail_loss, spectrum_loss, texture_loss


@pytest.fixture
def picture():
    """[2,3,96,96]: smooth noise with some fine detail, in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = functional.interpolate(torch.randn(2, 3, 12, 12, generator=generator), scale_factor=8, mode="bicubic")
    return (0.3 * coarse + 0.1 * torch.randn(2, 3, 96, 96, generator=generator)).clamp(-1, 1)


def test_a_picture_has_its_own_texture(picture):
    assert texture_loss(picture, picture).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("loss", [spectrum_loss, detail_loss])
def test_the_value_is_the_logarithm_of_the_energy_ratio(picture, loss):
    """Twice the contrast is four times the energy, at every frequency, up to the floor."""
    assert loss(0.5 * picture, picture) == pytest.approx(torch.full((2,), math.log(4)), abs=0.05)


def test_a_bfloat16_picture_is_compared_in_float32(picture):
    given = (0.5 * picture).bfloat16().requires_grad_()
    loss = texture_loss(given, picture)
    assert torch.equal(loss, texture_loss(given.float(), picture))
    assert torch.autograd.grad(loss.sum(), given)[0].dtype == torch.bfloat16


def test_brightness_is_not_detail(picture):
    assert detail_loss(picture + 0.25, picture) == pytest.approx(torch.zeros(2), abs=1e-4)


def test_a_step_against_the_gradient_strengthens_what_was_blurred(picture):
    blurred = functional.avg_pool2d(picture, 3, stride=1, padding=1).requires_grad_()
    loss = texture_loss(blurred, picture).sum()
    (gradient,) = torch.autograd.grad(loss, blurred)
    step = blurred.detach() - 1e-2 * gradient / gradient.abs().max()
    assert texture_loss(step, picture).sum() < loss
    assert step.diff(dim=-1).pow(2).mean() > blurred.detach().diff(dim=-1).pow(2).mean()


def test_a_grid_and_dots_are_worse_than_noise_of_equal_energy():
    """All three have the energy that the blurred picture lacks."""
    generator = torch.Generator().manual_seed(1)
    wanted = 0.1 * torch.randn(1, 3, 96, 96, generator=generator)
    noise = 0.1 * torch.randn(1, 3, 96, 96, generator=generator)
    grid = torch.zeros(1, 3, 96, 96)
    grid[..., ::4, ::4] = 1
    dots = torch.zeros(1, 3, 96, 96)
    dots[..., 3::16, 5::16] = 1
    for fake in (grid, dots):
        fake = (fake - fake.mean()) * (wanted.std() / fake.std())
        assert texture_loss(fake, wanted) > 2 * texture_loss(noise, wanted)


def test_samples_do_not_see_each_other(picture):
    other = picture.flip(0) * 0.7
    parts = torch.cat([texture_loss(other[i : i + 1], picture[i : i + 1]) for i in range(2)])
    assert torch.allclose(texture_loss(other, picture), parts)
