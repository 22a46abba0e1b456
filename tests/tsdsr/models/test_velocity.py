from __future__ import annotations

import pytest
import torch

from tests.tiny import CHANNELS, random_prompt, randomize
from tsdsr import seeding
from tsdsr.models import adapters
from tsdsr.models.velocity import GuidedVelocity, predict_velocity


@pytest.fixture
def given():
    draw = seeding.generator(0, "guidance")
    z_t = torch.randn(4, CHANNELS, 8, 8, generator=draw)
    timestep = torch.rand(4, generator=draw) * 1000
    return z_t, timestep, random_prompt(0, 2), random_prompt(1)


@pytest.fixture
def transformer(transformer):
    adapters.add_adapter(
        transformer, adapters.FAKE_SCORE, rank=4, alpha=4, targets=adapters.ATTENTION_TARGETS, seed=0, trainable=False
    )
    randomize(transformer, adapters.FAKE_SCORE)
    return transformer


def guided(transformer, given, names=(), **changes) -> torch.Tensor:
    z_t, timestep, prompts, null = given
    options = {"scale": 7.5}
    velocity = GuidedVelocity(transformer, names, prompts.embeds, prompts.pooled, null, **(options | changes))
    return velocity(z_t, timestep)


@pytest.mark.parametrize("names", [(), (adapters.FAKE_SCORE,)])
def test_guidance_is_null_plus_scale_times_the_difference(transformer, given, names):
    z_t, timestep, prompts, null = given
    wanted = []
    with adapters.active(transformer, *names):
        for row in range(4):  # two stacked blocks of two samples
            sample = row % 2
            one = (z_t[row : row + 1], timestep[row : row + 1])
            v_cond = predict_velocity(
                transformer, *one, prompts.embeds[sample : sample + 1], prompts.pooled[sample : sample + 1]
            )
            v_null = predict_velocity(transformer, *one, null.embeds[None], null.pooled[None])
            wanted.append(v_null + 7.5 * (v_cond - v_null))
    torch.testing.assert_close(guided(transformer, given, names), torch.cat(wanted), rtol=1e-4, atol=1e-4)


def test_two_passes_equal_one_doubled_batch(transformer, given):
    names = (adapters.FAKE_SCORE,)
    once = guided(transformer, given, names)
    torch.testing.assert_close(guided(transformer, given, names, low_memory=True), once, rtol=1e-4, atol=1e-4)


def test_low_memory_never_holds_more_than_the_batchs_rows(transformer, given):
    rows = []
    transformer.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(kwargs["hidden_states"].shape[0]), with_kwargs=True
    )
    guided(transformer, given)
    guided(transformer, given, low_memory=True)
    guided(transformer, given, scale=1.0)
    assert rows == [8, 4, 4, 4]


def test_a_scale_of_one_is_the_conditional_branch(transformer, given):
    z_t, timestep, prompts, _ = given
    wanted = predict_velocity(transformer, z_t, timestep, prompts.embeds.repeat(2, 1, 1), prompts.pooled.repeat(2, 1))
    torch.testing.assert_close(guided(transformer, given, scale=1.0), wanted, rtol=1e-4, atol=1e-4)


def test_a_bfloat16_transformer_answers_in_float32(transformer, given):
    z_t, timestep, prompts, _ = given
    answer = predict_velocity(transformer.to(torch.bfloat16), z_t[:2], timestep[:2], prompts.embeds, prompts.pooled)
    assert answer.dtype == torch.float32
