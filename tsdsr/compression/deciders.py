"""Deciders without training: they choose the blocks to keep by a score, by position, or from a given list.

Legend: N blocks, R rows, C h w latent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tsdsr import seeding
from tsdsr.compression.decision import Decision
from tsdsr.compression.gates import BlockGates, gated
from tsdsr.errors import UserError

if TYPE_CHECKING:
    from diffusers import SD3Transformer2DModel

Predict = Callable[[], Tensor]
"""The transformer's velocity on a few fixed samples; any shape."""


@torch.no_grad()
def magnitude(transformer: SD3Transformer2DModel, predict: Predict, seed: int) -> list[float]:
    """The mean absolute weight of each block."""
    return [
        float(torch.cat([parameter.flatten() for parameter in block.parameters()]).abs().mean())
        for block in transformer.transformer_blocks
    ]


@torch.no_grad()
def sensitivity(transformer: SD3Transformer2DModel, predict: Predict, seed: int) -> list[float]:
    """The mean squared change of the velocity when only this block is left out."""
    whole, count = predict(), len(transformer.transformer_blocks)
    scores = []
    for block in range(count):
        mask = torch.ones(count)
        mask[block] = 0
        with gated(transformer, mask):
            scores.append(float((predict() - whole).pow(2).mean()))
    return scores


def first_last(transformer: SD3Transformer2DModel, predict: Predict, seed: int) -> list[float]:
    """The distance from the middle, which keeps the outer blocks."""
    count = len(transformer.transformer_blocks)
    return [abs(block - (count - 1) / 2) for block in range(count)]


def random(transformer: SD3Transformer2DModel, predict: Predict, seed: int) -> list[float]:
    """A random order."""
    generator = seeding.generator(seed, "compression", "decider")
    return torch.rand(len(transformer.transformer_blocks), generator=generator).tolist()


SCORES: dict[str, Callable[[SD3Transformer2DModel, Predict, int], list[float]]] = {
    "magnitude": magnitude,
    "sensitivity": sensitivity,
    "first_last": first_last,
    "random": random,
}


def scored(
    name: str, transformer: SD3Transformer2DModel, budget: int, predict: Predict, *, seed: int, source: str
) -> Decision:
    """The `budget` blocks with the highest scores; ties go to the earlier block.

    Args:
        name: of `SCORES`, or `uniform`: evenly spaced, the first and the last among them.

    Raises:
        UserError: the budget is not in 1..N, or the name is unknown.
    """
    count = len(transformer.transformer_blocks)
    _check_budget(budget, count)
    if name == "uniform":
        kept = torch.linspace(0, count - 1, budget).round().int().unique().tolist() if budget > 1 else [count // 2]
        scores = [float(block in kept) for block in range(count)]
    elif name in SCORES:
        scores = SCORES[name](transformer, predict, seed)
        kept = sorted(sorted(range(count), key=lambda block: -scores[block])[:budget])
    else:
        raise UserError(f"compress.decider: unknown {name!r}; known are learnt, given, uniform, {', '.join(SCORES)}")
    return Decision(name, tuple(kept), tuple(scores), (tuple(range(count)),), source)


def given(blocks: Sequence[int], count: int, *, source: str) -> Decision:
    """The given blocks, of `count`.

    Raises:
        UserError: an index does not exist or is given twice.
    """
    try:
        scores = tuple(float(block in blocks) for block in range(count))
        return Decision("given", tuple(sorted(blocks)), scores, (tuple(range(count)),), source)
    except ValueError as error:
        raise UserError(f"compress.blocks: {error}") from None


def learnt(gates: BlockGates, *, source: str) -> Decision:
    """The decision of trained gates."""
    size = gates.group_size
    groups = tuple(tuple(range(group * size, (group + 1) * size)) for group in range(gates.groups))
    return Decision("learnt", tuple(gates.kept()), tuple(gates.marginals().tolist()), groups, source)


def _check_budget(budget: int, count: int) -> None:
    if not 1 <= budget <= count:
        raise UserError(f"compress.budget: {budget} is outside of [1, {count}], the number of blocks")
