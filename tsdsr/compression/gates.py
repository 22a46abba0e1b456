"""Learnt depth: hard gates with gradients that choose the blocks of a transformer to keep.

    x_{i+1} = m_i block_i(x_i) + (1 - m_i) x_i

Each group of blocks has a logit for each of its options, p. Each pair of neighbouring groups (j, j+1) has three logits
q over {m-, m, m+} (Dynamic Inter-block Activation): with one draw, group j takes q . (m-, m, m+) and group j + 1
q . (m+, m, m-), so that the pair's number of blocks never changes. Draws are Gumbel-softmax, hard, straight through.

Legend: G groups, n blocks of a group, N = G n blocks, O options of a group, P = G // 2 pairs.

Source: TinySR, arXiv 2508.17434, Sec. 3.1; the temperature, the factor of the logits and the averaged gates as the
published description of its search gives them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tsdsr.compression.masks import SHIFT, Expansion, corroded_and_expanded, marginals, options

if TYPE_CHECKING:
    from diffusers import SD3Transformer2DModel

LOGIT_FACTOR = 100.0  # so that small optimiser steps change the probabilities
START = 0.02
SHIFTS = (-SHIFT, 0, SHIFT)  # of the first group of a pair, in q's order


class BlockGates(nn.Module):
    """The logits of groups and pairs.

    Args:
        blocks: N. group_size: n, which must divide N. keep: blocks that a group keeps.
        expansion: see `masks.candidates`.
        dynamic: whether pairs may shift a block; otherwise every group keeps `keep`.

    Raises:
        ValueError: the groups do not fit.
    """

    masks: Tensor

    def __init__(
        self, blocks: int, group_size: int, keep: int, *, expansion: Expansion = "marginal", dynamic: bool = True
    ) -> None:
        super().__init__()
        if blocks % group_size:
            raise ValueError(f"{blocks} blocks cannot be cut into groups of {group_size}")
        self.groups, self.group_size, self.keep, self.expansion = blocks // group_size, group_size, keep, expansion
        self.register_buffer("masks", options(group_size, keep), persistent=False)
        self.p = nn.Parameter(torch.full((self.groups, len(self.masks)), START))
        pairs = self.groups // 2 if dynamic else 0
        self.q = nn.Parameter(torch.full((pairs, len(SHIFTS)), START))

    def forward(self, temperature: float, generator: torch.Generator) -> Tensor:
        """One draw of the mask of all blocks, (N,); its gradient reaches p and q.

        Args:
            temperature: tau > 0 of the Gumbel-softmax. generator: on the CPU, of the draw.
        """
        drawn = gumbel_softmax(LOGIT_FACTOR * self.p, temperature, generator) @ self.masks  # [G,n]
        rows = list(drawn.unbind())
        if len(self.q):
            shares = gumbel_softmax(LOGIT_FACTOR * self.q, temperature, generator)  # [P,3]
            for pair, share in enumerate(shares):
                first, second = 2 * pair, 2 * pair + 1
                forms = [self._forms(rows[group], group) for group in (first, second)]  # each [3,n]
                rows[first], rows[second] = share @ forms[0], share @ forms[1].flip(0)
        return torch.cat(rows)

    def _forms(self, mask: Tensor, group: int) -> Tensor:
        """(m-, m, m+), (3, n)."""
        fewer, more = corroded_and_expanded(mask, LOGIT_FACTOR * self.p[group], self.masks, self.expansion)
        return torch.stack([fewer, mask, more])

    @torch.no_grad()
    def marginals(self) -> Tensor:
        """pi, (N,): the probability of keeping each block, before pairs shift any."""
        return marginals((LOGIT_FACTOR * self.p).softmax(-1), self.masks).flatten()

    @torch.no_grad()
    def kept(self) -> list[int]:
        """The decision: argmax q gives the number of blocks of each group, the largest pi the blocks; indices in
        order."""
        counts = [self.keep] * self.groups
        for pair, logits in enumerate(self.q.tolist()):
            shift = max(zip(logits, SHIFTS, strict=True), key=lambda item: (item[0], -abs(item[1])))[1]
            counts[2 * pair] += shift
            counts[2 * pair + 1] -= shift
        pi = self.marginals().view(self.groups, self.group_size)
        return sorted(
            group * self.group_size + block
            for group, count in enumerate(counts)
            for block in pi[group].argsort(descending=True, stable=True)[:count].tolist()
        )


def gumbel_softmax(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Hard samples (..., O) along the last axis, one-hot in value, with the soft ones' gradient."""
    uniform = torch.rand(logits.shape, generator=generator).clamp(min=1e-20).to(logits, non_blocking=True)
    soft = ((logits - (-uniform.log()).log()) / temperature).softmax(-1)
    hard = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
    return hard - soft.detach() + soft


@contextmanager
def gated(transformer: SD3Transformer2DModel, mask: Tensor) -> Iterator[None]:
    """Within the `with`, each of the transformer's blocks is interpolated with the identity by `mask` (N,).

    This applies to image and text tokens; the last block does not update the text. A block with gate 0 runs too, for
    its gate's gradient.
    """
    blocks = transformer.transformer_blocks
    hooks = [
        block.register_forward_hook(_gate(weight), with_kwargs=True) for block, weight in zip(blocks, mask, strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _gate(weight: Tensor) -> Any:
    def hook(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: tuple[Any, Tensor]) -> Any:
        given = dict(zip(("hidden_states", "encoder_hidden_states"), args, strict=False)) | kwargs
        text, image = output
        image = _mixed(weight, image, given["hidden_states"])
        return text if text is None else _mixed(weight, text, given["encoder_hidden_states"]), image

    return hook


def _mixed(weight: Tensor, output: Tensor, given: Tensor) -> Tensor:
    weight = weight.to(output)
    return weight * output + (1 - weight) * given
