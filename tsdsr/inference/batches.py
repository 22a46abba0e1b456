"""Conversion of the pipeline's inputs and outputs to arrays (B, 3, H, W) in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tsdsr.errors import UserError

Images: TypeAlias = Image.Image | np.ndarray | Tensor | Sequence[Image.Image]


def arrays(images: Images) -> list[np.ndarray]:
    """The pictures as float32 arrays (B, 3, H, W) in [0, 1]: one for an array or tensor, one per picture for a list.

    Raises:
        UserError: another type or number of channels, or values out of range.
    """
    if isinstance(images, Tensor):
        return [_checked(images.unsqueeze(0) if images.ndim == 3 else images)]
    if isinstance(images, np.ndarray):
        return [_from_array(images)]
    if isinstance(images, Image.Image):
        return [_from_picture(images)]
    if isinstance(images, Sequence) and images and all(isinstance(item, Image.Image) for item in images):
        return [_from_picture(item) for item in images]
    raise UserError(f"expected a PIL image, a list of them, an array or a tensor, found {type(images).__name__}")


def _from_picture(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):  # Pillow's conversion would clip values above 255
        return _from_array(np.repeat(np.asarray(image, np.float32)[..., None] / 65535, 3, axis=2))
    if image.mode in ("I", "F"):
        raise UserError(f"a PIL image of mode {image.mode} has no white; give an array of floats in [0, 1]")
    return _from_array(np.asarray(image.convert("RGB")))


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        values = array.astype(np.float32) / 255
    elif np.issubdtype(array.dtype, np.floating):
        values = array
    else:
        raise UserError(f"an array must be uint8, or float in [0, 1]; found {array.dtype}")
    rows = torch.from_numpy(np.ascontiguousarray(values[None] if values.ndim == 3 else values))
    if rows.ndim != 4 or rows.shape[-1] != 3:
        raise UserError(f"an array must have the shape (H, W, 3) or (B, H, W, 3), found {array.shape}")
    return _checked(rows.movedim(-1, 1))


def _checked(images: Tensor) -> np.ndarray:
    if images.ndim != 4 or images.shape[1] != 3:
        raise UserError(f"a tensor must have the shape (3, H, W) or (B, 3, H, W), found {tuple(images.shape)}")
    if not images.is_floating_point():
        raise UserError(f"a tensor must be floating point in [0, 1], found {images.dtype}")
    if not images.numel():
        raise UserError(f"an image must not be empty, found the shape {tuple(images.shape)}")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise UserError(f"values must lie in [0, 1], found {low:.3g} to {high:.3g}")
    return images.detach().to("cpu", torch.float32).numpy()


def _pil(results: list[np.ndarray]) -> list[Image.Image]:
    pixels = [(255 * picture).round().astype(np.uint8).transpose(1, 2, 0) for result in results for picture in result]
    return [Image.fromarray(np.ascontiguousarray(picture)) for picture in pixels]


def _stacked(results: list[np.ndarray]) -> np.ndarray:
    sizes = {result.shape[-2:] for result in results}
    if len(sizes) > 1:
        raise UserError(f"pictures of several sizes {sorted(sizes)} do not stack; take output_type='pil'")
    return np.concatenate(results)


OUTPUTS: dict[str, Callable[[list[np.ndarray]], Any]] = {
    "pil": _pil,
    "np": lambda results: np.moveaxis(_stacked(results), 1, -1),
    "pt": lambda results: torch.from_numpy(_stacked(results)),
}
