from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL

from tsdsr import seeding
from tsdsr.models import presets
from tsdsr.models.codec import LatentCodec
from tsdsr.models.linear_start import linear_start

TINY = presets.get("tiny")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Smooth colour pictures [6,3,64,64]: noise of a few frequencies."""
    coarse = torch.randn(6, 3, 7, 7, generator=seeding.generator(0, "images"))
    smooth = torch.nn.functional.interpolate(coarse, size=64, mode="bicubic")
    return (0.5 * smooth).clamp(-1, 1)


def error(vae, images) -> float:
    return float((LatentCodec(vae, use_shift=False).round_trip(images) - images).pow(2).mean() / images.var())


def test_it_restores_smooth_pictures_before_any_training(images):
    vae = presets.build_vae(TINY, seed=0).eval()
    assert error(vae, images) > 0.5
    linear_start(vae, images)
    assert error(vae, images) < 0.05


def test_latents_are_the_principal_components(images):
    vae = presets.build_vae(TINY, seed=0).eval()
    linear_start(vae, images)
    with torch.no_grad():
        modes = vae.encode(images).latent_dist.mode()
    rows = modes.permute(1, 0, 2, 3).flatten(1)
    correlation = torch.corrcoef(rows)[:4, :4]  # the leading ones; the last are noise
    assert (correlation - torch.eye(4)).abs().max() < 0.3
    assert rows.std(1)[0] > rows.std(1)[3]


def test_gradients_reach_every_residual_block(images):
    vae = presets.build_vae(TINY, seed=0)
    linear_start(vae, images)
    posterior = vae.encode(images).latent_dist
    (vae.decode(posterior.mode()).sample - images).pow(2).mean().backward()
    for name, parameter in vae.named_parameters():
        if name.endswith("conv2.weight"):
            assert parameter.grad.abs().max() > 0, name


def test_too_few_channels_are_named():
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 16, 16),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=1,
        mid_block_add_attention=False,
    )
    with pytest.raises(ValueError, match="16 channels are too few for 16 pairs"):
        linear_start(vae, torch.randn(2, 3, 16, 16))
