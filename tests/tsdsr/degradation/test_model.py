"""`degrade`: shapes, determinism, the switch, and what it refuses."""

import cv2
import numpy as np
import pytest

from tsdsr.degradation import degrade
from tsdsr.errors import UserError

SIZES = [(4, 128, 96), (4, 4, 8), (8, 32, 32), (1, 40, 36), (3, 99, 120)]


@pytest.mark.parametrize(("scale", "height", "width"), SIZES)
def test_any_size_that_is_a_multiple_of_scale(config, photo, scale, height, width):
    hq = photo[:height, :width]
    for seed in range(20):
        lq, target = degrade(hq, scale=scale, config=config, rng=np.random.default_rng(seed))
        assert lq.shape == (height // scale, width // scale, 3)
        assert lq.dtype == np.uint8
        np.testing.assert_array_equal(target, hq)


def test_same_state_same_bytes_whatever_the_threads(config, photo):
    threads = cv2.getNumThreads()
    try:
        for seed in range(6):
            results = []
            for count in (1, 2):
                cv2.setNumThreads(count)
                results.append(degrade(photo, scale=4, config=config, rng=np.random.default_rng(seed))[0])
            np.testing.assert_array_equal(*results)
    finally:
        cv2.setNumThreads(threads)


def test_other_state_other_bytes(config, photo):
    hq = photo[:128, :128]
    pictures = {degrade(hq, scale=4, config=config, rng=np.random.default_rng(seed))[0].tobytes() for seed in range(8)}
    assert len(pictures) == 8


def test_leaves_the_global_random_state_alone(config, photo):
    before = np.random.get_state()[1].copy()
    degrade(photo[:64, :64], scale=4, config=config, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_sharpened_target(config, photo):
    sharp = config.model_copy(update={"usm_sharpen_target": True})
    _, target = degrade(photo, scale=4, config=sharp, rng=np.random.default_rng(0))
    assert target.shape == photo.shape
    gain = [cv2.Laplacian(image, cv2.CV_32F).std() for image in (target, photo)]
    assert gain[0] > 1.1 * gain[1]


@pytest.mark.parametrize(
    "hq", [np.zeros((10, 12, 3), np.uint8), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32)]
)
def test_refuses_what_it_cannot_degrade(config, hq):
    with pytest.raises(UserError, match="found"):
        degrade(hq, scale=4, config=config, rng=np.random.default_rng(0))
