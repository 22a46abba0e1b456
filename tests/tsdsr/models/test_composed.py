from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from tests.tiny import relative
from tsdsr import seeding
from tsdsr.models.composed import ComposedConv2d, ComposedLinear, composing_pays, install

LAYERS = {
    "linear": (lambda: torch.nn.Linear(12, 20), (2, 30, 12), ComposedLinear),
    "linear, no bias": (lambda: torch.nn.Linear(12, 20, bias=False), (2, 30, 12), ComposedLinear),
    "convolution": (lambda: torch.nn.Conv2d(6, 10, 3, padding=1), (2, 6, 9, 9), ComposedConv2d),
    "stride": (lambda: torch.nn.Conv2d(6, 10, 3, stride=2), (2, 6, 9, 9), ComposedConv2d),
    "pointwise": (lambda: torch.nn.Conv2d(6, 10, 1), (2, 6, 9, 9), ComposedConv2d),
}


def pair(kind: str, rank: int, alpha: float = 8.0):
    """PEFT's layer with two adapters, and the same one that may compose."""
    make, shape, wanted = LAYERS[kind]
    torch.manual_seed(0)
    model = torch.nn.Sequential(make()).requires_grad_(False)
    for name in ("one", "two"):
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=["0"]), model, adapter_name=name)
    draw = seeding.generator(0, kind)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=draw)
            parameter.requires_grad_(True)
    ours = copy.deepcopy(model)
    install(ours[0])
    assert type(ours[0]) is wanted
    return model, ours, torch.randn(shape, generator=draw)


def forward(model, x, names, learning=True):
    model[0]._active_adapter = list(names)
    x = x.clone().requires_grad_(learning)
    with nullcontext() if learning else torch.no_grad():
        y = model(x)
    if learning:
        y.pow(2).mean().backward()
    return y, x.grad


@pytest.mark.parametrize("names", [(), ("one",), ("one", "two")], ids=str)
@pytest.mark.parametrize("rank", [2, 16])
@pytest.mark.parametrize("kind", LAYERS)
def test_output_and_every_gradient_are_pefts(kind, rank, names):
    theirs, ours, x = pair(kind, rank)
    (y, dx), (y_hat, dx_hat) = forward(theirs, x, names), forward(ours, x, names)
    assert relative(y_hat, y) < 1e-5
    assert relative(dx_hat, dx) < 1e-5
    for (name, wanted), (_, found) in zip(theirs.named_parameters(), ours.named_parameters(), strict=True):
        assert (wanted.grad is None) == (found.grad is None), name
        assert wanted.grad is None or relative(found.grad, wanted.grad) < 1e-5, name
    assert relative(forward(ours, x, names, learning=False)[0], y) < 1e-5


def test_both_orders_were_taken(monkeypatch):
    """The test above means something only if ranks 2 and 16 fall on either side."""
    taken = {}
    for rank in (2, 16):
        _, ours, x = pair("linear", rank)
        counts = []
        monkeypatch.setattr(
            "tsdsr.models.composed._composed", lambda *a, counts=counts: counts.append(1) or a[0].weight
        )
        forward(ours, x, ("one",))
        taken[rank] = bool(counts)
        monkeypatch.undo()
    assert taken == {2: False, 16: True}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_base_never_absorbs_its_adapter(dtype, monkeypatch):
    _, ours, x = pair("linear", 16)
    ours[0].base_layer.to(dtype)
    monkeypatch.setattr("tsdsr.models.composed._composed", lambda *a: pytest.fail("composed"))
    assert forward(ours, x.to(dtype), ("one",), learning=False)[0].dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", LAYERS)
def test_on_a_half_precision_base_the_thin_products_are_the_bases(kind, dtype, monkeypatch):
    """Float32 factors, and gradients of them, within half precision's rounding of the float32 layer's."""
    theirs, ours, x = pair(kind, 16)
    names = ("one", "two")
    y, dx = forward(theirs, x, names)
    ours[0].base_layer.to(dtype)
    monkeypatch.setattr(torch.nn.Linear, "forward", only_in(dtype, torch.nn.Linear.forward))
    monkeypatch.setattr(torch.nn.Conv2d, "forward", only_in(dtype, torch.nn.Conv2d.forward))
    y_hat, dx_hat = forward(ours, x.to(dtype), names)
    assert (y_hat.dtype, dx_hat.dtype) == (dtype, dtype)
    assert relative(y_hat.float(), y) < 0.01
    assert relative(dx_hat.float(), dx) < 0.02
    for (name, wanted), (_, found) in zip(theirs.named_parameters(), ours.named_parameters(), strict=True):
        if wanted.grad is not None:
            assert found.grad.dtype == torch.float32
            assert relative(found.grad, wanted.grad) < 0.02, name


def only_in(dtype, real):
    def forward(self, x):
        assert x.dtype == self.weight.dtype == dtype
        return real(self, x)

    return forward


def test_the_choice_counts_operations():
    for learning in (False, True):
        assert composing_pays(1000, 128, 128, 64, learning=learning)  # the tiny preset
    # SD3-medium: a learning layer keeps the thin products, the fake score as a score does not
    assert not composing_pays(1024, 1536, 1536, 64, learning=True)
    assert composing_pays(2048, 1536, 1536, 64, learning=False)
    assert not composing_pays(77, 1536, 1536, 64, learning=False)


def test_a_disabled_or_merged_adapter_is_pefts_business():
    theirs, ours, x = pair("linear", 16)
    for model in (theirs, ours):
        model[0]._active_adapter = ["one"]
        model[0]._disable_adapters = True
    assert torch.equal(ours(x), theirs(x))
    for model in (theirs, ours):
        model[0]._disable_adapters = False
        model[0].merge()
    torch.testing.assert_close(ours(x), theirs(x))
    for model in (theirs, ours):
        model[0].unmerge()
    torch.testing.assert_close(ours(x), theirs(x))
