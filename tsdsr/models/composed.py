"""The forward of a LoRA layer, in the cheapest order and precision of the products.

    y = W x + s B (A x)      two thin products per position, as in PEFT
    y = (W + s B A) x        one product of weights, then one a position

The results are equal up to rounding. The second saves the thin products and costs the product B A, and in training a
gradient of W's full size, from which autograd computes those of A and B. It is cheaper for layers that are narrow for
their rank (the tiny preset) and without training (the fake score as a score); at SD3's width a trained layer uses the
first. It is used in float32 only: rounded to bfloat16, W + s B A would lose most of a small B A.

On a half-precision base the thin products are computed in the base's precision, as with autocast, from A and B in
float32 with float32 gradients. PEFT computes them in float32: at SD3's width that is 1/12 of a layer's operations at
1/16 of a GPU's speed, and a float32 copy of the layer's input kept for the backward.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor
from torch.nn import functional

from tsdsr.models.fp8 import FP8Linear


def composing_pays(positions: int, fan_in: int, fan_out: int, rank: int, *, learning: bool) -> bool:
    """Whether (W + s B A) x takes fewer operations, forward and (when `learning`) backward.

    Args:
        positions: the number of tokens or pixels.
        fan_in, fan_out: W's sides; a convolution's kernel counts into `fan_in`.
        rank: of all active adapters together.
    """
    full, thin = fan_in * fan_out, rank * (fan_in + fan_out)
    if learning:  # thin: 2 products forward, 2 to the input, 2 to A and B; composed: W's gradient, B A and its backward
        return full * (2 * positions + 6 * rank) < 6 * positions * thin
    return full * rank < positions * thin


class ComposedLinear(lora.Linear):
    """PEFT's LoRA on a linear layer, composed if that is cheaper."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        names = _names(self)
        if not names and not args and not kwargs:
            return self.base_layer(x)
        weight = self.base_layer.weight
        if args or kwargs or not _ours(self, x):
            return super().forward(x, *args, **kwargs)
        if weight.itemsize < 4 or (isinstance(self.base_layer, FP8Linear) and self.base_layer.rounds()):
            return _in_the_bases_precision(self, names, x)
        positions = x.numel() // x.shape[-1]
        if not _composes(self, names, positions, weight.shape[1], weight.shape[0]):
            return super().forward(x)
        return functional.linear(x, _composed(self, names), self.base_layer.bias)


class ComposedConv2d(lora.Conv2d):
    """PEFT's LoRA on a convolution, composed if that is cheaper."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        names = _names(self)
        if not names and not args and not kwargs:
            return self.base_layer(x)
        base = self.base_layer
        weight, stride = base.weight, base.stride
        if args or kwargs or base.groups != 1 or not _ours(self, x):
            return super().forward(x, *args, **kwargs)
        if weight.itemsize < 4:
            return _in_the_bases_precision(self, names, x)
        positions = x.shape[0] * (x.shape[2] // stride[0]) * (x.shape[3] // stride[1])
        fan_in = weight.shape[1] * weight.shape[2] * weight.shape[3]
        if not _composes(self, names, positions, fan_in, weight.shape[0]):
            return super().forward(x)
        return base._conv_forward(x, _composed(self, names), base.bias)


COMPOSED: dict[type, type] = {lora.Linear: ComposedLinear, lora.Conv2d: ComposedConv2d}


def install(layer: Any) -> None:
    """Let one of PEFT's LoRA layers choose the order of its products; other layers are unchanged."""
    layer.__class__ = COMPOSED.get(type(layer), type(layer))


def _names(layer: Any) -> list[str]:
    """The active adapters of this layer."""
    if layer.disable_adapters or layer.merged:
        return list(layer.lora_A)  # handled by PEFT's own forward
    return [name for name in layer._active_adapter if name in layer.lora_A]


def _ours(layer: Any, x: Tensor) -> bool:
    """Whether the order and precision of the products may be chosen here; otherwise PEFT's forward runs."""
    return (
        not (layer.disable_adapters or layer.merged or _autocasts(x.device.type))
        and x.dtype == layer.base_layer.weight.dtype
    )


def _composes(layer: Any, names: list[str], positions: int, fan_in: int, fan_out: int) -> bool:
    factors = [layer.lora_A[name].weight for name in names] + [layer.lora_B[name].weight for name in names]
    if any(factor.dtype != layer.base_layer.weight.dtype for factor in factors):
        return False
    learning = torch.is_grad_enabled() and any(factor.requires_grad for factor in factors)
    rank = sum(layer.r[name] for name in names)
    return composing_pays(positions, fan_in, fan_out, rank, learning=learning)


def _autocasts(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)  # not on the meta device


def _in_the_bases_precision(layer: Any, names: list[str], x: Tensor) -> Tensor:
    """W x + s B (A x), summed over the adapters."""
    y = layer.base_layer(x)
    for name in names:
        thin = _cast_product(layer.lora_B[name], _cast_product(layer.lora_A[name], x))
        y = torch.add(y, thin, alpha=layer.scaling[name])
    return y


def _cast_product(factor: Any, x: Tensor) -> Tensor:
    weight = factor.weight.to(x.dtype)
    return functional.linear(x, weight) if weight.ndim == 2 else factor._conv_forward(x, weight, None)


def _composed(layer: Any, names: list[str]) -> Tensor:
    """W + s B A, summed over the adapters."""
    weight = layer.base_layer.weight
    flat = weight.flatten(1)
    for name in names:
        down, up = layer.lora_A[name].weight.flatten(1), layer.lora_B[name].weight.flatten(1)
        flat = torch.addmm(flat, up, down, alpha=layer.scaling[name])
    return flat.view(weight.shape)
