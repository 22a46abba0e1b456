"""FP8 products in the forwards without gradient: psi's and phi's predictions, 48 of a step's 69 TFLOP at SD3's size.

    y = s_x s_W (x_8 W_8^T)      x_8 = x / s_x,  W_8 = W / s_W,  each rounded to float8_e4m3fn (3 bits of mantissa)

with one scale per position of x and one per row of W, so that the largest value of each is 448, the format's largest.
Only the frozen weights of the blocks' attention and feed-forward layers are rounded; adapters, modulation, and the
layers outside the blocks are not: the two after the blocks would cost more accuracy than all others together. It is an
approximation, for low guidance: docs/performance.md has its gradient's cosine to the exact one. A GPU needs FP8 units
(compute capability 8.9 or higher); a CPU computes the same products, slowly.

Source: Micikevicius et al., arXiv 2209.05433 (the format and its scaling).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import ScalingType, scaled_mm

from tsdsr.errors import UserError

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
MULTIPLE = 16  # the kernels need sides that are multiples of it
CAPABILITY = (8, 9)
ROUNDED = (".attn", ".attn2", ".ff", ".ff_context")  # of a block


class FP8Linear(nn.Linear):
    """A frozen linear layer whose forward without gradient multiplies in FP8 within `fp8_products`."""

    active = False
    bits: Tensor
    scale: Tensor

    def rounds(self) -> bool:
        return self.active and not torch.is_grad_enabled()

    def forward(self, x: Tensor) -> Tensor:
        if not self.rounds():
            return super().forward(x)
        rows = x.reshape(-1, x.shape[-1])
        rounded, scale = round_rows(rows)
        y = scaled_mm(
            rounded,
            self.bits.view(FP8).t(),
            scale,
            ScalingType.RowWise,
            self.scale.t(),
            ScalingType.RowWise,
            bias=None if self.bias is None else self.bias.to(torch.bfloat16),
            output_dtype=torch.bfloat16,  # the only one for which GPUs have row-wise scales
            use_fast_accum=True,
        )
        return y.to(x.dtype).view(*x.shape[:-1], -1)


def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [n,k] -> (x / s in float8_e4m3fn [n,k], s in float32 [n,1]), s such that a row's largest value is 448."""
    largest = torch.linalg.vector_norm(x, float("inf"), dim=1, keepdim=True)
    scale = (largest / LARGEST).clamp(min=torch.finfo(x.dtype).tiny)
    return (x / scale).to(FP8), scale.float()


def supports(device: torch.device) -> bool:
    """Whether the device has FP8 products; a CPU computes them by other means."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= CAPABILITY


def install(transformer: nn.Module) -> None:
    """Round the weights of the blocks once, beside the exact ones: one byte more per weight.

    Raises:
        UserError: the GPU has no FP8 units.
    """
    device = next(transformer.parameters()).device
    if not supports(device):
        card = torch.cuda.get_device_name(device)
        raise UserError(f"distill.fp8_scores: {card} has no FP8 units (Ada, Hopper or newer have); set it to false")
    _installed[transformer] = layers = [
        layer
        for name, layer in transformer.named_modules()
        if name.startswith("transformer_blocks.") and any(f"{part}." in name for part in ROUNDED)
        if type(layer) is nn.Linear and "lora_" not in name
        if layer.in_features % MULTIPLE == layer.out_features % MULTIPLE == 0
    ]
    for layer in layers:
        layer.__class__ = FP8Linear
        rounded, scale = round_rows(layer.weight.detach())
        layer.register_buffer("bits", rounded.view(torch.uint8), persistent=False)  # DDP sends no FP8
        layer.register_buffer("scale", scale, persistent=False)


def installed(transformer: nn.Module) -> bool:
    return transformer in _installed


@contextmanager
def fp8_products(transformer: nn.Module) -> Iterator[None]:
    """Within the block the installed layers' forwards without gradient multiply in FP8."""
    for layer in _installed[transformer]:
        layer.active = True
    try:
        yield
    finally:
        for layer in _installed[transformer]:
            layer.active = False


_installed: WeakKeyDictionary[nn.Module, list[Any]] = WeakKeyDictionary()
