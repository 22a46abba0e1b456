"""FP8 products: their rounding, the layers and forwards that have them, and the cosine to the exact direction."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import random_prompt, randomize, relative, tiny_transformer
from tests.tsdsr.training.rig import RandomData, distill_config, gradients, method, student_turn
from tsdsr.models import adapters, fp8
from tsdsr.models.fp8 import FP8, FP8Linear, fp8_products, round_rows
from tsdsr.models.velocity import GuidedVelocity
from tsdsr.seeding import generator


def installed(seed: int = 0, names: tuple[str, ...] = (adapters.FAKE_SCORE,)) -> torch.nn.Module:
    transformer = tiny_transformer(seed)
    for name in names:
        adapters.add_adapter(transformer, name, rank=4, alpha=4, targets=adapters.STUDENT_TARGETS, seed=0)
        randomize(transformer, name)
    fp8.install(transformer)
    return transformer


def fp8_layers(model: torch.nn.Module) -> dict[str, FP8Linear]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, FP8Linear)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_are_rounded_to_three_bits_of_mantissa(dtype):
    x = torch.randn(50, 64, generator=generator(0, "rows")) * torch.logspace(-4, 4, 50)[:, None]
    rounded, scale = round_rows(x.to(dtype))
    assert (rounded.dtype, scale.dtype, scale.shape) == (FP8, torch.float32, (50, 1))
    back = rounded.float() * scale
    largest = x.abs().amax(1, keepdim=True)
    # half a unit in the last place: 2^-4 of a normal number; below 2^-6 the format has fixed steps of 2^-9
    bound = torch.maximum(x.abs() * 2**-4, 2**-10 * largest / fp8.LARGEST)
    slack = 2**-8 * x.abs() if dtype == torch.bfloat16 else 1e-6 * x.abs()
    assert ((back - x).abs() <= bound + slack).all()


def test_a_row_of_zeros_stays_zero():
    rounded, scale = round_rows(torch.zeros(2, 16))
    assert (rounded.float() * scale == 0).all()


@pytest.mark.parametrize("bias", [True, False])
def test_the_product_is_the_one_of_the_rounded_rows(bias):
    layer = tiny_transformer().transformer_blocks[0].attn.to_q
    x = torch.randn(3, 7, layer.in_features, generator=generator(0, "x"))
    transformer = installed(names=())
    ours = transformer.transformer_blocks[0].attn.to_q
    if not bias:
        layer.bias = ours.bias = None
    x_8, s_x = round_rows(x.flatten(0, 1))
    w_8, s_w = round_rows(layer.weight)
    wanted = ((x_8.float() * s_x) @ (w_8.float() * s_w).T).view(3, 7, -1) + (0 if layer.bias is None else layer.bias)
    with torch.no_grad(), fp8_products(transformer):
        found = ours(x)
    assert (found.dtype, found.shape) == (x.dtype, wanted.shape)
    assert relative(found, wanted) < 2**-7  # the result has bfloat16's 8 bits
    assert relative(found, layer(x)) < 0.06


def test_the_blocks_attention_and_feed_forward_are_rounded_and_nothing_else():
    names = set(fp8_layers(installed()))
    assert {"transformer_blocks.0.attn.to_q.base_layer", "transformer_blocks.1.ff.net.2"} <= names
    assert all(".attn." in name or ".ff." in name or ".ff_context." in name for name in names)
    assert not any("lora" in name or "norm" in name for name in names)


def test_layers_whose_sides_the_kernels_refuse_stay_exact():
    odd = tiny_transformer(attention_head_dim=10, caption_projection_dim=20)
    fp8.install(odd)
    assert not fp8_layers(odd)


def test_the_exact_weights_stay_and_nothing_is_added_to_the_state():
    before, transformer = tiny_transformer().state_dict(), installed(names=())
    assert transformer.state_dict().keys() == before.keys()
    for name, value in transformer.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("names", [(), (adapters.FAKE_SCORE,)], ids=["psi", "phi"])
def test_only_a_prediction_that_asks_for_it_and_has_no_gradient_is_approximate(names):
    transformer, prompts, null = installed(), random_prompt(0, 2), random_prompt(1)
    z_t = torch.randn(2, 4, 8, 8, generator=generator(0, "z"))
    timestep = torch.tensor([300.0, 700.0])

    def velocity(approximate: bool) -> torch.Tensor:
        return GuidedVelocity(transformer, names, prompts.embeds, prompts.pooled, null, 2.0, fp8=approximate)(
            z_t, timestep
        )

    with torch.no_grad():
        exact, rounded = velocity(False), velocity(True)
        assert torch.equal(velocity(False), exact)  # nothing stays switched on
    assert 1e-4 < relative(rounded, exact) < 0.1
    assert torch.equal(velocity(True).detach(), velocity(False).detach())  # with gradient


def test_a_step_with_fp8_scores_keeps_the_students_forward_and_nearly_the_gradient():
    batch = RandomData().batch(range(4))
    sides = {}
    for switch in (False, True):
        made = method(distill_config(fp8_scores=switch))
        output = student_turn(made, batch, made.inputs.config.phases["late"])
        sides[switch] = output, torch.cat([value.flatten() for value in gradients(made.student).values()])
    (exact, wanted), (rounded, found) = sides[False], sides[True]
    assert torch.equal(rounded.terms["lpips"], exact.terms["lpips"])
    assert not torch.equal(rounded.terms["tsd"], exact.terms["tsd"])
    assert torch.cosine_similarity(found, wanted, dim=0) > 0.97  # random weights; a trained teacher's is higher


def test_a_gpu_without_fp8_units_is_refused_by_name(monkeypatch):
    class Parameter:
        device = torch.device("cuda", 0)

    class Network(torch.nn.Module):
        def parameters(self, recurse: bool = True):
            return iter([Parameter()])

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A100")
    with pytest.raises(fp8.UserError, match="A100 has no FP8 units"):
        fp8.install(Network())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpus_product_is_the_cpus():
    transformer = installed(names=())
    layer = transformer.transformer_blocks[0].attn.to_q
    x = torch.randn(64, layer.in_features, generator=generator(0, "x"))
    with torch.no_grad(), fp8_products(transformer):
        wanted = layer(x)
        assert relative(layer.cuda()(x.cuda()).cpu(), wanted) < 2**-7
