"""The student's transformer with everything that depends only on time and prompt precomputed.

At inference the timestep is always 1000 and the prompt always the default one. So the time and pooled embedding, each
block's adaptive shift, scale and gate, and the last norm's are constants: shift and scale are buffers of the norms, a
gate is multiplied into the projection before it, and the modules that computed them are removed, as is the context
embedder (its output is constant too). Nothing is approximated: the result equals `SD3Transformer2DModel` up to float
rounding. `tsdsr.inference.networks.fold` computes the weights.

A compressed student has no prompt tokens, L = 0, and no text half in its blocks.

Legend: B batch, C latent channels, h w latent rows and columns, N image tokens, L prompt tokens, D width.

Source: TinySR, arXiv 2508.17434, Sec. 3 (its caching, here without its pruning); SD3, arXiv 2403.03206.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

_EPS = 1e-6  # of every norm in SD3


class ConstantNorm(nn.Module):
    """A layer's norm with a constant scale and shift, which are buffers, not trained parameters."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(dim))
        self.register_buffer("bias", torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, _EPS)


class JointAttention(nn.Module):
    """Attention of image and prompt tokens over both, with one fused projection for each kind.

    Args:
        context: "full" (prompt tokens are updated), "read" (the last block: they are only read), "none" (image only).
    """

    def __init__(self, dim: int, heads: int, *, context: str, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.context = context
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        head_dim = dim // heads
        self.norm_q = nn.RMSNorm(head_dim, eps=_EPS) if qk_norm else None
        self.norm_k = nn.RMSNorm(head_dim, eps=_EPS) if qk_norm else None
        if context != "none":
            self.qkv_context = nn.Linear(dim, (3 if context == "full" else 2) * dim)
            self.norm_q_context = nn.RMSNorm(head_dim, eps=_EPS) if qk_norm and context == "full" else None
            self.norm_k_context = nn.RMSNorm(head_dim, eps=_EPS) if qk_norm else None
        if context == "full":
            self.out_context = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x (B, N, D), context (B, L, D) -> the update of each; None for a context that is not updated."""
        tokens = x.shape[1]
        query, key, value = self._split(self.qkv(x), 3)
        query, key = _normed(query, self.norm_q), _normed(key, self.norm_k)
        if self.context == "full":
            query_c, key_c, value_c = self._split(self.qkv_context(context), 3)
            query = torch.cat([query, _normed(query_c, self.norm_q_context)], 2)
        elif self.context == "read":
            key_c, value_c = self._split(self.qkv_context(context), 2)
        if self.context != "none":
            key = torch.cat([key, _normed(key_c, self.norm_k_context)], 2)
            value = torch.cat([value, value_c], 2)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        if self.context == "full":
            return self.out(mixed[:, :tokens]), self.out_context(mixed[:, tokens:])
        return self.out(mixed), None

    def _split(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, N, parts * D) -> parts of (B, heads, N, D / heads)."""
        return projected.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def _normed(x: Tensor, norm: nn.Module | None) -> Tensor:
    return x if norm is None else norm(x)


class FeedForward(nn.Sequential):
    """Linear -> GELU (tanh) -> Linear, four times as wide inside."""

    def __init__(self, dim: int) -> None:
        super().__init__(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))


class Block(nn.Module):
    """One joint transformer block with constant modulation: in its norms, with its gates in `out` and `ff`.

    Args:
        context: as in `JointAttention`.
    """

    def __init__(self, dim: int, heads: int, *, context: str, dual: bool, qk_norm: bool) -> None:
        super().__init__()
        self.norm1 = ConstantNorm(dim)
        self.norm1_context = None if context == "none" else ConstantNorm(dim)
        self.attn = JointAttention(dim, heads, context=context, qk_norm=qk_norm)
        self.norm_dual = ConstantNorm(dim) if dual else None
        self.attn_dual = JointAttention(dim, heads, context="none", qk_norm=qk_norm) if dual else None
        self.norm2 = ConstantNorm(dim)
        self.ff = FeedForward(dim)
        self.norm2_context = ConstantNorm(dim) if context == "full" else None
        self.ff_context = FeedForward(dim) if context == "full" else None

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Image tokens (B, N, D) and prompt tokens (B, L, D) -> both, updated."""
        told = None if self.norm1_context is None else self.norm1_context(context)
        change, change_context = self.attn(self.norm1(x), told)
        if self.norm_dual is not None and self.attn_dual is not None:
            change = change + self.attn_dual(self.norm_dual(x), None)[0]
        x = x + change
        x = x + self.ff(self.norm2(x))
        if change_context is not None and self.norm2_context is not None and self.ff_context is not None:
            context = context + change_context
            context = context + self.ff_context(self.norm2_context(context))
        return x, context


class StreamlinedTransformer(ModelMixin, ConfigMixin):
    """The one-step student's transformer with constant time and prompt: latents -> velocity.

    Args:
        in_channels: latent channels, in and out.
        patch_size: latents per token along a side.
        num_layers, num_heads, head_dim: of the joint blocks.
        context_length: prompt tokens; 0 = blocks without a text half.
        sample_size: latents along a side of the training size, the maximum of automatic tiles.
        pos_embed_max_size: tokens along a side of the positional table.
        dual_attention_layers: blocks with a second, image-only attention (SD3.5).
        qk_norm: whether queries and keys are RMS-normalised (SD3.5).
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int,
        patch_size: int,
        num_layers: int,
        num_heads: int,
        head_dim: int,
        context_length: int,
        sample_size: int,
        pos_embed_max_size: int,
        dual_attention_layers: tuple[int, ...] = (),
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        dim = num_heads * head_dim
        self.patch_size = patch_size
        self.max_tokens = pos_embed_max_size
        self.embed = nn.Conv2d(in_channels, dim, patch_size, patch_size)
        # Sine and cosine positions are separable: half of the width depends on the column, half on the row.
        self.register_buffer("column_positions", torch.zeros(pos_embed_max_size, dim // 2))
        self.register_buffer("row_positions", torch.zeros(pos_embed_max_size, dim // 2))
        self.register_buffer("context", torch.zeros(context_length, dim))
        self.blocks = nn.ModuleList(
            Block(
                dim,
                num_heads,
                context="none" if not context_length else "read" if index == num_layers - 1 else "full",
                dual=index in dual_attention_layers,
                qk_norm=qk_norm,
            )
            for index in range(num_layers)
        )
        self.norm_out = ConstantNorm(dim)
        self.proj_out = nn.Linear(dim, patch_size**2 * in_channels)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w), h and w multiples of the patch size -> velocity, the same shape."""
        patches = self.embed(latents)  # [B,D,h/p,w/p]
        rows, columns = patches.shape[-2:]
        x = patches.flatten(2).transpose(1, 2) + self._positions(rows, columns)
        context = self.context.expand(latents.shape[0], -1, -1)
        for block in self.blocks:
            x, context = block(x, context)
        x = self.proj_out(self.norm_out(x))  # [B,N,p*p*C]
        p = self.patch_size
        x = x.unflatten(2, (p, p, -1)).unflatten(1, (rows, columns))  # [B,rows,columns,p,p,C]
        return x.permute(0, 5, 1, 3, 2, 4).reshape(latents.shape[0], -1, rows * p, columns * p)

    def _positions(self, rows: int, columns: int) -> Tensor:
        """(rows * columns, D): the centre of the position table, as SD3 crops it."""
        # (max - n) // 2 without a negative dividend, which ONNX rounds differently
        top, left = (self.max_tokens // 2 - (n + 1 - self.max_tokens % 2) // 2 for n in (rows, columns))
        across = self.column_positions[left : left + columns]
        down = self.row_positions[top : top + rows]
        return torch.cat([across[None].expand(rows, -1, -1), down[:, None].expand(-1, columns, -1)], dim=-1).flatten(
            0, 1
        )
