"""The one owner of the scale (and shift) between a VAE's latents and the transformer's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


@dataclass(frozen=True)
class LatentCodec:
    """z = (posterior mode - shift) * scaling_factor, and back.

    SD3's own pipelines subtract `shift_factor`; the released TSD-SR weights were trained without, so `use_shift` is
    part of a student's configuration. The posterior's mode is taken, not a sample (the released code samples): the
    same photograph then gives the same latent.
    """

    vae: AutoencoderKL
    use_shift: bool

    @property
    def shift(self) -> float:
        return float(self.vae.config.shift_factor or 0.0) if self.use_shift else 0.0

    @property
    def factor(self) -> int:
        """Pixels per latent along a side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], sides multiples of `factor` -> (B, C, H / factor, W / factor)."""
        mode = self.vae.encode(images.to(self.vae.dtype)).latent_dist.mode()
        return (mode - self.shift) * self.vae.config.scaling_factor

    def decode(self, z: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, h * factor, w * factor), nominally in [-1, 1] and not clamped."""
        latents = z / self.vae.config.scaling_factor + self.shift
        return self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0]

    def round_trip(self, images: Tensor) -> Tensor:
        """decode(encode(images)) without gradient: what the autoencoder alone does to an image."""
        with torch.no_grad():
            return self.decode(self.encode(images))
