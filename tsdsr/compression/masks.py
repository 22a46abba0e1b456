"""The masks of the blocks that a group keeps, and those with fewer or more blocks (Expansion-Corrosion).

A group of n neighbouring blocks keeps `keep` of them: an option is a mask m of {0, 1}^n with that many ones. From m,
corrosion makes m- with `shift` blocks fewer and expansion m+ with as many more:

    m- = m m_hat,    m+ = clamp(m + m_hat, 0, 1)

The candidate m_hat has no gradient; m- and m+ pass m's on.

Legend: O options of a group, n blocks of a group.

Source: TinySR, arXiv 2508.17434, Sec. 3.1; `best_option` as in its released model.
"""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import Literal

import torch
from torch import Tensor

Expansion = Literal["marginal", "best_option"]
SHIFT = 1  # k: the blocks that one group gives up and its neighbour gains


def options(blocks: int, keep: int) -> Tensor:
    """All masks of `blocks` blocks with `keep` ones, (O, n) in float32, in lexical order of the kept blocks.

    Raises:
        ValueError: unless 1 <= keep < blocks: a group must be able to give up one block, and to gain one.
    """
    if not 1 <= keep < blocks:
        raise ValueError(f"a group of {blocks} blocks must keep at least 1 and at most {blocks - 1}, found {keep}")
    masks = torch.zeros(comb(blocks, keep), blocks)
    for row, kept in enumerate(combinations(range(blocks), keep)):
        masks[row, list(kept)] = 1
    return masks


def marginals(probabilities: Tensor, masks: Tensor) -> Tensor:
    """pi_i, the sum of p(m) over the masks with m_i = 1: (..., O) and (O, n) -> (..., n)."""
    return probabilities @ masks


def candidates(mask: Tensor, logits: Tensor, masks: Tensor, expansion: Expansion) -> tuple[Tensor, Tensor]:
    """m_hat for m- and for m+, each (n,), without gradient.

    Args:
        mask: (n,), the mask that was drawn. logits: (O,), the group's own. masks: (O, n), `options`.
        expansion: `marginal`, the paper's text: m- loses the kept block of the smallest pi, m+ gains the absent one of
            the largest. `best_option`, the released code: one candidate for both, the option of the highest logit
            among those that differ from m in one block.
    """
    mask = mask.detach().round()
    if expansion == "best_option":
        shared = masks @ mask
        neighbours = shared == mask.sum() - SHIFT
        best = logits.detach().masked_fill(~neighbours, -torch.inf).argmax(0, keepdim=True)
        return masks[best][0], masks[best][0]
    pi = marginals(logits.detach().softmax(-1), masks)
    least = pi.masked_fill(mask == 0, torch.inf).argmin(0, keepdim=True)
    most = pi.masked_fill(mask == 1, -torch.inf).argmax(0, keepdim=True)
    return mask.scatter(0, least, 0.0), torch.zeros_like(mask).scatter(0, most, 1.0)


def corroded_and_expanded(mask: Tensor, logits: Tensor, masks: Tensor, expansion: Expansion) -> tuple[Tensor, Tensor]:
    """m- and m+ of a mask, (n,) each; differentiable in `mask`. Arguments as `candidates`."""
    fewer, more = candidates(mask, logits, masks, expansion)
    return mask * fewer, (mask + more).clamp(0, 1)
