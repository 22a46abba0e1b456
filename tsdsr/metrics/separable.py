"""pyiqa's Gaussian filters as two one-dimensional passes.

SSIM (11 x 11) and NIQE (7 x 7) filter float64 images with a Gaussian. torch's double-precision convolution takes four
fifths of their time on a CPU; the kernel is an outer product, so two short passes of shifted sums give the same result
up to rounding. `install` replaces pyiqa's `filter2` and `imfilter` in SSIM and NIQE; other kernels and padding modes
still use pyiqa's.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

RANK_ONE_TOLERANCE = 1e-6  # pyiqa rounds its kernels to float32


def factor(kernel: Tensor) -> tuple[Tensor, Tensor] | None:
    """(column, row) with kernel = outer(column, row), or None if the kernel is no such product.

    Args:
        kernel: (kh, kw), of sum other than 0.
    """
    column, row = kernel.sum(1), kernel.sum(0) / kernel.sum()
    difference = (torch.outer(column, row) - kernel).abs().max()
    return (column, row) if difference <= RANK_ONE_TOLERANCE * kernel.abs().max() else None


def correlate(images: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """Correlation with outer(column, row), without padding.

    Args:
        images: (B, C, H, W).
        column: (kh,).
        row: (kw,).

    Returns:
        (B, C, H - kh + 1, W - kw + 1).
    """
    return _pass(_pass(images, row, -1), column, -2)


def _pass(images: Tensor, taps: Tensor, dim: int) -> Tensor:
    length = images.shape[dim] - len(taps) + 1
    weights = taps.tolist()
    total = images.narrow(dim, 0, length) * weights[0]
    for shift, weight in enumerate(weights[1:], start=1):
        total.add_(images.narrow(dim, shift, length), alpha=weight)
    return total


def _filter2(original: Callable[..., Tensor], images: Tensor, weight: Tensor, shape: str = "same") -> Tensor:
    factors = factor(weight[0, 0]) if shape == "valid" and _one_kernel(weight) else None
    return original(images, weight, shape) if factors is None else correlate(images, *factors)


def _imfilter(original: Callable[..., Tensor], images: Tensor, weight: Tensor, **options: Any) -> Tensor:
    odd = weight.shape[-1] % 2 == 1 and weight.shape[-2] % 2 == 1
    simple = options == {"padding": "replicate"} and weight.shape[:2] == (1, 1) and images.shape[1] == 1 and odd
    factors = factor(weight[0, 0]) if simple else None
    if factors is None:
        return original(images, weight, **options)
    height, width = weight.shape[-2] // 2, weight.shape[-1] // 2
    return correlate(functional.pad(images, (width, width, height, height), mode="replicate"), *factors)


def _one_kernel(weight: Tensor) -> bool:
    return bool((weight == weight[:1]).all())


@cache
def install() -> None:
    """Replace the two functions, once per process."""
    ssim: Any = importlib.import_module("pyiqa.archs.ssim_arch")
    normalisation: Any = importlib.import_module("pyiqa.archs.func_util")
    original_filter2, original_imfilter = ssim.filter2, normalisation.imfilter
    ssim.filter2 = lambda images, weight, shape="same": _filter2(original_filter2, images, weight, shape)
    normalisation.imfilter = lambda images, weight, **options: _imfilter(original_imfilter, images, weight, **options)
