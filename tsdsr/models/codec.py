"""Encoding and decoding with the scale (and shift) between a VAE's latents and the transformer's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from tsdsr.models.compact_vae import CompactVAE

    Autoencoder: TypeAlias = AutoencoderKL | CompactVAE  # the teacher's, or TinySR's, which has the same interface


@dataclass(frozen=True)
class LatentCodec:
    """z = (posterior mode - shift) * scaling_factor, and back.

    SD3's own pipelines subtract `shift_factor`; the released TSD-SR weights were trained without, so `use_shift` is
    part of a student's configuration. The posterior's mode is taken, not a sample (the released code samples), so that
    the same image gives the same latent.

    Attributes:
        slice: samples per call of the VAE while gradients are recorded. Each slice is recomputed in the backward, so
            that only one slice's graph is in memory; samples are independent in a VAE, so values and gradients are the
            same. None: all at once, without recomputation.
    """

    vae: Autoencoder
    use_shift: bool
    slice: int | None = None

    @property
    def shift(self) -> float:
        return float(self.vae.config.shift_factor or 0.0) if self.use_shift else 0.0

    @property
    def factor(self) -> int:
        """Pixels per latent along a side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], sides multiples of `factor` -> (B, C, H / factor, W / factor)."""
        mode = self._sliced(lambda part: self.vae.encode(part).latent_dist.mode(), images.to(self.vae.dtype))
        return (mode - self.shift) * self.vae.config.scaling_factor

    def decode(self, z: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, h * factor, w * factor), nominally in [-1, 1] and not clamped."""
        latents = z / self.vae.config.scaling_factor + self.shift
        return self._sliced(lambda part: self.vae.decode(part, return_dict=False)[0], latents.to(self.vae.dtype))

    def round_trip(self, images: Tensor) -> Tensor:
        """decode(encode(images)) without gradient: the effect of the autoencoder alone."""
        with torch.no_grad():
            return self.decode(self.encode(images))

    def _sliced(self, network: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        if self.slice is None or not torch.is_grad_enabled():
            return network(inputs)
        return torch.cat([checkpoint(network, part, use_reentrant=False) for part in inputs.split(self.slice)])
