"""Operator by operator against basicsr itself, on the same drawn parameters; the tolerances are in agreement.py."""

import dataclasses

import cv2
import numpy as np
import pytest
import scipy.stats
import torch

from tsdsr.degradation import apply_degradation, draw_degradation, model
from tsdsr.degradation.draws import NoiseDraw, RoundDraw
from tsdsr.degradation.filters import _fourier
from tsdsr.degradation.jpeg import jpeg
from tsdsr.degradation.kernels import KINDS, GaussianKernel, SincKernel
from tsdsr.degradation.noise import add_noise, peak_count
from tsdsr.degradation.poisson import sample_poisson

from . import agreement
from . import basicsr_oracle as oracle


@pytest.fixture(scope="module")
def crop(photo):
    return np.ascontiguousarray(photo[:193, 150:351])  # odd sides, a face


@pytest.mark.parametrize("seed", range(25))
def test_every_operator_agrees_on_the_same_draws(crop, config, seed):
    draw = draw_degradation(config, np.random.default_rng(seed))
    assert not agreement.exceeded(agreement.differences(crop, draw, scale=4))


@pytest.mark.parametrize("size", [7, 21])
@pytest.mark.parametrize("kind", [*KINDS, "sinc"])
def test_kernel_weights(kind, size):
    """1e-12: the same formulas in float64, in another order."""
    kernel = SincKernel(size, 1.3) if kind == "sinc" else GaussianKernel(kind, size, 2.1, 0.9, 0.7, 1.4)
    if kind != "sinc" and KINDS[kind].isotropic:
        kernel = GaussianKernel(kind, size, 2.1, 2.1, 0.0, 1.4)
    np.testing.assert_allclose(kernel.weights(), oracle.kernel_weights(kernel), atol=1e-12, rtol=0)


@pytest.mark.parametrize("shape", [(64, 64), (37, 50), (9, 8), (1, 5)])
def test_fourier_blur_is_the_direct_sum_for_even_odd_and_tiny_pictures(shape):
    image = np.random.default_rng(0).random((*shape, 3), dtype=np.float32) * 255
    weights = GaussianKernel("aniso", 13, 3.0, 1.0, 0.5, 1.0).weights()
    direct = cv2.filter2D(image, cv2.CV_32F, weights, borderType=cv2.BORDER_REFLECT_101)
    np.testing.assert_allclose(_fourier(image, weights), direct, atol=1e-3)


def test_jpeg_is_basicsrs_library_jpeg_to_the_byte(crop):
    """basicsr's add_jpg_compression is the same codec; equal at whole qualities."""
    from basicsr.data.degradations import add_jpg_compression

    for quality in (30, 61, 95):
        theirs = add_jpg_compression(crop.astype(np.float32) / 255, quality) * 255
        np.testing.assert_array_equal(jpeg(crop, quality), np.rint(theirs).astype(np.uint8))


class _Replay:
    """A generator whose normal numbers are given: (H, W, 3) or (H, W)."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.row = values, 0

    def standard_normal(self, shape, dtype):
        self.row += shape[0]
        return self.values[self.row - shape[0] : self.row].astype(dtype)


@pytest.mark.parametrize("gray", [False, True])
def test_gaussian_noise_of_the_same_numbers(crop, gray, monkeypatch):
    """1e-3 levels: float32, scaled by 255 before or after."""
    image = crop[:, :, ::-1].astype(np.float32)
    rng = np.random.default_rng(0)
    colour, mono = rng.standard_normal(image.shape), rng.standard_normal(image.shape[:2])
    queue = ([mono] if gray else []) + [colour.transpose(2, 0, 1)[None]]
    monkeypatch.setattr(torch, "randn", lambda *_, **__: torch.from_numpy(np.ascontiguousarray(queue.pop(0))).float())
    draw = NoiseDraw("gaussian", 17.0, gray)
    theirs = oracle.to_levels(oracle.noise(oracle.to_tensor(image), draw))
    np.testing.assert_allclose(add_noise(image, draw, _Replay(mono if gray else colour)), theirs, atol=1e-3)


@pytest.mark.parametrize("gray", [False, True])
def test_poisson_noise_has_the_same_distribution(gray):
    """The generators differ, so two samples are compared: Kolmogorov-Smirnov, and equality of gray noise's channels."""
    image = np.empty((160, 160, 3), np.float32)
    image[:] = np.linspace(20, 200, 160, dtype=np.float32)[None, :, None]
    draw = NoiseDraw("poisson", 1.7, gray)
    torch.manual_seed(0)
    theirs = oracle.to_levels(oracle.noise(oracle.to_tensor(image), draw)) - image
    ours = add_noise(image, draw, np.random.default_rng(0)) - image
    assert scipy.stats.ks_2samp(ours[..., 0].ravel(), theirs[..., 0].ravel()).pvalue > 1e-3
    for noise in (ours, theirs):
        assert (np.ptp(noise, axis=2).max() < 1e-3) == gray


@pytest.mark.parametrize("peak", [1, 16, 256])
@pytest.mark.parametrize("level", [0, 1, 90, 255])
def test_poisson_counts_are_exact(peak, level):
    """Chi-square against the distribution, bins of at least 20 expected counts."""
    count, mean = 100_000, level * peak / 255
    found = np.bincount(sample_poisson(np.full(count, level, np.uint8), peak, np.random.default_rng(1)), minlength=600)
    expected = scipy.stats.poisson.pmf(np.arange(len(found)), mean) * count
    usual = expected >= 20
    assert found[expected < 1e-6].sum() == 0
    pairs = [(found[usual].sum(), expected[usual].sum()), *zip(found[usual], expected[usual])]
    statistic = sum((f - e) ** 2 / e for f, e in pairs[1:])
    assert statistic < scipy.stats.chi2.ppf(1 - 1e-4, max(1, usual.sum())) + 1e-9


def test_peak_count_is_the_number_of_levels_rounded_up():
    for levels, peak in ((1, 1), (2, 2), (3, 4), (129, 256), (256, 256)):
        picture = np.arange(levels, dtype=np.uint8).repeat(100)
        assert peak_count(picture.reshape(1, -1)) == peak


@pytest.mark.parametrize("seed", range(6))
def test_the_whole_chain_without_noise(photo, config, seed, monkeypatch):
    """The order of steps, with DiffJPEG in both chains.

    Mean below 1.3 levels: ours rounds to 8 bits at each JPEG, which moves coefficients over its quantisation steps
    (0.4 to 1.1 seen); JPEG and final resize swapped give 2 to 10.
    """
    draw = draw_degradation(config, np.random.default_rng(seed))
    draw = dataclasses.replace(draw, first=_silent(draw.first), second=_silent(draw.second))
    monkeypatch.setattr(model, "jpeg", _diff_jpeg)
    ours, _ = apply_degradation(photo, draw, scale=4, usm_sharpen_target=True, rng=np.random.default_rng(0))
    theirs = oracle.to_levels(oracle.degrade(oracle.to_tensor(photo), draw, scale=4, usm=True))
    assert np.abs(ours - theirs).mean() < 1.3


def _diff_jpeg(bgr: np.ndarray, quality: float) -> np.ndarray:
    decoded = oracle.to_levels(oracle.jpeg(oracle.to_tensor(bgr).flip(1), quality).flip(1))
    return np.rint(decoded).astype(np.uint8)


def _silent(step: RoundDraw) -> RoundDraw:
    return dataclasses.replace(step, noise=NoiseDraw("gaussian", 0.0, False))
