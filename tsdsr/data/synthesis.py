"""Make (LQ, HQ) pairs from a photograph: pure functions of the pixels, the seed and the labels of the draws.

A crop's position depends on (seed, photograph, crop), so that its cached latent is valid in every epoch; its
degradation depends on (seed, photograph, crop, epoch). The pairs on disk are those of epoch 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tsdsr import degradation, seeding
from tsdsr.config import DegradationConfig, Params
from tsdsr.data.crops import Box, fixed_boxes, random_box
from tsdsr.data.pairs import split_pair_id
from tsdsr.degradation.usm import usm_sharpen


def train_box(size: tuple[int, int], photograph_id: str, crop_index: int, seed: int, params: Params) -> Box:
    """The position of a training crop in a photograph of (height, width) pixels."""
    return random_box(*size, params.data.crop_size, seeding.numpy_generator(seed, "crop", photograph_id, crop_index))


def make_pair(
    photograph: np.ndarray, photograph_id: str, crop_index: int, epoch: int, seed: int, params: Params
) -> tuple[np.ndarray, np.ndarray]:
    """One training pair. Equal arguments give equal pixels in every process.

    Args:
        photograph: uint8 sRGB, (H, W, 3), both sides at least `data.crop_size`.
        photograph_id: the label of the draws.
        crop_index: the number of the crop, from 0.
        epoch: 0 for the pairs on disk.
        seed: the experiment's seed.
        params: `data` gives the crop's side and the scale, `degradation` the ranges.

    Returns:
        LQ, uint8 (crop_size / scale, crop_size / scale, 3), and HQ, uint8 (crop_size, crop_size, 3), sharpened with
        `degradation.usm_sharpen_target`.
    """
    hq = train_box(photograph.shape[:2], photograph_id, crop_index, seed, params).cut(photograph)
    if params.degradation.usm_sharpen_target:
        hq = sharpen(hq)
    return _degrade(hq, params, seed, "degradation", photograph_id, crop_index, epoch), hq


def degrade_again(hq: np.ndarray, pair: str, epoch: int, seed: int, params: Params) -> np.ndarray:
    """The LQ side of a training pair on disk in another epoch (in epoch 0: the one on disk).

    Args:
        hq: the pair's HQ side as read from disk, uint8 (crop_size, crop_size, 3).

    Returns:
        uint8, (crop_size / scale, crop_size / scale, 3).
    """
    photograph_id, crop_index = split_pair_id(pair)
    return _degrade(hq, params, seed, "degradation", photograph_id, crop_index, epoch)


def make_test_pair(
    photograph: np.ndarray, photograph_id: str, crop_index: int, box: Box, seed: int, params: Params
) -> tuple[np.ndarray, np.ndarray]:
    """One test pair. Its HQ side is the photograph's crop, never sharpened."""
    hq = box.cut(photograph)
    return _degrade(hq, params, seed, "test degradation", photograph_id, crop_index), hq


def sharpen(hq: np.ndarray) -> np.ndarray:
    """Real-ESRGAN's sharpened target, rounded to 8 bits before it is degraded, as it is on disk."""
    return np.rint(usm_sharpen(hq.astype(np.float32))).clip(0, 255).astype(np.uint8)


def _degrade(hq: np.ndarray, params: Params, seed: int, *labels: object) -> np.ndarray:
    config: DegradationConfig = params.degradation.model_copy(update={"usm_sharpen_target": False})
    rng = seeding.numpy_generator(seed, *labels)
    return degradation.degrade(hq, scale=params.data.scale, config=config, rng=rng)[0]


def _fixed_crops(size: tuple[int, int], photograph_id: str, params: Params) -> list[Box]:
    return fixed_boxes(*size, params.data.test_crop_size, params.data.crops_per_photograph.test)


def _random_crops(size: tuple[int, int], photograph_id: str, params: Params) -> list[Box]:
    crops = range(params.data.crops_per_photograph.test)
    generators = (seeding.numpy_generator(params.seed, "test crop", photograph_id, crop) for crop in crops)
    return [random_box(*size, params.data.test_crop_size, rng) for rng in generators]


# data.test_set -> the positions of a test photograph's crops. DIV2K-Val was made with `random_crops`.
TEST_BOXES: dict[str, Callable[[tuple[int, int], str, Params], list[Box]]] = {
    "fixed_crops": _fixed_crops,
    "random_crops": _random_crops,
}
