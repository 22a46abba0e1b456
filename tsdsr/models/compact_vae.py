"""The compact autoencoder: TAESD's shape, 64 channels everywhere, no attention, separable convolutions where asked.

It replaces a student's `AutoencoderKL` and has its interface. Its latents are those of the transformer, already scaled
(`scaling_factor` 1), since the decoder's soft clamp 3 tanh(z/3) needs values of about unit size.

Legend: B batch, C latent channels, H W pixels, h w latent.

Source: TinySR, arXiv 2508.17434, Sec. 3.2; the shape is that of TAESD as `diffusers` builds it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKLOutput
from diffusers.models.autoencoders.vae import DecoderOutput, DecoderTiny, EncoderTiny
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


@dataclass(frozen=True)
class PointPosterior:
    """A posterior without variance, with the interface of an `AutoencoderKL`'s."""

    mean: Tensor

    @property
    def std(self) -> Tensor:
        return torch.zeros_like(self.mean)

    def mode(self) -> Tensor:
        return self.mean


class CompactVAE(ModelMixin, ConfigMixin):
    """Images in [-1, 1] to latents and back; inside, pixels are in [0, 1].

    Args:
        latent_channels: C.
        block_out_channels: the width of each resolution; 8 pixels a latent with four.
        encoder_blocks, decoder_blocks: residual blocks of each resolution.
        separable_encoder, separable_decoder: depthwise, then pointwise convolutions instead of full ones.
        scaling_factor, shift_factor: between its latents and the transformer's.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        block_out_channels: tuple[int, ...] = (64, 64, 64, 64),
        encoder_blocks: tuple[int, ...] = (1, 3, 3, 3),
        decoder_blocks: tuple[int, ...] = (3, 3, 3, 1),
        separable_encoder: bool = True,
        separable_decoder: bool = False,
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = EncoderTiny(3, latent_channels, encoder_blocks, block_out_channels, "relu")
        self.decoder = DecoderTiny(latent_channels, 3, decoder_blocks, block_out_channels, 2, "relu", "nearest")
        self.quant_conv = None  # as an AutoencoderKL without one has it
        if separable_encoder:
            _separate(self.encoder)
        if separable_decoder:
            _separate(self.decoder)

    def encode(self, x: Tensor) -> AutoencoderKLOutput:
        """(B, 3, H, W) in [-1, 1] -> `.latent_dist.mode()` (B, C, h, w); nothing about it is random."""
        return AutoencoderKLOutput(latent_dist=PointPosterior(self.encoder(x)))

    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """(B, C, h, w) -> `.sample` (B, 3, H, W), nominally in [-1, 1]."""
        image = self.decoder(z)
        return DecoderOutput(sample=image) if return_dict else (image,)


def _separate(network: nn.Module) -> None:
    """Put a depthwise (without bias) and a pointwise convolution in the place of every full one."""
    full = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    for name, module in full:
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, _separable(module))


def _separable(full: nn.Conv2d) -> nn.Sequential:
    channels, kernel = full.in_channels, full.kernel_size
    depthwise = nn.Conv2d(channels, channels, kernel, full.stride, full.padding, groups=channels, bias=False)
    return nn.Sequential(depthwise, nn.Conv2d(channels, full.out_channels, 1, bias=full.bias is not None))
