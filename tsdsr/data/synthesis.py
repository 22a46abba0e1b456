"""From a photograph to (LQ, HQ) pairs: pure functions of the pixels, the seed and the labels of the draw.

Offline pairs (stage prepare-degradations) are those of epoch 0; online degradation asks for further epochs.
"""

from __future__ import annotations

import numpy as np

from tsdsr import degradation, seeding
from tsdsr.config import Params
from tsdsr.data.crops import Box, fixed_boxes, random_box


def train_box(size: tuple[int, int], photograph_id: str, crop_index: int, epoch: int, seed: int, params: Params) -> Box:
    """Where a training crop lies in a photograph of (height, width) pixels."""
    rng = seeding.numpy_generator(seed, "crop", photograph_id, crop_index, epoch)
    return random_box(*size, params.data.crop_size, rng)


def make_pair(
    photograph: np.ndarray, photograph_id: str, crop_index: int, epoch: int, seed: int, params: Params
) -> tuple[np.ndarray, np.ndarray]:
    """One training pair. Equal arguments give equal pixels in every process.

    Args:
        photograph: uint8 sRGB, (H, W, 3), both sides at least `data.crop_size`.
        photograph_id: the name that the draws belong to.
        crop_index: which crop of the photograph, from 0.
        epoch: 0 for the pairs on disk.
        seed: the experiment's seed.
        params: `data` gives the crop's side and the scale, `degradation` the ranges.

    Returns:
        LQ, uint8 (crop_size / scale, crop_size / scale, 3), and HQ, uint8 (crop_size, crop_size, 3).
    """
    box = train_box(photograph.shape[:2], photograph_id, crop_index, epoch, seed, params)
    rng = seeding.numpy_generator(seed, "degradation", photograph_id, crop_index, epoch)
    return degradation.degrade(box.cut(photograph), scale=params.data.scale, config=params.degradation, rng=rng)


def fixed_test_boxes(size: tuple[int, int], params: Params) -> list[Box]:
    """Where the test crops lie in a photograph of (height, width) pixels."""
    return fixed_boxes(*size, params.data.test_crop_size, params.data.crops_per_photograph.test)


def make_test_pair(
    photograph: np.ndarray, photograph_id: str, crop_index: int, seed: int, params: Params
) -> tuple[np.ndarray, np.ndarray]:
    """One test pair: a crop at a fixed place, degraded once. Its HQ side is the photograph itself, never sharpened."""
    box = fixed_test_boxes(photograph.shape[:2], params)[crop_index]
    rng = seeding.numpy_generator(seed, "test degradation", photograph_id, crop_index)
    hq = box.cut(photograph)
    config = params.degradation.model_copy(update={"usm_sharpen_target": False})
    lq, _ = degradation.degrade(hq, scale=params.data.scale, config=config, rng=rng)
    return lq, hq
