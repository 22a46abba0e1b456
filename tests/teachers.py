"""A teacher of preset tiny with random weights, and a folder of pairs, on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tsdsr import files
from tsdsr.models import presets, teacher, text

TEXTS = ("a cup on a table", "a cat, asleep", "a sharp photograph", "")


def write_random_teacher(directory: Path) -> Path:
    """What the teacher stage writes, without its training."""
    from diffusers import StableDiffusion3Pipeline

    tiny = presets.get("tiny")
    StableDiffusion3Pipeline(
        transformer=presets.build_transformer(tiny, seed=0),
        vae=presets.build_vae(tiny, seed=0),
        scheduler=presets.build_scheduler(tiny),
        **text.build_text(tiny, TEXTS, seed=0),
    ).save_pretrained(directory)
    record = {"format": teacher.FORMAT, "preset": "tiny", "source": None, "revision": None}
    files.write_json(directory / teacher.RECORD, record)
    return directory


def write_pairs(root: Path, *, count: int, side: int, seed: int = 0) -> Path:
    """`count` pairs of smooth noise, the HQ sides `side` pixels, with the first of `TEXTS` as captions in turn."""
    rng = np.random.default_rng(seed)
    for folder in ("hq", "lq", "captions"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
        name = f"picture-c{number:03d}"
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(root / "hq" / f"{name}.png")
        coarse.resize((side // 4, side // 4), Image.Resampling.BICUBIC).save(root / "lq" / f"{name}.png")
        (root / "captions" / f"{name}.txt").write_text(f"{TEXTS[number % 2]}\n")
    return root
