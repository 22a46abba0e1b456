"""The published figures, counted on the meta device, and what the compact networks compute."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tsdsr.compression.cut import cut, without_text
from tsdsr.inference.networks.fold import streamline
from tsdsr.inference.networks.streamlined import StreamlinedTransformer
from tsdsr.models import presets
from tsdsr.models.codec import LatentCodec
from tsdsr.models.compact_vae import CompactVAE
from tsdsr.models.prompt import Prompt
from tsdsr.models.student import Student


def counted(run):
    """Multiply-adds in G without attention's two products, which the published counts leave out."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    products = counter.get_flop_counts()["Global"]
    return sum(n for name, n in products.items() if "bmm" not in str(name) and "dot_product" not in str(name)) / 2e9


def compact(**options):
    with torch.device("meta"):
        vae = CompactVAE(**options)
        macs = counted(lambda: vae.decode(vae.encode(torch.empty(1, 3, 512, 512)).latent_dist.mode()))
    return macs, presets.count_parameters(vae) / 1e6


def twelve_blocks():
    with torch.device("meta"):
        return StreamlinedTransformer(
            in_channels=16,
            patch_size=2,
            num_layers=12,
            num_heads=24,
            head_dim=64,
            context_length=0,
            sample_size=128,
            pos_embed_max_size=192,
        )


@pytest.mark.parametrize(
    ("encoder", "decoder", "macs", "params"),
    [(False, False, 131.89, 2.459), (True, False, 78.46, 1.387), (True, True, 16.86, 0.316)],
)
def test_the_autoencoder_has_the_published_size(encoder, decoder, macs, params):
    found = compact(separable_encoder=encoder, separable_decoder=decoder)
    assert [round(found[0], 2), round(found[1], 3)] == [macs, params]


def test_twelve_blocks_have_the_published_size():
    transformer, (vae_macs, vae_params) = twelve_blocks(), compact()
    parameters = presets.count_parameters(transformer)
    macs = counted(lambda: transformer(torch.empty(1, 16, 64, 64, device="meta")))
    assert parameters == 340_102_720
    assert round(macs, 2) == 348.09
    assert round(parameters / 1e6 + vae_params, 2) == 341.49
    assert round(macs + vae_macs, 2) == 426.55


def test_a_cut_network_without_text_is_its_streamlined_form():
    """Any size and aspect: positions are cropped from the table."""
    transformer = presets.build_transformer(presets.get("tiny"), seed=0).eval().requires_grad_(False)
    draw = torch.Generator().manual_seed(0)
    prompt = without_text(Prompt(torch.randn(8, 64, generator=draw), torch.randn(64, generator=draw)))
    assert prompt.embeds.shape == (0, 64)
    small = cut(transformer, [0, 2])
    inputs = [torch.randn(1, 16, *shape, generator=draw) for shape in ((8, 8), (6, 20), (34, 4), (64, 64))]
    expected = [Student(None, small, use_shift=False).predict(z, prompt) for z in inputs]
    slim = streamline(small, prompt)
    assert not [name for name, _ in slim.named_modules() if "context" in name]
    for z, z_hat in zip(inputs, expected, strict=True):
        torch.testing.assert_close(z - slim(z), z_hat, atol=2e-5, rtol=1e-4)


def test_the_compact_autoencoder_stands_in_for_the_other_one(tmp_path):
    torch.manual_seed(0)
    vae = CompactVAE(latent_channels=4, block_out_channels=(8, 8), encoder_blocks=(1, 1), decoder_blocks=(1, 1)).eval()
    vae.save_pretrained(tmp_path)
    codec = LatentCodec(CompactVAE.from_pretrained(tmp_path), use_shift=True)
    image = torch.rand(2, 3, 12, 16) * 2 - 1
    with torch.no_grad():
        z = codec.encode(image)
        assert (codec.factor, z.shape, codec.decode(z).shape) == (2, (2, 4, 6, 8), image.shape)
        torch.testing.assert_close(z, vae.encoder(image))
        torch.testing.assert_close(
            vae.decode(100 * torch.ones_like(z)).sample, vae.decode(1e4 * torch.ones_like(z)).sample
        )
        assert vae.encode(image).latent_dist.std.abs().max() == 0
