from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage import data as pictures

from tsdsr import seeding
from tsdsr.metrics.pattern import periodic_pattern

PERIOD = 8


def photographs(side: int = 128) -> torch.Tensor:
    """Crops of real photographs, (B, 3, side, side) in [0, 1]."""
    found = [pictures.astronaut(), pictures.chelsea(), pictures.coffee(), pictures.rocket()]
    crops = [image[top : top + side, top : top + side] for image in found for top in (40, 130)]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255


def grid(side: int, period: int, seed: int = 0) -> torch.Tensor:
    """One random patch, repeated: mean 0, root mean square 1."""
    patch = torch.randn(period, period, generator=seeding.generator(seed, "patch"))
    patch = (patch - patch.mean()) / patch.std(correction=0)
    count = math.ceil(side / period)
    return patch.repeat(count, count)[:side, :side]


def test_photographs_have_no_pattern():
    scores = periodic_pattern(photographs(), PERIOD)
    assert float(scores.mean().abs()) < 1.5
    assert float(scores.max()) < 4


def test_a_faint_grid_is_seen_and_a_stronger_one_scores_higher():
    clean = photographs()
    scores = [
        float(periodic_pattern(clean + amplitude * grid(128, PERIOD), PERIOD).mean())
        for amplitude in (0, 0.01, 0.03, 0.1)
    ]
    assert scores[1] > scores[0] + 3
    assert scores == sorted(scores)


def test_only_the_patches_own_period_counts():
    clean = photographs()
    before = periodic_pattern(clean, PERIOD)
    other = periodic_pattern(clean + 0.03 * grid(128, 7), PERIOD)
    assert float((other - before).abs().mean()) < 1.5


def test_where_the_grid_starts_does_not_matter():
    pattern = grid(160, PERIOD)
    scores = [
        float(periodic_pattern(photographs() + 0.05 * pattern[shift : shift + 128, shift : shift + 128], PERIOD).mean())
        for shift in (0, 3, 6)
    ]
    assert max(scores) - min(scores) < 0.5


def test_a_pure_grid_matches_the_formula():
    """A single cosine of the patch's frequency: all the windowed energy sits on one harmonic and its next bins."""
    x = torch.arange(128, dtype=torch.float64)
    wave = 0.5 + 0.1 * torch.cos(2 * math.pi * x / PERIOD)
    image = wave.expand(1, 3, 128, 128)
    assert float(periodic_pattern(image, PERIOD)) > 30


def test_a_small_image_is_refused():
    with pytest.raises(ValueError, match="fewer than 8 patches of 16"):
        periodic_pattern(torch.zeros(1, 3, 128, 120), 16)
