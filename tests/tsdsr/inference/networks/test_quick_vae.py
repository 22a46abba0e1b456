import copy

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from tsdsr.inference.networks.quick_vae import QuickResnetBlock, QuickUpsample, phases, use_fast_forward
from tsdsr.models import presets


def test_the_phases_are_the_doubled_pictures_convolution() -> None:
    x, weight = torch.randn(2, 5, 6, 7, dtype=torch.float64), torch.randn(4, 5, 3, 3, dtype=torch.float64)
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, padding=1)
    made = F.conv2d(x, phases(weight), padding=1).chunk(4, 1)
    for index, phase in enumerate(made):
        down, right = divmod(index, 2)
        window = phase[:, :, down : down + 6, right : right + 7]
        torch.testing.assert_close(window, expected[:, :, down::2, right::2], atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def pair() -> tuple[AutoencoderKL, AutoencoderKL]:
    """A VAE with random biases as SD3's has attention in the middle, and the same quickened."""
    torch.manual_seed(0)
    plain = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=4,
        block_out_channels=(8, 8, 16), norm_num_groups=4,
    ).eval()  # fmt: skip
    quick = copy.deepcopy(plain)
    use_fast_forward(quick)
    return plain, quick


@torch.no_grad()
def test_encoder_and_decoder_give_the_same(pair: tuple[AutoencoderKL, AutoencoderKL]) -> None:
    plain, quick = pair
    assert sum(isinstance(module, QuickUpsample) for module in quick.modules()) == 2
    assert sum(isinstance(module, QuickResnetBlock) for module in quick.modules()) >= 8
    images = torch.rand(2, 3, 32, 48)
    given = images.clone()
    z = plain.encode(images).latent_dist.mode()
    torch.testing.assert_close(quick.encode(images).latent_dist.mode(), z, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(quick.decode(z).sample, plain.decode(z).sample, atol=1e-5, rtol=1e-4)
    assert torch.equal(images, given)


def test_names_values_and_gradients_are_untouched(pair: tuple[AutoencoderKL, AutoencoderKL]) -> None:
    plain, quick = pair
    ours, theirs = quick.state_dict(), plain.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    z = torch.randn(1, 4, 4, 4)
    for vae in pair:
        vae.zero_grad()
        vae.decode(z).sample.square().sum().backward()
    for one, other in zip(plain.decoder.parameters(), quick.decoder.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-3, rtol=1e-3)


def test_sd3s_vae_is_quickened_whole() -> None:
    vae = presets.build_vae(presets.get("sd3-medium"), seed=0, device="meta")
    before = {type(module) for module in vae.modules()}
    use_fast_forward(vae)
    left = {module.__name__ for module in {type(module) for module in vae.modules()} & before}
    assert not left & {"ResnetBlock2D", "Upsample2D"}
