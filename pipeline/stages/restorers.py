"""What makes the images that are scored: a student, and the baselines beside it.

A restorer takes uint8 (h, w, 3), RGB, and gives uint8 (h * scale, w * scale, 3).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from tsdsr import compat, peers, weights
from tsdsr.config import Params
from tsdsr.device import pick
from tsdsr.errors import UserError

compat.apply()  # diffusers imports torchvision

Restorer = Callable[[np.ndarray], np.ndarray]


def read(path: str | Path) -> np.ndarray:
    """uint8 (h, w, 3), RGB."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def bicubic(scale: int) -> Restorer:
    """Bicubic enlargement (Pillow's, a = -0.5)."""

    def restore(lq: np.ndarray) -> np.ndarray:
        height, width = lq.shape[:2]
        return np.asarray(Image.fromarray(lq).resize((width * scale, height * scale), Image.Resampling.BICUBIC))

    return restore


def round_trip(teacher: str | Path, scale: int, use_shift: bool) -> Restorer:
    """decode(encode(bicubic)) by the teacher's VAE: what its latent space alone costs."""
    enlarge = bicubic(scale)
    loaded: list[Callable[[torch.Tensor], torch.Tensor]] = []

    def restore(lq: np.ndarray) -> np.ndarray:
        if not loaded:
            loaded.append(_autoencoder(teacher, use_shift))
        images = torch.from_numpy(enlarge(lq).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        result = loaded[0](images)[0].clamp(-1, 1)
        return _to_uint8(result.permute(1, 2, 0).numpy() / 2 + 0.5)

    return restore


def real_esrgan(scale: int) -> Restorer:
    """Real-ESRGAN x4plus.

    Raises:
        UserError: for another scale than 4, or without its weights.
    """
    if scale != 4:
        raise UserError(f"data.scale is {scale}, and real_esrgan enlarges 4 times; set 4, or leave it out")
    if reason := weights.missing("real-esrgan"):
        raise UserError(reason)
    found = weights.find("real-esrgan")
    assert found is not None  # `missing` said so
    return peers.real_esrgan(found.path)


# What can stand beside the student in every table (evaluate.baselines): name -> how to make one. One row each.
BASELINES: dict[str, Callable[[Params, Path], Restorer]] = {
    "bicubic": lambda params, teacher: bicubic(params.data.scale),
    "round_trip": lambda params, teacher: round_trip(teacher, params.data.scale, params.teacher.use_shift),
    "real_esrgan": lambda params, teacher: real_esrgan(params.data.scale),
}


def student(teacher: str | Path, directory: str | Path, scale: int, color: str) -> Restorer:
    """The one-step student in `directory`, on a GPU when there is one."""
    loaded: list[Callable[[np.ndarray], np.ndarray]] = []

    def restore(lq: np.ndarray) -> np.ndarray:
        if not loaded:
            loaded.append(_pipeline(teacher, directory, scale, color))
        return _to_uint8(loaded[0](lq))

    return restore


def _pipeline(teacher: str | Path, directory: str | Path, scale: int, color: str) -> Callable[[np.ndarray], np.ndarray]:
    from tsdsr.inference import TSDSRPipeline

    pipe = TSDSRPipeline.from_pretrained(teacher, student=directory)
    pipe.set_progress_bar_config(disable=True)
    pipe.to(pick())
    return lambda lq: pipe(Image.fromarray(lq), scale=scale, color=color, output_type="np").images[0]


def _autoencoder(teacher: str | Path, use_shift: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    from diffusers import AutoencoderKL

    from tsdsr.models.codec import LatentCodec

    codec = LatentCodec(AutoencoderKL.from_pretrained(str(teacher), subfolder="vae").eval(), use_shift)

    def run(images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[-2:]
        padding = (0, -width % codec.factor, 0, -height % codec.factor)
        return codec.round_trip(functional.pad(images, padding, mode="replicate"))[..., :height, :width]

    return run


def _to_uint8(image: np.ndarray) -> np.ndarray:
    """[0, 1] -> uint8, rounded."""
    return np.clip(image * 255, 0, 255).round().astype(np.uint8)
