"""The call of the transformer, and classifier-free guidance as a callable of (z_t, timestep)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tsdsr.models import adapters
from tsdsr.models.fp8 import fp8_products
from tsdsr.models.prompt import Prompt

if TYPE_CHECKING:
    from diffusers import SD3Transformer2DModel


def predict_velocity(
    transformer: SD3Transformer2DModel, z_t: Tensor, timestep: Tensor, embeds: Tensor, pooled: Tensor
) -> Tensor:
    """One forward in the transformer's dtype; the velocity comes back in float32 or wider.

    Args:
        z_t: [R,C,h,w]. timestep: [R], 1000 sigma. embeds: [R,L,D], or [L,D] for all rows. pooled: [R,P], or [P].
    """
    dtype, rows = adapters.base_dtype(transformer), z_t.shape[0]
    velocity = transformer(
        hidden_states=z_t.to(dtype),
        timestep=timestep,
        encoder_hidden_states=embeds.to(dtype).expand(rows, -1, -1),
        pooled_projections=pooled.to(dtype).expand(rows, -1),
        return_dict=False,
    )[0]
    return velocity.to(torch.promote_types(z_t.dtype, torch.float32))


def room_beside(side: int, sample_size: int, patch_size: int) -> int:
    """The number of patches by which a latent of `side` may be shifted within the model's sample size."""
    return max(0, sample_size - side) // (2 * patch_size)


@contextmanager
def moved_positions(transformer: nn.Module, offset: tuple[int, int]) -> Iterator[None]:
    """Within the block the patches sit `offset` patches off the middle of the model's table of positions.

    The model takes positions from the middle. Trained there alone, on crops smaller than its sample size, it would meet
    the outer positions of a larger image for the first time at inference, and generate a grid.
    """
    embed: Any = transformer.get_submodule("pos_embed")
    down, across = offset
    table, size = embed.pos_embed, embed.pos_embed_max_size
    embed.pos_embed = table.reshape(size, size, -1).roll((-down, -across), (0, 1)).reshape(table.shape)
    try:
        yield
    finally:
        embed.pos_embed = table


def block_features(
    transformer: SD3Transformer2DModel, z_t: Tensor, timestep: Tensor, embeds: Tensor, pooled: Tensor
) -> list[Tensor]:
    """The image tokens after each block, [R,T,D] each, with their graph; arguments as of `predict_velocity`.

    It disables gradient checkpointing, which would repeat the forward later with other adapters active.
    """
    features: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda module, given, outputs: features.append(outputs[1]))
        for block in transformer.transformer_blocks
    ]
    checkpointing, transformer.gradient_checkpointing = transformer.gradient_checkpointing, False
    try:
        predict_velocity(transformer, z_t, timestep, embeds, pooled)
    finally:
        transformer.gradient_checkpointing = checkpointing
        for hook in hooks:
            hook.remove()
    return features


@dataclass(frozen=True)
class GuidedVelocity:
    """v = v_null + g (v_cond - v_null), for B samples or n stacked blocks of them.

    Attributes:
        transformer: the shared base; `names` are the active adapters (empty = the base alone).
        embeds, pooled: the samples' prompts, [B,L,D] and [B,P].
        null: the empty prompt.
        scale: g; at 1 the null branch is not run.
        low_memory: run the two branches one after the other instead of as one doubled batch.
        fp8: multiply in FP8 where no gradient is recorded; `fp8.install` must have run.
    """

    transformer: SD3Transformer2DModel
    names: Sequence[str]
    embeds: Tensor
    pooled: Tensor
    null: Prompt
    scale: float
    low_memory: bool = False
    fp8: bool = False

    def __call__(self, z_t: Tensor, timestep: Tensor) -> Tensor:
        """z_t [nB,C,h,w], timestep [nB] = 1000 sigma -> guided velocity, shaped like z_t."""
        blocks = z_t.shape[0] // self.embeds.shape[0]
        dtype = adapters.base_dtype(self.transformer)  # cast before they are repeated: larger than what is noised
        embeds, pooled = self.embeds.to(dtype).repeat(blocks, 1, 1), self.pooled.to(dtype).repeat(blocks, 1)
        products = fp8_products(self.transformer) if self.fp8 else nullcontext()
        with products, adapters.active(self.transformer, *self.names):
            if self.scale == 1:
                return predict_velocity(self.transformer, z_t, timestep, embeds, pooled)
            null_embeds = self.null.embeds.to(dtype).expand_as(embeds)
            null_pooled = self.null.pooled.to(dtype).expand_as(pooled)
            if self.low_memory:
                v_null = predict_velocity(self.transformer, z_t, timestep, null_embeds, null_pooled)
                v_cond = predict_velocity(self.transformer, z_t, timestep, embeds, pooled)
            else:
                both = predict_velocity(
                    self.transformer,
                    torch.cat([z_t, z_t]),
                    torch.cat([timestep, timestep]),
                    torch.cat([null_embeds, embeds]),
                    torch.cat([null_pooled, pooled]),
                )
                v_null, v_cond = both.chunk(2)
        return v_null + self.scale * (v_cond - v_null)
