"""Options, Expansion-Corrosion and the size of the search space."""

from __future__ import annotations

from itertools import product
from math import comb

import pytest
import torch

from tsdsr.compression.gates import BlockGates
from tsdsr.compression.masks import SHIFT, candidates, corroded_and_expanded, marginals, options


def test_options_are_all_masks_of_that_many_blocks():
    masks = options(4, 2)
    assert masks.shape == (6, 4)
    assert (masks.sum(1) == 2).all()
    assert len({tuple(mask) for mask in masks.tolist()}) == 6
    for keep in (0, 4):
        with pytest.raises(ValueError, match="at least 1 and at most 3"):
            options(4, keep)


@pytest.mark.parametrize("expansion", ["marginal", "best_option"])
@pytest.mark.parametrize("keep", [1, 2, 3])
def test_corrosion_takes_one_kept_block_and_expansion_adds_one_absent_block(expansion, keep):
    masks = options(4, keep)
    for seed, mask in enumerate(masks):
        logits = torch.randn(len(masks), generator=torch.Generator().manual_seed(seed))
        fewer, more = corroded_and_expanded(mask, logits, masks, expansion)
        assert fewer.sum() == keep - 1
        assert more.sum() == keep + 1
        assert (fewer <= mask).all()
        assert (mask <= more).all()


def test_the_marginal_rule_drops_the_least_probable_block_and_adds_the_most_probable_absent_one():
    masks = options(4, 2)
    logits = torch.tensor([0.1, 2.0, -1.0, 0.5, 0.3, 0.0])
    mask = masks[0]  # blocks 0 and 1
    pi = [sum(p for p, m in zip(logits.softmax(0).tolist(), masks.tolist(), strict=True) if m[i]) for i in range(4)]
    assert marginals(logits.softmax(0), masks).tolist() == pytest.approx(pi)
    fewer, more = corroded_and_expanded(mask, logits, masks, "marginal")
    assert fewer.nonzero().flatten().tolist() == [max((0, 1), key=lambda i: pi[i])]
    assert set(more.nonzero().flatten().tolist()) == {0, 1, max((2, 3), key=lambda i: pi[i])}


def test_the_best_option_rule_takes_the_likeliest_option_that_shares_a_block():
    masks = options(4, 2)
    logits = torch.tensor([9.0, 1.0, 2.0, 0.0, -1.0, 8.0])  # the last, {2, 3}, shares nothing with {0, 1}
    first, second = candidates(masks[0], logits, masks, "best_option")
    assert torch.equal(first, masks[2])  # {0, 3}
    assert torch.equal(first, second)


def test_the_candidate_has_no_gradient_and_the_mask_has():
    masks = options(4, 2)
    mask, logits = masks[1].clone().requires_grad_(), torch.zeros(6, requires_grad=True)
    fewer, more = corroded_and_expanded(mask, logits, masks, "marginal")
    (fewer.sum() + more.sum()).backward()
    assert mask.grad is not None
    assert logits.grad is None


def search_space(groups: int, blocks: int, keep: int) -> dict[str, int]:
    """The number of masks: with fixed groups, with Dynamic Inter-block Activation, and without groups.

    A pair of neighbours keeps `keep` blocks in each, or one fewer in the first and one more in the second, or the
    reverse; a last group without a neighbour keeps `keep`.
    """
    fixed = comb(blocks, keep)
    pair = fixed**2 + 2 * comb(blocks, keep - SHIFT) * comb(blocks, keep + SHIFT)
    return {
        "fixed": fixed**groups,
        "dynamic": pair ** (groups // 2) * fixed ** (groups % 2),
        "all": comb(groups * blocks, groups * keep),
    }


def test_the_search_space_of_sd3_is_the_papers_and_pairs_reach_more(capsys):
    sizes = search_space(groups=6, blocks=4, keep=2)
    assert sizes["fixed"] == 46_656
    assert sizes["all"] == 2_704_156
    assert sizes["fixed"] / sizes["all"] == pytest.approx(0.01725, abs=5e-6)
    assert sizes["dynamic"] == 68**3
    print(f"masks of 12 of 24 blocks: {sizes}")


@pytest.mark.parametrize("expansion", ["marginal", "best_option"])
def test_a_pair_of_gates_reaches_as_many_masks_as_are_counted(expansion):
    """By drawing at random logits: those of 4 + 4 blocks, 2 kept in each, are 36 + 16 + 16."""
    gates, reached, generator = BlockGates(8, 4, 2, expansion=expansion), set(), torch.Generator().manual_seed(0)
    for _ in range(3000):
        torch.nn.init.normal_(gates.p, std=0.02, generator=generator)
        torch.nn.init.normal_(gates.q, std=0.02, generator=generator)
        reached.add(tuple(gates(4.0, generator).round().int().tolist()))
        if len(reached) == 68:
            break
    allowed = {m for m in product((0, 1), repeat=8) if sum(m) == 4 and 1 <= sum(m[:4]) <= 3}
    assert reached == allowed
    assert len(reached) == search_space(2, 4, 2)["dynamic"]
