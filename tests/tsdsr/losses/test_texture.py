"""The texture term tells blurred from sharp and noisy from clean, and ignores what it says it ignores."""

import pytest
import torch
from torch.nn import functional

from tsdsr.losses.texture import texture_loss


@pytest.fixture
def picture():
    """[2,3,96,96]: smooth noise with some fine detail, in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = functional.interpolate(torch.randn(2, 3, 12, 12, generator=generator), scale_factor=8, mode="bicubic")
    return (0.3 * coarse + 0.1 * torch.randn(2, 3, 96, 96, generator=generator)).clamp(-1, 1)


def test_a_picture_has_its_own_texture(picture):
    assert texture_loss(picture, picture).tolist() == [0.0, 0.0]


def test_the_value_is_the_logarithm_of_the_energy_ratio(picture):
    """Twice the contrast is four times the energy, in every band, up to the floor."""
    found = texture_loss(0.5 * picture, picture)
    assert found == pytest.approx(torch.full((2,), torch.log(torch.tensor(4.0))), abs=0.05)


def test_brightness_is_not_texture(picture):
    assert texture_loss(picture + 0.25, picture) == pytest.approx(torch.zeros(2), abs=1e-4)


def test_a_step_against_the_gradient_strengthens_what_was_blurred(picture):
    blurred = functional.avg_pool2d(picture, 3, stride=1, padding=1).requires_grad_()
    loss = texture_loss(blurred, picture).sum()
    (gradient,) = torch.autograd.grad(loss, blurred)
    step = blurred.detach() - 1e-2 * gradient / gradient.abs().max()
    assert texture_loss(step, picture).sum() < loss
    assert step.diff(dim=-1).pow(2).mean() > blurred.detach().diff(dim=-1).pow(2).mean()


def test_samples_do_not_see_each_other(picture):
    other = picture.flip(0) * 0.7
    whole = texture_loss(other, picture)
    parts = torch.cat([texture_loss(other[i : i + 1], picture[i : i + 1]) for i in range(2)])
    assert torch.allclose(whole, parts)
