from __future__ import annotations

import torch
from torch import nn

from tests.tiny import CHANNELS, random_prompt, tiny_transformer
from tsdsr import seeding
from tsdsr.models import discriminator, presets
from tsdsr.models.discriminator import LatentDiscriminator, feature_blocks, features

WIDTH = 16  # of the tiny transformer


def inputs(rows: int = 2):
    draw = seeding.generator(0, "discriminator")
    return torch.randn(rows, CHANNELS, 8, 8, generator=draw), torch.tensor([100.0, 700.0])[:rows]


def levels(transformer, z_t, timestep):
    prompt = random_prompt(0)
    return features(transformer, z_t, timestep, prompt.embeds, prompt.pooled)


def opened(made: LatentDiscriminator) -> LatentDiscriminator:
    """With the convolution that starts at zero at random values: a step of training opens it."""
    draw = seeding.generator(0, "opened")
    for head in made.heads:
        head.spatial.weight.data = 0.1 * torch.randn(head.spatial.weight.shape, generator=draw)
    return made


def test_the_features_are_what_the_transformers_own_forward_passes_through():
    transformer, (z_t, timestep), prompt = tiny_transformer(num_layers=4), inputs(), random_prompt(0, 2)
    seen = {}
    for number, block in enumerate(transformer.transformer_blocks):
        block.register_forward_hook(lambda _, __, output, number=number: seen.update({number: output[1]}))
    transformer(z_t, prompt.embeds, prompt.pooled, timestep)
    wanted = [seen[number] for number in feature_blocks(transformer)]
    found = features(transformer, z_t, timestep, prompt.embeds, prompt.pooled)
    assert len(found) == 2
    for level, tokens in zip(found, wanted, strict=True):
        assert level.shape == (2, WIDTH, 4, 4)
        torch.testing.assert_close(level.flatten(2).transpose(1, 2), tokens)


def test_levels_are_spread_over_the_first_half():
    def blocks(name):
        return feature_blocks(presets.build_transformer(presets.get(name), seed=0, device="meta"))

    assert blocks("sd3-medium") == (2, 5, 8, 11)
    assert blocks("tiny") == (0, 1)


def test_at_first_its_logits_tell_nothing_of_the_input():
    transformer, (z_t, timestep) = tiny_transformer(), inputs()
    made = LatentDiscriminator(1, WIDTH, 8, seed=0).eval()
    z_t.requires_grad_(True)
    logits = made(levels(transformer, z_t, timestep), timestep)
    assert logits.shape == (2, 8 * 16)
    torch.testing.assert_close(logits, made(levels(transformer, torch.zeros_like(z_t), timestep), timestep))
    logits.sum().backward()
    assert torch.equal(z_t.grad, torch.zeros_like(z_t))


def test_once_opened_it_sees_the_latent_and_the_time_and_its_gradient_reaches_no_teacher():
    transformer, (z_t, timestep) = tiny_transformer(), inputs()
    made = opened(LatentDiscriminator(1, WIDTH, 8, seed=0)).eval()
    z_t.requires_grad_(True)
    found = levels(transformer, z_t, timestep)
    logits = made(found, timestep)
    logits.pow(2).sum().backward()
    assert z_t.grad.abs().sum() > 0
    assert made.heads[0].modulation.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in transformer.parameters())
    assert not torch.allclose(logits, made(found, timestep + 50))


def test_every_one_dimensional_convolution_is_of_spectral_norm_one():
    made = LatentDiscriminator(1, WIDTH, 8, seed=0)
    transformer, (z_t, timestep) = tiny_transformer(), inputs()
    for _ in range(20):  # each training forward improves the estimate by one power iteration
        made(levels(transformer, z_t, timestep), timestep)
    convolutions = [module for module in made.eval().modules() if isinstance(module, nn.Conv1d)]
    assert [module.kernel_size for module in convolutions] == [(1,), (9,), (1,)]
    for module in convolutions:
        norm = torch.linalg.matrix_norm(module.weight.detach().flatten(1), ord=2)
        torch.testing.assert_close(norm, torch.tensor(1.0), atol=2e-2, rtol=0)


def test_the_estimates_of_spectral_norm_are_state():
    made = LatentDiscriminator(1, WIDTH, 8, seed=0)
    names = [name for name, _ in made.named_buffers()]
    assert len(names) == 6
    assert set(names) <= made.state_dict().keys()
    before = {name: buffer.clone() for name, buffer in made.named_buffers()}
    transformer, (z_t, timestep) = tiny_transformer(), inputs()
    found = levels(transformer, z_t, timestep)
    made.eval()(found, timestep)
    assert all(torch.equal(buffer, before[name]) for name, buffer in made.named_buffers())
    made.train()(found, timestep)
    assert any(not torch.equal(buffer, before[name]) for name, buffer in made.named_buffers())


def test_equal_seeds_give_equal_heads_and_leave_the_random_state_alone():
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    first, second, other = (LatentDiscriminator(1, WIDTH, 8, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(2), wanted)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_it_fits_sd3_on_the_meta_device():
    shape = presets.get("sd3-medium").shape["transformer"]
    width = shape["attention_head_dim"] * shape["num_attention_heads"]
    with torch.device("meta"):
        made = LatentDiscriminator(discriminator.LEVELS, width, 64, seed=0)
        logits = made([torch.empty(2, width, 32, 32)] * discriminator.LEVELS, torch.empty(2))
    assert logits.shape == (2, discriminator.LEVELS * 64 * 32 * 32)
