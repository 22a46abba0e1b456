"""A teacher's autoencoder in bfloat16 compared with float32: the distance of its pictures, and whether a grid appears.

    python benchmarks/vae_precision.py [--quick] [--teacher DIR] [--photographs DIR]

SD3's configuration says `force_upcast`, which StableDiffusion3Pipeline does not read: it decodes in its weights' dtype.
So does a student, in bfloat16 with `distill.precision: bfloat16` and on a GPU. This encodes and decodes photographs in
both, and scores the energy at the period of a latent and of a token of 2 x 2 latents over its neighbours'. Without
`--teacher` it is the shipped one; SD3's is a directory in its format. On a CPU, whose bfloat16 is slow, weights and the
result of each operation are rounded instead, as a GPU's kernels round them. The last line is JSON; `equal` says that
bfloat16 adds less than 0.5 dB of pattern.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_map  # noqa: E402

from pipeline.tracking.provenance import hardware  # noqa: E402
from tsdsr import device as devices  # noqa: E402
from tsdsr.data.images import normalized  # noqa: E402
from tsdsr.data.photographs import find_photographs  # noqa: E402
from tsdsr.data.reading import read_photograph  # noqa: E402
from tsdsr.inference.opening import DEFAULT, SHIPPED, TEACHER  # noqa: E402
from tsdsr.losses.pattern import PERIODS  # noqa: E402
from tsdsr.metrics.pattern import periodic_pattern  # noqa: E402
from tsdsr.models.codec import LatentCodec  # noqa: E402
from tsdsr.models.teacher import load_vae, locate  # noqa: E402

MOST_DB = 0.5
SIDE = 512


class Rounded(TorchDispatchMode):
    """Rounds the result of each operation to bfloat16. No operation may work in place."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def rounded(value: Any) -> Any:
            return value.bfloat16().float() if isinstance(value, Tensor) and value.dtype == torch.float32 else value

        return tree_map(rounded, func(*args, **(kwargs or {})))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="four photographs")
    parser.add_argument("--teacher", type=Path, default=SHIPPED / DEFAULT / TEACHER, help="a directory in SD3's format")
    parser.add_argument("--photographs", default="bundled", help="a folder of photographs")
    options = parser.parse_args()
    device = devices.pick()
    images = [image.to(device) for image in photographs(options.photographs, 4 if options.quick else 12)]
    exact = round_trips(options.teacher, device, images, torch.float32)
    ours = round_trips(options.teacher, device, images, torch.bfloat16)
    rows = {
        name: {"psnr": mean(map(psnr, pictures, images)), **{f"pattern_{p}_db": pattern(pictures, p) for p in PERIODS}}
        for name, pictures in (("photographs", images), ("float32", exact), ("bfloat16", ours))
    }
    rise = max(rows["bfloat16"][f"pattern_{p}_db"] - rows["float32"][f"pattern_{p}_db"] for p in PERIODS)
    apart = mean(map(psnr, ours, exact))
    for name, row in rows.items():
        print(f"{name:12}" + "  ".join(f"{key} {value:.2f}" for key, value in row.items()))
    print(f"bfloat16 and float32 are {apart:.2f} dB apart; the pattern rises by at most {rise:.3f} dB")
    result = {
        "name": "vae_precision",
        "teacher": str(options.teacher).removeprefix(f"{ROOT}/"),
        "images": len(images),
        "rows": {name: {key: round(value, 3) for key, value in row.items()} for name, row in rows.items()},
        "psnr_between": round(apart, 2),
        "largest_rise_db": round(rise, 4),
        "rounded": device.type == "cpu",
        "hardware": hardware(),
        "equal": rise < MOST_DB,
    }
    print(json.dumps(result))


def photographs(source: str, count: int) -> list[Tensor]:
    """The middle of some photographs, [1,3,H,W] each, at most `SIDE` along a side."""
    images = []
    for reference in find_photographs(source)[:count]:
        pixels = read_photograph(reference.path, 200)
        side = min(SIDE, min(pixels.shape[:2]) // PERIODS[-1] * PERIODS[-1])
        top, left = ((length - side) // 2 for length in pixels.shape[:2])
        images.append(normalized(pixels[top : top + side, left : left + side])[None])
    return images


def round_trips(teacher: Path, device: torch.device, images: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """What the autoencoder makes of each image, computed in `dtype`; float32."""
    emulates = dtype == torch.bfloat16 and device.type == "cpu"
    vae = load_vae(locate(teacher), dtype=dtype, device=device)
    codec = LatentCodec(vae.float() if emulates else vae, use_shift=False)
    found = []
    for image in images:
        if emulates:
            with Rounded():
                found.append(codec.round_trip(image))
        else:
            found.append(codec.round_trip(image).float())
    return [image.clamp(-1, 1) for image in found]


def psnr(image: Tensor, reference: Tensor) -> float:
    """In dB, of images in [-1, 1]; 99 of equal ones."""
    return float(-10 * torch.log10(((image - reference) / 2).square().mean().clamp(min=10**-9.9)))


def pattern(images: list[Tensor], period: int) -> float:
    """The mean score, in dB."""
    return mean(float(periodic_pattern((image + 1) / 2, period)) for image in images)


if __name__ == "__main__":
    main()
