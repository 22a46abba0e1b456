from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tsdsr.inference import color
from tsdsr.inference.color import Moments, match


def of_tensors(function: Callable[..., np.ndarray]) -> Callable[..., torch.Tensor]:
    """The function, for tensors."""
    return lambda *tensors: torch.from_numpy(function(*(tensor.numpy() for tensor in tensors)))


adain = of_tensors(lambda x, y: match(x, Moments.of(x), Moments.of(y)))
noise_variance, wavelet = of_tensors(color.noise_variance), of_tensors(color.wavelet)


def picture(seed: int, size: tuple[int, int] = (40, 56)) -> torch.Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(seed))


def test_adain_takes_mean_and_deviation_of_each_picture_and_channel() -> None:
    x, reference = picture(0), 0.3 * picture(1, (17, 9)) + 0.5
    result = adain(x, reference)
    for statistic in (torch.mean, lambda t, dim: torch.std(t, dim=dim, correction=0)):
        torch.testing.assert_close(
            statistic(result, dim=(2, 3)), statistic(reference, dim=(2, 3)), atol=1e-4, rtol=1e-4
        )


def test_adain_of_a_constant_picture_is_the_reference_mean() -> None:
    reference = picture(1)
    result = adain(torch.full((2, 3, 8, 8), 0.2), reference)
    torch.testing.assert_close(result, reference.mean((2, 3), keepdim=True).expand(-1, -1, 8, 8), atol=1e-3, rtol=0)


def literal_wavelet(x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The decomposition as it is written down: details summed level by level, each blur a full 3x3 kernel."""
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]).div(16)[None, None].expand(3, 1, 3, 3)

    def decompose(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        detail = torch.zeros_like(image)
        for level in range(5):
            reach = 2**level
            padded = F.pad(image, (reach,) * 4, mode="replicate")
            low = F.conv2d(padded, kernel, dilation=reach, groups=3)
            detail, image = detail + image - low, low
        return detail, image

    return decompose(x)[0] + decompose(reference)[1]


def test_wavelet_equals_the_literal_decomposition() -> None:
    x, reference = picture(0), picture(1)
    torch.testing.assert_close(wavelet(x, reference), literal_wavelet(x, reference), atol=1e-5, rtol=1e-5)


def test_wavelet_removes_a_colour_cast_and_keeps_detail() -> None:
    x = picture(0)
    cast = torch.tensor([0.2, -0.1, 0.05]).view(1, 3, 1, 1)
    torch.testing.assert_close(wavelet(x + cast, x), x, atol=1e-5, rtol=1e-5)


NO_NOISE = torch.zeros(1, 4, 1, 1)
LUMA = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)


def test_the_colour_of_small_things_comes_back() -> None:
    grey = F.interpolate(torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(0)), scale_factor=4.0)
    result = (0.5 * grey + 0.25).repeat(1, 3, 1, 1)
    reference = result.clone()
    reference[:, :, 40:52, 40:52] += torch.tensor([0.3, -0.3 * 0.299 / 0.587, 0.0]).view(3, 1, 1)  # red, as bright
    found = wavelet(result, reference, NO_NOISE)
    torch.testing.assert_close(found, reference, atol=1e-5, rtol=0)
    assert (wavelet(result, reference) - reference)[..., 44:48, 44:48].abs().amax() > 0.2  # the literal form: grey


def test_brightness_that_was_lost_comes_back_and_what_was_sharpened_stays() -> None:
    stripes = (0.5 + 0.2 * torch.sign(torch.sin(torch.arange(96) * torch.pi / 4 + 0.1))).expand(1, 3, 96, 96)
    faint = 0.5 + 0.2 * (stripes - 0.5)
    lost, kept = wavelet(faint, stripes, NO_NOISE), wavelet(stripes, faint, NO_NOISE)
    assert (lost - stripes).abs().mean() < 0.1 * (faint - stripes).abs().mean()
    torch.testing.assert_close(kept, wavelet(stripes, faint), atol=1e-5, rtol=0)


@pytest.mark.parametrize("coloured", [True, False])
def test_noise_stays_behind(coloured: bool) -> None:
    small = 0.5 + 0.05 * torch.randn(1, 3 if coloured else 1, 64, 64, generator=torch.Generator().manual_seed(0))
    small = small.expand(-1, 3, -1, -1)
    noise = noise_variance(small)
    deviations = {True: (0.701**2 + 0.587**2 + 0.114**2) ** 0.5, False: 0.0}  # of R - Y, per 0.05
    assert float(noise[:, 0].sqrt()) == pytest.approx(0.05 * deviations[coloured], rel=0.2, abs=1e-4)
    assert float(noise[:, 3].sqrt()) == pytest.approx(0.05 * (float(LUMA.norm()) if coloured else 1), rel=0.2)
    reference = F.interpolate(small, scale_factor=4.0, mode="bicubic")
    clean = torch.full_like(reference, 0.5)
    literal = wavelet(clean, reference)
    unaware, aware = (wavelet(clean, reference, noise * on) - literal for on in (0, 1))
    assert aware.square().mean() < 0.3 * unaware.square().mean()
