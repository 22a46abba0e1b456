"""The drawn choices: how often each comes, in which range, and that the committed ranges are the published ones."""

import math
from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError

from tsdsr.config import DegradationRound
from tsdsr.degradation import draw_degradation
from tsdsr.degradation.kernels import GaussianKernel, SincKernel

COUNT = 6000


@pytest.fixture(scope="module")
def draws(config):
    rng = np.random.default_rng(0)
    return [draw_degradation(config, rng) for _ in range(COUNT)]


def assert_frequency(found: int, tried: int, probability: float) -> None:
    """Within five standard deviations of a binomial."""
    assert abs(found - tried * probability) <= 5 * math.sqrt(tried * probability * (1 - probability)) + 1e-9


def rounds(draws, config):
    return [([d.first for d in draws], config.first), ([d.second for d in draws], config.second)]


def test_committed_ranges_are_the_published_ones(config):
    """Real-ESRGAN, options/train_realesrgan_x4plus.yml; kernel sizes are set in basicsr's RealESRGANDataset."""
    kinds = {"iso": 0.45, "aniso": 0.25, "generalized_iso": 0.12, "generalized_aniso": 0.03}
    kinds |= {"plateau_iso": 0.12, "plateau_aniso": 0.03}
    for step, sigma, blur, resize, bounds, noise, shot in [
        (config.first, 3.0, 1.0, (0.2, 0.7, 0.1), (0.15, 1.5), (1, 30), (0.05, 3)),
        (config.second, 1.5, 0.8, (0.3, 0.4, 0.3), (0.3, 1.2), (1, 25), (0.05, 2.5)),
    ]:
        assert step.blur.kernel_sizes == (7, 9, 11, 13, 15, 17, 19, 21)
        assert step.blur.kinds == kinds
        assert step.blur.sigma == (0.2, sigma)
        assert (step.blur.beta_generalized, step.blur.beta_plateau) == ((0.5, 4), (1, 2))
        assert (step.blur.sinc_probability, step.blur.probability) == (0.1, blur)
        assert (step.resize.up, step.resize.down, step.resize.keep) == resize
        assert step.resize.range == bounds
        assert (step.noise.gaussian_sigma, step.noise.poisson_scale) == (noise, shot)
        assert (step.noise.gaussian_probability, step.noise.gray_probability) == (0.5, 0.4)
        assert step.jpeg_quality == (30, 95)
    assert config.final_sinc_probability == 0.8


def test_kernels(draws, config):
    for steps, wanted in rounds(draws, config):
        kernels = [step.kernel for step in steps if step.kernel is not None]
        assert_frequency(len(kernels), COUNT, wanted.blur.probability)
        sinc = [kernel for kernel in kernels if isinstance(kernel, SincKernel)]
        assert_frequency(len(sinc), len(kernels), wanted.blur.sinc_probability)
        assert all(math.pi / (3 if kernel.size < 13 else 5) <= kernel.cutoff <= math.pi for kernel in sinc)
        others = [kernel for kernel in kernels if isinstance(kernel, GaussianKernel)]
        found = Counter(kernel.kind for kernel in others)
        for kind, probability in wanted.blur.kinds.items():
            assert_frequency(found[kind], len(others), probability)
        sizes = Counter(kernel.size for kernel in kernels)
        for size in wanted.blur.kernel_sizes:
            assert_frequency(sizes[size], len(kernels), 1 / len(wanted.blur.kernel_sizes))
        for kernel in others:
            assert wanted.blur.sigma[0] <= min(kernel.sigma_x, kernel.sigma_y)
            assert max(kernel.sigma_x, kernel.sigma_y) <= wanted.blur.sigma[1]
            assert kernel.kind.endswith("aniso") or (kernel.sigma_x == kernel.sigma_y and kernel.rotation == 0)


def test_beta_is_as_often_below_one_as_above(draws):
    betas = [d.first.kernel.beta for d in draws if getattr(d.first.kernel, "kind", "").startswith("generalized")]
    assert_frequency(sum(beta < 1 for beta in betas), len(betas), 0.5)
    assert 0.5 <= min(betas) < 0.6
    assert 3.8 < max(betas) <= 4
    flat = [d.first.kernel.beta for d in draws if getattr(d.first.kernel, "kind", "").startswith("plateau")]
    assert_frequency(sum(beta == 1 for beta in flat), len(flat), 0.5)  # as in basicsr: the range starts at 1
    assert max(flat) <= 2


def test_resizes_noise_and_quality(draws, config):
    for steps, wanted in rounds(draws, config):
        factors = np.array([step.resize.factor for step in steps])
        assert_frequency(int((factors > 1).sum()), COUNT, wanted.resize.up)
        assert_frequency(int((factors < 1).sum()), COUNT, wanted.resize.down)
        assert_frequency(int((factors == 1).sum()), COUNT, wanted.resize.keep)
        assert wanted.resize.range[0] <= factors.min() < wanted.resize.range[0] + 0.01
        assert wanted.resize.range[1] - 0.01 < factors.max() <= wanted.resize.range[1]
        modes = Counter(step.resize.mode for step in steps)
        for mode in ("area", "bilinear", "bicubic"):
            assert_frequency(modes[mode], COUNT, 1 / 3)
        assert_frequency(sum(s.noise.kind == "gaussian" for s in steps), COUNT, wanted.noise.gaussian_probability)
        assert_frequency(sum(s.noise.gray for s in steps), COUNT, wanted.noise.gray_probability)
        for kind, bounds in (("gaussian", wanted.noise.gaussian_sigma), ("poisson", wanted.noise.poisson_scale)):
            strengths = [step.noise.strength for step in steps if step.noise.kind == kind]
            assert bounds[0] <= min(strengths)
            assert max(strengths) <= bounds[1]
            assert abs(np.mean(strengths) - np.mean(bounds)) < 0.03 * (bounds[1] - bounds[0])
        qualities = [step.jpeg_quality for step in steps]
        assert 30 <= min(qualities) < 31
        assert 94 < max(qualities) <= 95


def test_last_steps(draws, config):
    assert_frequency(sum(d.jpeg_last for d in draws), COUNT, 0.5)
    sinc = [d.final_sinc for d in draws if d.final_sinc is not None]
    assert_frequency(len(sinc), COUNT, config.final_sinc_probability)
    assert all(math.pi / 3 <= kernel.cutoff <= math.pi for kernel in sinc)
    assert {kernel.size for kernel in sinc} == set(config.second.blur.kernel_sizes)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("blur.beta_plateau", [2.0, 4.0]),
        ("blur.sigma", [0.0, 1.0]),
        ("blur.kernel_sizes", [7, 8]),
        ("blur.kinds", {"iso": 0.4}),
        ("resize.range", [0.2, 0.9]),
        ("noise.poisson_scale", [-1.0, 1.0]),
        ("jpeg_quality", [95, 30]),
    ],
)
def test_a_range_that_cannot_be_drawn_from_is_refused(config, path, value):
    section, _, key = path.rpartition(".")
    values = config.first.model_dump()
    (values[section] if section else values)[key] = value
    with pytest.raises(ValidationError, match=key):
        DegradationRound.model_validate(values)
