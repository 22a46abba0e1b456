"""A perceptual distance without its own weights: features of the frozen teacher's blocks, for latents with low noise.

As in LPIPS with a classifier's channels, each token's features are divided by their norm and then subtracted. The
teacher was trained on natural images, at low noise it represents detail, and it needs no download.

Legend: B batch, T tokens, D width of a block.

Source: the form is that of LPIPS (Zhang et al., arXiv 1801.03924) without its learnt channel weights; features of a
diffusion teacher as a distance: this project's own, for TSD-SR's Eq. (7) without LPIPS's network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def feature_distance(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """(B,): mean over blocks and tokens of the squared distance of unit vectors; in float32 or wider.

    Args:
        found, wanted: [B,T,D] a block, in the same order.
    """
    blocks = [
        (functional.normalize(_wide(a), dim=-1) - functional.normalize(_wide(b), dim=-1)).pow(2).sum(-1).mean(1)
        for a, b in zip(found, wanted, strict=True)
    ]
    return torch.stack(blocks).mean(0)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
