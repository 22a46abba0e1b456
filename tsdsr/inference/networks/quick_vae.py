"""A faster forward of the VAE: the same weights under the same names, the same result up to float rounding.

Two of diffusers' modules do more work than inference needs:

    Upsample2D     doubles both sides by repetition, then convolves with 3 x 3: of nine taps, those that fall on the
                   same pixel add up, so each of the four results of a pixel is a 2 x 2 convolution of what came before
    ResnetBlock2D  keeps the inputs of its activations and of its sum, and divides by one

Weights and activations stay channels-last, the fastest layout of convolutions on CPUs and GPUs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn


def use_fast_forward(vae: AutoencoderKL) -> None:
    """Give the VAE's modules the forward passes of this file. Parameters keep their names and values."""
    for module in vae.modules():
        if type(module) is Upsample2D and _doubles(module):
            module.__class__ = QuickUpsample
        elif type(module) is ResnetBlock2D and _is_plain(module):
            module.__class__ = QuickResnetBlock
    vae.to(memory_format=torch.channels_last)


def _doubles(module: Any) -> bool:
    convolution = getattr(module, "conv", None)
    return (
        module.norm is None
        and module.interpolate
        and isinstance(convolution, nn.Conv2d)
        and convolution.kernel_size == (3, 3)
        and convolution.padding == (1, 1)
    )


def _is_plain(module: Any) -> bool:
    parts = (module.upsample, module.downsample, module.time_emb_proj)
    return all(part is None for part in parts) and isinstance(module.nonlinearity, nn.SiLU)


class QuickResnetBlock(ResnetBlock2D):
    """norm, SiLU, convolution, twice, added to the input; in place where nothing else reads a value."""

    def forward(self, input_tensor: Tensor, temb: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        if _as_written():
            return super().forward(input_tensor, temb, *args, **kwargs)
        x = self.conv1(F.silu(self.norm1(input_tensor), inplace=True))
        x = self.conv2(F.silu(self.norm2(x), inplace=True))
        x += input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor)
        return x if self.output_scale_factor == 1 else x / self.output_scale_factor


class QuickUpsample(Upsample2D):
    """Repetition by two and a 3 x 3 convolution, as one of 2 x 2 on the smaller picture: 4 taps a pixel, not 9."""

    def forward(self, hidden_states: Tensor, output_size: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        if output_size is not None or _as_written():
            return super().forward(hidden_states, output_size, *args, **kwargs)
        weight, bias = self.conv.weight, self.conv.bias
        bias = None if bias is None else bias.repeat(4)
        made = F.conv2d(hidden_states, phases(weight), bias, padding=1).chunk(4, 1)  # of [B,C,h+1,w+1] each
        batch, _, rows, columns = hidden_states.shape
        doubled = hidden_states.new_empty(batch, weight.shape[0], 2 * rows, 2 * columns)
        doubled = doubled.to(memory_format=torch.channels_last)
        for index, phase in enumerate(made):
            down, right = divmod(index, 2)
            doubled[:, :, down::2, right::2] = phase[:, :, down : down + rows, right : right + columns]
        return doubled


def _as_written() -> bool:
    """Whether to use diffusers' own forward: for gradients, and for export to a graph."""
    return torch.is_grad_enabled() or torch.compiler.is_compiling()


def phases(weight: Tensor) -> Tensor:
    """The kernels that make, of a picture, the four phases of its doubled and convolved one.

    Args:
        weight: (out, in, 3, 3), of the convolution of the doubled picture.

    Returns:
        (4 out, in, 2, 2): for the even and then the odd rows, in each for the even and then the odd columns. An even
        row (column) sees the pixel it comes from and the one before, an odd one the one after.
    """
    kernels = [kernel for rows in _pairs(weight.float(), 2) for kernel in _pairs(rows, 3)]
    return torch.cat(kernels).to(weight.dtype).contiguous(memory_format=torch.channels_last)


def _pairs(weight: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Three taps along an axis as two, for even and for odd pixels: those that fall on the same source add up."""
    before, here, after = weight.unbind(axis)
    return torch.stack([before, here + after], axis), torch.stack([before + here, after], axis)
