import pytest
import torch
import torch.nn.functional as F

from tsdsr.inference.color import adain, chroma_noise, wavelet


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


def test_the_colour_of_small_things_comes_back_and_their_brightness_does_not() -> None:
    grey = F.interpolate(torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(0)), scale_factor=4.0)
    reference = (0.5 * grey + 0.25).repeat(1, 3, 1, 1)
    result = reference.clone()
    reference[:, 0, 40:52, 40:52] += 0.3  # a red square of 12 pixels, grey in the result
    literal, finer = wavelet(result, reference), wavelet(result, reference, torch.zeros(1, 3, 1, 1))
    red = (finer - literal)[0, :, 44:48, 44:48].mean((1, 2))
    assert red[0] > 0.1 > 0 > red[1]
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    torch.testing.assert_close((finer * luma).sum(1), (literal * luma).sum(1), atol=1e-5, rtol=0)


def test_colour_noise_stays_behind() -> None:
    small = 0.5 + 0.05 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = 0.05 * (0.701**2 + 0.587**2 + 0.114**2) ** 0.5  # of R - Y
    assert float(chroma_noise(small).sqrt().flatten()[0]) == pytest.approx(expected, rel=0.2)
    reference = F.interpolate(small, scale_factor=4.0, mode="bicubic")
    clean = torch.full_like(reference, 0.5)
    literal = wavelet(clean, reference)
    unaware, aware = (wavelet(clean, reference, chroma_noise(small) * on) - literal for on in (0, 1))
    assert aware.square().mean() < 0.3 * unaware.square().mean()
