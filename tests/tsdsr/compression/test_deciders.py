"""Decisions: by score, by place, as told, and their file."""

from __future__ import annotations

import pytest
import torch

from tsdsr.compression import deciders
from tsdsr.compression.cut import cut
from tsdsr.compression.decision import Decision
from tsdsr.compression.gates import BlockGates
from tsdsr.errors import UserError
from tsdsr.models import presets
from tsdsr.models.prompt import Prompt
from tsdsr.models.student import Student


@pytest.fixture
def transformer():
    return presets.build_transformer(presets.get("tiny"), seed=0).eval().requires_grad_(False)


def decide(name, transformer, budget=2, seed=0):
    draw = torch.Generator().manual_seed(1)
    z, *prompt = (torch.randn(*shape, generator=draw) for shape in ((2, 16, 8, 8), (8, 64), (64,)))
    return deciders.scored(
        name,
        transformer,
        budget,
        lambda: Student(None, transformer, use_shift=False).predict(z, Prompt(*prompt)),
        seed=seed,
        source="abc",
    )


def test_each_decider_keeps_the_budget(transformer):
    for name in (*deciders.SCORES, "uniform"):
        for budget in (1, 2, 3, 4):
            decision = decide(name, transformer, budget)
            assert len(decision.blocks) == budget, name
            assert len(decision.scores) == 4, name
            assert decision.decider == name


def test_magnitude_keeps_the_blocks_of_larger_weights(transformer):
    for index in (1, 3):
        for parameter in transformer.transformer_blocks[index].parameters():
            parameter.mul_(3)
    assert decide("magnitude", transformer).blocks == (1, 3)


def test_sensitivity_drops_a_block_that_does_nothing(transformer):
    for index in (0, 2):  # its gates are zero: the image passes through
        transformer.transformer_blocks[index].norm1.linear.weight.zero_()
        transformer.transformer_blocks[index].norm1.linear.bias.zero_()
        transformer.transformer_blocks[index].norm1_context.linear.weight.zero_()
        transformer.transformer_blocks[index].norm1_context.linear.bias.zero_()
    decision = decide("sensitivity", transformer)
    assert decision.blocks == (1, 3)
    assert decision.scores[0] == pytest.approx(0, abs=1e-12)


def test_places(transformer):
    assert decide("first_last", transformer).blocks == (0, 3)
    assert decide("uniform", transformer).blocks == (0, 3)
    assert decide("uniform", transformer, 3).blocks == (0, 2, 3)
    assert decide("random", transformer).blocks == decide("random", transformer).blocks
    assert len({decide("random", transformer, seed=seed).blocks for seed in range(20)}) > 1


def test_users_errors_are_said(transformer):
    with pytest.raises(UserError, match=r"compress\.budget: 5 is outside of \[1, 4\]"):
        decide("magnitude", transformer, 5)
    with pytest.raises(UserError, match="unknown 'best'"):
        decide("best", transformer)
    for blocks in ([0, 4], [1, 1], []):
        with pytest.raises(UserError, match=r"compress\.blocks"):
            deciders.given(blocks, 4, source="abc")
    assert deciders.given([3, 0], 4, source="abc").blocks == (0, 3)


def test_a_decision_survives_its_file(tmp_path):
    gates = BlockGates(8, 4, 2)
    torch.nn.init.normal_(gates.p, std=0.01)
    decision = deciders.learnt(gates, source="abc")
    assert sum(decision.scores) == pytest.approx(4, abs=1e-4)
    assert decision.groups == ((0, 1, 2, 3), (4, 5, 6, 7))
    decision.write(tmp_path / "decision.json")
    assert Decision.read(tmp_path / "decision.json") == decision
    (tmp_path / "other.json").write_text('{"format": 1, "blocks": [0]}')
    for name in ("other.json", "absent.json"):
        with pytest.raises(UserError, match=name):
            Decision.read(tmp_path / name)


def test_a_cut_network_is_plain_and_its_own(transformer, tmp_path):
    from diffusers import SD3Transformer2DModel

    small = cut(transformer, [1, 2])
    small.save_pretrained(tmp_path)
    loaded = SD3Transformer2DModel.from_pretrained(tmp_path)
    assert loaded.config.num_layers == 2
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, small.state_dict()[name]), name
    before = transformer.proj_out.weight.clone()
    small.proj_out.weight.add_(1)
    assert torch.equal(transformer.proj_out.weight, before)
