"""The learnt gates: constant budgets, gradients, what they do to a network, and what they find."""

from __future__ import annotations

import copy

import pytest
import torch

from tsdsr.compression.cut import cut
from tsdsr.compression.gates import BlockGates, gated, gumbel_softmax
from tsdsr.models import presets
from tsdsr.models.prompt import Prompt
from tsdsr.models.student import Student


@pytest.fixture(scope="module")
def transformer():
    return presets.build_transformer(presets.get("tiny"), seed=0).eval().requires_grad_(False)


def inputs(seed=0, side=8):
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(2, 16, side, side, generator=draw)
    return z, Prompt(torch.randn(8, 64, generator=draw), torch.randn(64, generator=draw))


def predict(transformer, z, prompt):
    return Student(None, transformer, use_shift=False).predict(z, prompt)


@pytest.mark.parametrize("expansion", ["marginal", "best_option"])
def test_every_draw_keeps_the_number_of_blocks_of_a_pair(expansion):
    gates, generator = BlockGates(24, 4, 2, expansion=expansion), torch.Generator().manual_seed(0)
    counts = set()
    for _ in range(200):
        mask = gates(1.0, generator)
        assert set(mask.round().tolist()) <= {0.0, 1.0}
        groups = mask.round().view(6, 4).sum(1).int().tolist()
        assert all(first + second == 4 for first, second in zip(groups[::2], groups[1::2], strict=True))
        counts |= set(groups)
    assert counts == {1, 2, 3}


def test_fixed_groups_keep_their_own_number():
    gates, generator = BlockGates(24, 4, 2, dynamic=False), torch.Generator().manual_seed(0)
    for _ in range(50):
        assert (gates(4.0, generator).round().view(6, 4).sum(1) == 2).all()


def test_gradients_reach_p_and_q():
    gates = BlockGates(8, 4, 2)
    (gates(4.0, torch.Generator().manual_seed(0)) * torch.randn(8)).sum().backward()
    assert gates.p.grad.abs().sum(1).min() > 0
    assert gates.q.grad.abs().sum() > 0


def test_gumbel_softmax_draws_by_the_logits_probabilities():
    logits, generator = torch.tensor([0.0, 1.0, 2.0]), torch.Generator().manual_seed(0)
    draws = gumbel_softmax(logits.expand(20_000, 3), 0.5, generator)
    assert (draws.sum(1) - 1).abs().max() < 1e-5
    assert draws.mean(0).tolist() == pytest.approx(logits.softmax(0).tolist(), abs=0.02)


def test_a_gated_network_is_the_cut_one(transformer):
    z, prompt = inputs()
    for kept in ([0, 3], [1, 2], [2]):
        mask = torch.zeros(4)
        mask[kept] = 1
        with gated(transformer, mask):
            found = predict(transformer, z, prompt)
        expected = predict(cut(transformer, kept), z, prompt)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    whole = predict(transformer, z, prompt)
    with gated(transformer, torch.ones(4)):
        torch.testing.assert_close(predict(transformer, z, prompt), whole)


def test_gates_work_under_gradient_checkpointing(transformer):
    transformer = copy.deepcopy(transformer)
    z, prompt = inputs()
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            transformer.train().enable_gradient_checkpointing()
        mask = torch.tensor([1.0, 0.0, 1.0, 0.0], requires_grad=True)
        with gated(transformer, mask):
            predict(transformer, z.requires_grad_(), prompt).pow(2).mean().backward()
        found.append(mask.grad)
    assert found[0].abs().min() > 0
    torch.testing.assert_close(*found)


def search(wanted, *, dynamic, steps=400):
    """Blocks that gates keep which are trained to match `wanted`, as a restoration would: an error for each block."""
    torch.manual_seed(0)
    gates = BlockGates(8, 4, 2, dynamic=dynamic)
    optimizer = torch.optim.AdamW(gates.parameters(), lr=5e-4, weight_decay=0.0)
    target = torch.zeros(8)
    target[wanted] = 1
    for step in range(steps):
        optimizer.zero_grad()
        tau = 4 + (0.1 - 4) * step / (steps - 1)
        mask = gates(tau, torch.Generator().manual_seed(step))
        (mask - target).pow(2).sum().backward()
        optimizer.step()
    return gates.kept()


def test_dynamic_pairs_find_a_mask_that_fixed_groups_cannot():
    """The best mask keeps 3 of the first four blocks and 1 of the second."""
    wanted = [0, 1, 3, 6]
    assert search(wanted, dynamic=True) == wanted
    fixed = search(wanted, dynamic=False)
    assert len(fixed) == 4
    assert sum(block < 4 for block in fixed) == 2


def test_dynamic_pairs_find_a_mask_of_fixed_groups_too():
    assert search([1, 2, 4, 7], dynamic=True) == [1, 2, 4, 7]


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="10 blocks cannot be cut into groups of 4"):
        BlockGates(10, 4, 2)
