"""A workspace as the stages would leave it, with drawn pictures and made-up scores that say what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from tsdsr import files, metrics

METHODS = ("full", "wo_tsm-seed0", "wo_dasm-seed0", "bicubic", "round_trip")
IDS = ("barn", "coast", "lamp")
ABSENT = "weights alexnet (alexnet-owt-7be5be79.pth) are absent: `tsdsr weights fetch alexnet`"


def picture(seed: int, side: int = 64) -> Image.Image:
    """Soft blobs, as a photograph's stand-in."""
    noise = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2))


def write_scores(folder: Path, method: str, means: Mapping[str, float | None], ids: Sequence[str] = IDS) -> None:
    """Scores as `tsdsr.metrics.write` leaves them: image k scores k more than `means` says."""
    chosen = metrics.select(list(means))
    scores = metrics.Scores(
        names=[f"{name}.png" for name in ids],
        metrics=chosen,
        values={
            name: {f"{image}.png": mean + index for index, image in enumerate(ids)}
            for name, mean in means.items()
            if mean is not None
        },
        dataset={},
        reasons={name: ABSENT for name, mean in means.items() if mean is None},
        weights={},
        problems=[],
    )
    provenance = {"run": f"run-{method}", "commit": "c0ffee", "params": "9a"}
    out, device = folder / f"{method}.csv", torch.device("cpu")
    metrics.write(scores, out, method=method, dataset="made-up", device=device, provenance=provenance)


def make_workspace(root: Path) -> None:
    """A root folder with pairs, restored images, scores, curves and a stage's metrics."""
    test = root / "data/pairs/test"
    for folder in (test / "hq", test / "lq", *(root / "data/restored" / method for method in METHODS)):
        folder.mkdir(parents=True)
    for seed, name in enumerate(IDS):
        hq = picture(seed)
        hq.save(test / "hq" / f"{name}.png")
        hq.resize((16, 16), Image.Resampling.BICUBIC).save(test / "lq" / f"{name}.png")
        for radius, method in enumerate(METHODS):
            hq.filter(ImageFilter.GaussianBlur(1 + radius / 4)).save(root / "data/restored" / method / f"{name}.png")
    (root / "reports/scores").mkdir(parents=True)
    for index, method in enumerate(METHODS):
        write_scores(root / "reports/scores", method, {"psnr": 25.0 - index, "ssim": 0.8 - index / 10, "lpips": None})
    (root / "reports/curves").mkdir()
    for variant in ("full", "wo_tsm-seed0"):
        rows = [f"{step},{1 / step},{'' if step < 6 else 2 / step}" for step in range(1, 12)]
        (root / f"reports/curves/{variant}.csv").write_text("\n".join(["step,lpips,tsd", *rows]) + "\n")
    losses = {"gaussian": 1.4, "mean": 1.9, "teacher": 1.1}
    flow = {"t0000_0500": losses, "t0500_1000": losses}
    files.write_json(root / "reports/metrics/teacher.json", {"vae_psnr_test": 28.5, "flow": flow})


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A root folder as the stages would leave it."""
    make_workspace(tmp_path)
    return tmp_path
