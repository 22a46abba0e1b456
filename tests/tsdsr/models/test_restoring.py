from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tiny import CHANNELS, random_prompt, randomize, relative, tiny_transformer
from tsdsr import seeding
from tsdsr.errors import UserError
from tsdsr.flow import FlowSchedule
from tsdsr.models import adapters, restoring
from tsdsr.models.restoring import RestoringTeacher
from tsdsr.models.velocity import predict_velocity


def attached(seed: int = 0):
    """A transformer with a restorer of random values."""
    transformer = tiny_transformer()
    restoring.attach(transformer, rank=3, seed=seed, trainable=True)
    randomize(transformer, restoring.RESTORER)
    projection = transformer.get_submodule(restoring.PROJECTION)
    projection.weight.data = 0.1 * torch.randn(projection.weight.shape, generator=seeding.generator(seed, "lq"))
    return transformer


def inputs(rows: int = 2):
    draw = seeding.generator(0, "restoring")
    z_t, z_lq = (torch.randn(rows, CHANNELS, 8, 8, generator=draw) for _ in range(2))
    return z_t, torch.tensor([100.0, 700.0])[:rows], z_lq


def test_at_first_it_is_the_base():
    transformer, prompt, (z_t, timestep, z_lq) = tiny_transformer(), random_prompt(0), inputs()
    wanted = predict_velocity(transformer, z_t, timestep, prompt.embeds, prompt.pooled)
    restoring.attach(transformer, rank=3, seed=0, trainable=True)
    torch.testing.assert_close(RestoringTeacher(transformer, prompt)(z_t, timestep, z_lq), wanted)


def test_the_low_quality_latent_enters_as_further_input_channels():
    """A transformer whose patch projection takes z_t and z_L side by side gives the same."""
    transformer, prompt, (z_t, timestep, z_lq) = attached(), random_prompt(0), inputs()
    for parameter in adapters.parameters(transformer, restoring.RESTORER).values():
        parameter.data.zero_()
    wide = tiny_transformer(in_channels=2 * CHANNELS)
    state = tiny_transformer().state_dict()
    added = transformer.get_submodule(restoring.PROJECTION).weight.detach()
    state["pos_embed.proj.weight"] = torch.cat([state["pos_embed.proj.weight"], added], dim=1)
    wide.load_state_dict(state)
    wanted = predict_velocity(wide, torch.cat([z_t, z_lq], dim=1), timestep, prompt.embeds, prompt.pooled)
    found = RestoringTeacher(transformer, prompt)(z_t, timestep, z_lq)
    assert relative(found, wanted) < 1e-5


def test_the_base_and_other_adapters_do_not_notice_it():
    prompt, (z_t, timestep, z_lq) = random_prompt(0), inputs()
    wanted = predict_velocity(tiny_transformer(), z_t, timestep, prompt.embeds, prompt.pooled)
    transformer = attached()
    restored = RestoringTeacher(transformer, prompt)(z_t, timestep, z_lq)
    assert relative(restored, wanted) > 0.01
    torch.testing.assert_close(predict_velocity(transformer, z_t, timestep, prompt.embeds, prompt.pooled), wanted)


def test_stacked_blocks_share_their_low_quality_latents():
    teacher, (z_t, timestep, z_lq) = RestoringTeacher(attached(), random_prompt(0)), inputs()
    stacked = teacher(torch.cat([z_t, 2 * z_t]), torch.cat([timestep, timestep]), z_lq)
    apart = torch.cat([teacher(z_t, timestep, z_lq), teacher(2 * z_t, timestep, z_lq)])
    torch.testing.assert_close(stacked, apart)


def test_its_steps_are_diffusers_euler_steps():
    from diffusers import FlowMatchEulerDiscreteScheduler

    teacher, (noise, _, z_lq) = RestoringTeacher(attached(), random_prompt(0)), inputs()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 15, 15).tolist())
    z_t = noise
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            z_t = scheduler.step(teacher(z_t, timestep.expand(2), z_lq), timestep, z_t).prev_sample
    found = teacher.restore(z_lq, noise, FlowSchedule(3.0), 15)
    assert relative(found, z_t) < 1e-5


def test_it_comes_back_from_its_file(tmp_path):
    transformer, (z_t, timestep, z_lq) = attached(), inputs()
    restoring.save(transformer, tmp_path / restoring.FILE)
    other = tiny_transformer()
    restoring.load(other, tmp_path)
    wanted = RestoringTeacher(transformer, random_prompt(0))(z_t, timestep, z_lq)
    assert relative(RestoringTeacher(other, random_prompt(0))(z_t, timestep, z_lq), wanted) < 1e-5
    for name, parameter in restoring.parameters(transformer).items():
        assert torch.equal(restoring.parameters(other)[name], parameter)
    assert not any(parameter.requires_grad for parameter in other.parameters())


def test_a_teacher_without_one_says_how_to_make_it(tmp_path):
    with pytest.raises(UserError, match=r"teacher\.restorer\.enabled"):
        restoring.load(tiny_transformer(), tmp_path)
