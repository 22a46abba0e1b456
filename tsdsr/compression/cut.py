"""Cut a transformer: make a plain SD3 transformer with some of the source's blocks and their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tsdsr.models.prompt import Prompt

if TYPE_CHECKING:
    from diffusers import SD3Transformer2DModel

_TEXT_UPDATE = ("attn.to_add_out.", "ff_context.", "norm1_context.")  # parts of blocks that update the text


def without_text(prompt: Prompt) -> Prompt:
    """The prompt without its tokens, L = 0: attention is then over image tokens alone, in any SD3 transformer.

    The pooled embedding stays; it is part of the modulation.
    """
    return Prompt(prompt.embeds[:0], prompt.pooled)


def cut(transformer: SD3Transformer2DModel, blocks: Sequence[int]) -> SD3Transformer2DModel:
    """A new transformer with these blocks only, in order; weights are copied, nothing is shared.

    SD3's last block does not update the text and lacks those parts. If another block becomes the last, its parts are
    left out; its output for the image is unchanged.

    Args:
        transformer: without adapters. blocks: ascending indices of its blocks.
    """
    from diffusers import SD3Transformer2DModel

    config = {key: value for key, value in transformer.config.items() if not key.startswith("_")}  # where it came from
    duals = tuple(config.get("dual_attention_layers") or ())
    config |= {
        "num_layers": len(blocks),
        "dual_attention_layers": tuple(new for new, old in enumerate(blocks) if old in duals),
    }
    with torch.device("meta"):
        result = SD3Transformer2DModel.from_config(config)
    source, weights = transformer.state_dict(), {}
    for key, value in source.items():
        if not key.startswith("transformer_blocks."):
            weights[key] = value
    last = len(transformer.transformer_blocks) - 1
    for new, old in enumerate(blocks):
        prefix = f"transformer_blocks.{old}."
        block = {key.removeprefix(prefix): value for key, value in source.items() if key.startswith(prefix)}
        if new == len(blocks) - 1 and old != last:
            block = _as_last(block, result.inner_dim)
        weights |= {f"transformer_blocks.{new}.{key}": value for key, value in block.items()}
    result.load_state_dict({key: value.detach().clone() for key, value in weights.items()}, assign=True)
    return result.eval().requires_grad_(False)


def _as_last(block: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    """A block's weights in the form of the last one: of the text's modulation only shift and scale, in that norm's
    order (scale, shift), and no way from attention back to the text."""
    kept = {key: value for key, value in block.items() if not key.startswith(_TEXT_UPDATE)}
    for part in ("weight", "bias"):
        shift, scale = block[f"norm1_context.linear.{part}"].split(width)[:2]
        kept[f"norm1_context.linear.{part}"] = torch.cat([scale, shift])
    return kept
