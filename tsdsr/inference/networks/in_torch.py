"""The student's networks in PyTorch, on a CPU or a GPU, in the precision of their weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tsdsr import machine
from tsdsr.device import out_of_memory
from tsdsr.inference.tiles.plan import Geometry
from tsdsr.models.codec import LatentCodec

if TYPE_CHECKING:
    from tsdsr.inference.networks.streamlined import StreamlinedTransformer


@dataclass(frozen=True)
class TorchNetworks:
    """The networks for the engine (`tiles.engine.Networks`).

    Attributes:
        codec: the VAE, its adapter merged or live.
        predict: latents (B, C, h, w) -> velocity, on `device`.
        geometry: for the tiles.
        device: of the networks.
        decoder_noise: of `tsdsr.models.student.Student`.
    """

    codec: LatentCodec
    predict: Callable[[Tensor], Tensor]
    geometry: Geometry
    device: torch.device
    decoder_noise: float = 0.0

    def encode(self, pixels: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        if noise is None:
            return self._run(self.codec.encode, pixels)
        return self._run(lambda images: self._sample(images, self._tensor(noise)), pixels)

    def velocity(self, latents: np.ndarray) -> np.ndarray:
        return self._run(self.predict, latents)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        return self._run(self.codec.decode, latents)

    def free_bytes(self) -> float:
        if self.device.type != "cuda":
            return machine.available_memory()
        kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)  # by PyTorch, unused
        return torch.cuda.mem_get_info(self.device)[0] + kept

    def item_bytes(self) -> int:
        return int(self.codec.vae.dtype.itemsize)

    def _sample(self, images: Tensor, noise: Tensor) -> Tensor:
        vae = self.codec.vae
        posterior = vae.encode(images.to(vae.dtype)).latent_dist
        sample = posterior.mean.float() + posterior.std.float() * noise
        return (sample - self.codec.shift) * vae.config.scaling_factor

    def _run(self, network: Callable[[Tensor], Tensor], values: np.ndarray) -> np.ndarray:
        try:
            with torch.no_grad():
                return network(self._tensor(values)).float().cpu().numpy()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            raise MemoryError(str(error)) from error

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)


def geometry_of(codec: LatentCodec, transformer: StreamlinedTransformer) -> Geometry:
    """The geometry of these networks."""
    config, vae = transformer.config, codec.vae.config
    return Geometry(
        factor=codec.factor,
        patch=config.patch_size,
        channels=vae.latent_channels,
        limit=config.sample_size,
        largest=config.pos_embed_max_size * config.patch_size,
        width=max(vae.block_out_channels[:2]),
    )
