"""Restorers whose images are scored: a student and its baselines.

A restorer maps uint8 (h, w, 3), RGB, to uint8 (h * scale, w * scale, 3).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from tsdsr import compat, peers, seeding, weights
from tsdsr.config import Params
from tsdsr.device import pick
from tsdsr.errors import UserError
from tsdsr.flow import gaussian_like
from tsdsr.models.prompt import Prompt

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
    """decode(encode(bicubic)) with the teacher's VAE: the loss of its latent space alone."""
    enlarge, loaded = bicubic(scale), cache(lambda: _autoencoder(teacher, use_shift))

    def restore(lq: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(enlarge(lq).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        result = loaded()(images)[0].clamp(-1, 1)
        return _to_uint8(result.permute(1, 2, 0).numpy() / 2 + 0.5)

    return restore


def real_esrgan(scale: int) -> Restorer:
    """Real-ESRGAN x4plus.

    Raises:
        UserError: the scale is not 4, or its weights are absent.
    """
    if scale != 4:
        raise UserError(
            f"data.scale is {scale}, but real_esrgan enlarges 4 times; set data.scale to 4, or remove real_esrgan"
        )
    if reason := weights.missing("real-esrgan"):
        raise UserError(reason)
    found = weights.find("real-esrgan")
    assert found is not None  # checked by `missing`
    return peers.real_esrgan(found.path)


def restoring_teacher(params: Params, teacher: Path) -> Restorer:
    """The teacher that restores in `teacher.restorer.sampling_steps` steps, the whole image at once.

    Its noise depends on the size of the image alone, so that equal input gives equal output.
    """
    loaded = cache(lambda: _multi_step(params, teacher))

    def restore(lq: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(lq.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        return _to_uint8(loaded()(images)[0].transpose(1, 2, 0))

    return restore


# The baselines that evaluate.baselines may name: name -> factory.
BASELINES: dict[str, Callable[[Params, Path], Restorer]] = {
    "bicubic": lambda params, teacher: bicubic(params.data.scale),
    "round_trip": lambda params, teacher: round_trip(teacher, params.data.scale, params.teacher.use_shift),
    "restoring_teacher": restoring_teacher,
    "real_esrgan": lambda params, teacher: real_esrgan(params.data.scale),
}


def student(teacher: str | Path | None, directory: str | Path, scale: int, color: str) -> Restorer:
    """The one-step student in `directory`, on a GPU when there is one; without a teacher, a pipeline that was saved."""
    loaded = cache(lambda: _pipeline(teacher, directory, scale, color))
    return lambda lq: _to_uint8(loaded()(lq))


def _pipeline(
    teacher: str | Path | None, directory: str | Path, scale: int, color: str
) -> Callable[[np.ndarray], np.ndarray]:
    from tsdsr.inference import TSDSRPipeline

    load = TSDSRPipeline.from_pretrained
    pipe: Any = load(directory) if teacher is None else load(teacher, student=directory)
    pipe.set_progress_bar_config(disable=True)
    pipe.to(pick())
    return lambda lq: pipe(Image.fromarray(lq), scale=scale, color=color, output_type="np").images[0]


def _multi_step(params: Params, directory: Path) -> Callable[[torch.Tensor], np.ndarray]:
    """LQ [1,3,h,w] in [-1, 1] -> restored (1, 3, s h, s w) in [0, 1], with the student's colour alignment."""
    from tsdsr.inference.color import ALIGNMENTS
    from tsdsr.models import restoring, text
    from tsdsr.models import teacher as teachers
    from tsdsr.models.codec import LatentCodec
    from tsdsr.models.student import upsample

    place = pick()
    prompt = text.encode_prompts(
        teachers.load_text(teachers.locate(directory), dtype=torch.float32, device="cpu"), [params.prompts.default]
    )[0]
    teacher = teachers.load_teacher(directory, text_encoders=False, device=place)
    restoring.load(teacher.transformer, directory)
    steps = params.teacher.restorer.sampling_steps
    told = Prompt(prompt.embeds.to(place), prompt.pooled.to(place))
    restorer = restoring.RestoringTeacher(teacher.transformer, told)
    codec = LatentCodec(teacher.vae, params.teacher.use_shift)
    unit = codec.factor * int(teacher.transformer.config.patch_size)

    @torch.no_grad()
    def run(lq: torch.Tensor) -> np.ndarray:
        x_lq = upsample(lq.to(place), params.data.scale)
        height, width = x_lq.shape[-2:]
        z_lq = codec.encode(functional.pad(x_lq, (0, -width % unit, 0, -height % unit), mode="replicate"))
        noise = gaussian_like(z_lq, [seeding.generator(0, "restorer")])
        restored = codec.decode(restorer.restore(z_lq, noise, teacher.schedule, steps))[..., :height, :width]
        picture, reference, small = ((part / 2 + 0.5).cpu().numpy() for part in (restored, x_lq, lq))
        align = ALIGNMENTS[params.evaluate.color_alignment].prepare(
            small,
            lambda start, stop: picture[..., start:stop, :],
            lambda start, stop: reference[..., start:stop, :],
            [(0, height)],
        )
        return align(picture, reference)

    return run


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
