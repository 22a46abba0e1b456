"""A time-aware discriminator of noised latents: small trained heads on the features of a frozen transformer.

    a level's features f -> (1 + scale(t)) GroupNorm(f) + shift(t) -> SiLU -> 3x3 convolution, zero at the start
    -> flattened -> 1D convolution k1, GroupNorm, LeakyReLU -> the same with k9, circular, added -> 1D convolution k1

The published discriminator takes a UNet's encoder half, whose levels differ in resolution. An MMDiT has one resolution
and no encoder; here the levels are `LEVELS` blocks evenly spaced over the first half of its blocks, the last of them in
the middle. The second half is not run, so a pass costs half of the teacher's.

Legend: B batch, C h w a latent's channels and sides, D the transformer's width, p its patch, L prompt tokens, P pooled
width.

Source: TAD-SR, arXiv 2408.07476, Sec. 3.3, and the layers of its released code as its configuration describes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from tsdsr import seeding
from tsdsr.models import adapters

if TYPE_CHECKING:
    from diffusers import SD3Transformer2DModel

LEVELS = 4
EMBEDDING = 256  # channels of the sinusoidal embedding of time, as SD3's own
FEATURE_GROUPS, GROUPS = 32, 4
SLOPE = 0.2


def feature_blocks(transformer: SD3Transformer2DModel) -> tuple[int, ...]:
    """The blocks whose outputs are the levels: of SD3's 24 the 3rd, 6th, 9th and 12th, of tiny's 4 the first two."""
    half = max(1, len(transformer.transformer_blocks) // 2)
    levels = min(LEVELS, half)
    return tuple(half * level // levels - 1 for level in range(1, levels + 1))


def features(
    transformer: SD3Transformer2DModel, z_t: Tensor, timestep: Tensor, embeds: Tensor, pooled: Tensor
) -> list[Tensor]:
    """The levels [B,D,h/p,w/p] at z_t [B,C,h,w], in float32; differentiable in z_t.

    Args:
        timestep: [B], 1000 sigma. embeds: [B,L,D], or [L,D] for all rows. pooled: [B,P], or [P].
    """
    dtype, rows = adapters.base_dtype(transformer), len(z_t)
    patch = transformer.config.patch_size
    height, width = (side // patch for side in z_t.shape[-2:])
    image = transformer.pos_embed(z_t.to(dtype)).contiguous()
    time = transformer.time_text_embed(timestep, pooled.to(dtype).expand(rows, -1))
    text = transformer.context_embedder(embeds.to(dtype).expand(rows, -1, -1))
    wanted, found = feature_blocks(transformer), []
    for number, block in enumerate(transformer.transformer_blocks[: wanted[-1] + 1]):
        text, image = block(hidden_states=image, encoder_hidden_states=text, temb=time)
        if number in wanted:
            level = image.float().transpose(1, 2).unflatten(2, (height, width))
            found.append(level.contiguous())  # GroupNorm's backward on the transposed one crashes torch 2.13 on a CPU
    return found


class LatentDiscriminator(nn.Module):
    """A head a level; the logits of all heads together.

    Args:
        levels: how many. width: D. outputs: channels of a head's last layer.
        seed: of its weights.
    """

    def __init__(self, levels: int, width: int, outputs: int, *, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeding.derive(seed, "discriminator"))
            self.heads = nn.ModuleList(_Head(width, outputs) for _ in range(levels))

    def forward(self, levels: Sequence[Tensor], timestep: Tensor) -> Tensor:
        """Features [B,D,h/p,w/p] a level and their time [B] = 1000 sigma -> logits [B,N]."""
        embedding = _sinusoids(timestep)
        return torch.cat([head(level, embedding).flatten(1) for head, level in zip(self.heads, levels, strict=True)], 1)


class _Head(nn.Module):
    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(EMBEDDING, 2 * width)
        self.norm = nn.GroupNorm(FEATURE_GROUPS if width % FEATURE_GROUPS == 0 else GROUPS, width)
        self.spatial = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.spatial.weight)
        nn.init.zeros_(self.spatial.bias)
        self.first = _block(width, kernel=1)
        self.second = _block(width, kernel=9)
        self.last = spectral_norm(nn.Conv1d(width, outputs, 1))

    def forward(self, level: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(functional.silu(embedding))[:, :, None, None].chunk(2, 1)
        hidden = functional.silu((1 + scale) * self.norm(level) + shift)
        hidden = self.first(self.spatial(hidden).flatten(2))
        logits: Tensor = self.last(hidden + self.second(hidden))
        return logits


def _block(width: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv1d(width, width, kernel, padding=kernel // 2, padding_mode="circular")
    return nn.Sequential(spectral_norm(convolution), nn.GroupNorm(GROUPS, width), nn.LeakyReLU(SLOPE))


def _sinusoids(timestep: Tensor) -> Tensor:
    from diffusers.models.embeddings import get_timestep_embedding

    return get_timestep_embedding(timestep.float(), EMBEDDING, flip_sin_to_cos=True, downscale_freq_shift=0)
