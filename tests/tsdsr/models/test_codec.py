from __future__ import annotations

import pytest
import torch

from tests.tiny import tiny_vae
from tsdsr import seeding
from tsdsr.models.codec import LatentCodec


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 16, 24, generator=seeding.generator(0, "images")) * 2 - 1


@pytest.mark.parametrize("use_shift", [False, True])
def test_encode_is_the_posteriors_mode_scaled(vae, images, use_shift):
    codec = LatentCodec(vae, use_shift)
    mode = vae.encode(images).latent_dist.mode()
    shift = 0.1 if use_shift else 0.0
    torch.testing.assert_close(codec.encode(images), (mode - shift) * 1.5)
    assert torch.equal(codec.encode(images), codec.encode(images))


@pytest.mark.parametrize("use_shift", [False, True])
def test_decode_undoes_the_scale_and_the_shift(vae, images, use_shift):
    codec = LatentCodec(vae, use_shift)
    mode = vae.encode(images).latent_dist.mode()
    torch.testing.assert_close(codec.decode(codec.encode(images)), vae.decode(mode).sample)


def test_a_vae_without_a_shift_factor(images):
    codec = LatentCodec(tiny_vae(shift_factor=None), use_shift=True)
    assert codec.shift == 0.0
    assert codec.round_trip(images).shape == images.shape


def test_factor_is_pixels_per_latent(vae, images):
    codec = LatentCodec(vae, use_shift=False)
    z = codec.encode(images)
    assert [images.shape[2] // codec.factor, images.shape[3] // codec.factor] == list(z.shape[2:])


def test_a_round_trip_builds_no_graph(vae, images):
    vae.requires_grad_(True)
    assert not LatentCodec(vae, use_shift=False).round_trip(images).requires_grad
