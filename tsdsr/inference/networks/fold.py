"""Make a `StreamlinedTransformer` from an `SD3Transformer2DModel`, a timestep and a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tsdsr.inference.networks.streamlined import StreamlinedTransformer
from tsdsr.models.prompt import Prompt
from tsdsr.models.student import STUDENT_TIMESTEP

if TYPE_CHECKING:
    from diffusers import SD3Transformer2DModel

Weights = dict[str, Tensor]


def streamline(transformer: SD3Transformer2DModel, prompt: Prompt) -> StreamlinedTransformer:
    """Fold timestep 1000 and the prompt into the weights.

    Args:
        transformer: adapters merged (`merge_adapter`). It is consumed: each block is released when it has been
            converted, so that the two models are never in memory together.
        prompt: the default prompt's embeddings; without tokens (L = 0), blocks have no text half.

    Returns:
        a model of the same dtype on the same device, in evaluation mode. The folding is computed in float32.

    Raises:
        ValueError: the transformer's positions are not SD3's separable table.
    """
    with torch.no_grad(), torch.device("meta"):
        result = StreamlinedTransformer(**_config(transformer, prompt))
    with torch.no_grad():
        weights = _ends(transformer, prompt)
        temb = _time_embedding(transformer, prompt)
        count = len(transformer.transformer_blocks)
        weights |= _affine("norm_out", *_scale_shift(transformer.norm_out, temb))
        for index in range(count):
            block = _image_half(transformer.transformer_blocks[index], temb)
            if len(prompt.embeds):
                block |= (_read_context if index == count - 1 else _context)(
                    transformer.transformer_blocks[index], temb
                )
            weights |= {f"blocks.{index}.{key}": value for key, value in block.items()}
            transformer.transformer_blocks[index] = nn.Identity()
    dtype, device = transformer.dtype, transformer.device
    result.load_state_dict({key: value.to(device, dtype).contiguous() for key, value in weights.items()}, assign=True)
    return result.eval().requires_grad_(False)


def _config(transformer: SD3Transformer2DModel, prompt: Prompt) -> dict[str, Any]:
    config = transformer.config
    return {
        "in_channels": config.in_channels,
        "patch_size": config.patch_size,
        "num_layers": config.num_layers,
        "num_heads": config.num_attention_heads,
        "head_dim": config.attention_head_dim,
        "context_length": prompt.embeds.shape[0],
        "sample_size": config.sample_size,
        "pos_embed_max_size": config.pos_embed_max_size,
        "dual_attention_layers": tuple(config.dual_attention_layers or ()),
        "qk_norm": config.qk_norm is not None,
    }


def _ends(transformer: SD3Transformer2DModel, prompt: Prompt) -> Weights:
    """Everything outside of the blocks except for the last norm."""
    columns, rows = _separate(transformer.pos_embed)
    context = _linear(transformer.context_embedder, prompt.embeds)
    return {
        "embed.weight": transformer.pos_embed.proj.weight,
        "embed.bias": transformer.pos_embed.proj.bias,
        "column_positions": columns,
        "row_positions": rows,
        "context": context,
        "proj_out.weight": transformer.proj_out.weight,
        "proj_out.bias": transformer.proj_out.bias,
    }


def _separate(embed: Any) -> tuple[Tensor, Tensor]:
    """SD3's position table as its column half and its row half."""
    side = embed.pos_embed_max_size
    table = embed.pos_embed.reshape(side, side, -1)
    half = table.shape[-1] // 2
    columns, rows = table[0, :, :half], table[:, 0, half:]
    if not (torch.equal(table[..., :half], columns[None].expand(side, -1, -1))
            and torch.equal(table[..., half:], rows[:, None].expand(-1, side, -1))):  # fmt: skip
        raise ValueError("the transformer's position table is not a separable sine-cosine table")
    return columns, rows


def _time_embedding(transformer: SD3Transformer2DModel, prompt: Prompt) -> Tensor:
    """silu(temb), (1, D), the input of every modulation."""
    embed = transformer.time_text_embed.float()
    pooled = prompt.pooled[None].to(transformer.device, torch.float32)
    temb = embed(torch.full((1,), STUDENT_TIMESTEP, device=transformer.device), pooled)
    return nn.functional.silu(temb)


def _image_half(block: Any, temb: Tensor) -> Weights:
    """The image tokens' half of a `JointTransformerBlock`."""
    modulation = _linear(block.norm1.linear, temb)[0]
    shift, scale, gate, shift_ff, scale_ff, gate_ff, *dual = modulation.chunk(9 if block.use_dual_attention else 6)
    weights = _affine("norm1", scale, shift) | _affine("norm2", scale_ff, shift_ff)
    weights |= _image_attention("attn", block.attn, gate) | _feed_forward("ff", block.ff, gate_ff)
    if dual:
        weights |= _affine("norm_dual", dual[1], dual[0]) | _image_attention("attn_dual", block.attn2, dual[2])
    return weights


def _context(block: Any, temb: Tensor) -> Weights:
    """The prompt's half of a block that updates it."""
    shift, scale, gate, shift_ff, scale_ff, gate_ff = _linear(block.norm1_context.linear, temb)[0].chunk(6)
    attn = block.attn
    weights = _affine("norm1_context", scale, shift) | _affine("norm2_context", scale_ff, shift_ff)
    weights |= _stack("attn.qkv_context", attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
    weights |= _gated("attn.out_context", attn.to_add_out, gate) | _feed_forward(
        "ff_context", block.ff_context, gate_ff
    )
    if attn.norm_added_q is not None:
        weights["attn.norm_q_context.weight"] = attn.norm_added_q.weight
        weights["attn.norm_k_context.weight"] = attn.norm_added_k.weight
    return weights


def _read_context(block: Any, temb: Tensor) -> Weights:
    """The prompt's half of the last block: its tokens are keys and values only."""
    attn = block.attn
    weights = _affine("norm1_context", *_scale_shift(block.norm1_context, temb))
    weights |= _stack("attn.qkv_context", attn.add_k_proj, attn.add_v_proj)
    if attn.norm_added_k is not None:
        weights["attn.norm_k_context.weight"] = attn.norm_added_k.weight
    return weights


def _image_attention(name: str, attn: Any, gate: Tensor) -> Weights:
    weights = _stack(f"{name}.qkv", attn.to_q, attn.to_k, attn.to_v) | _gated(f"{name}.out", attn.to_out[0], gate)
    if attn.norm_q is not None:
        weights |= {f"{name}.norm_q.weight": attn.norm_q.weight, f"{name}.norm_k.weight": attn.norm_k.weight}
    return weights


def _feed_forward(name: str, ff: Any, gate: Tensor) -> Weights:
    first = ff.net[0].proj
    return {f"{name}.0.weight": first.weight, f"{name}.0.bias": first.bias} | _gated(f"{name}.2", ff.net[2], gate)


def _linear(layer: Any, x: Tensor) -> Tensor:
    """The layer's output in float32."""
    return nn.functional.linear(x.to(layer.weight.device, torch.float32), layer.weight.float(), layer.bias.float())


def _scale_shift(norm: Any, temb: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift of an `AdaLayerNormContinuous`, in its order."""
    scale, shift = _linear(norm.linear, temb)[0].chunk(2)
    return scale, shift


def _affine(name: str, scale: Tensor, shift: Tensor) -> Weights:
    """norm(x) (1 + scale) + shift, as an affine LayerNorm."""
    return {f"{name}.weight": 1 + scale, f"{name}.bias": shift}


def _gated(name: str, layer: Any, gate: Tensor) -> Weights:
    """gate (W x + b)."""
    return {f"{name}.weight": gate[:, None] * layer.weight.float(), f"{name}.bias": gate * layer.bias.float()}


def _stack(name: str, *layers: Any) -> Weights:
    """Several projections of one input as one."""
    return {
        f"{name}.weight": torch.cat([layer.weight for layer in layers]),
        f"{name}.bias": torch.cat([layer.bias for layer in layers]),
    }
