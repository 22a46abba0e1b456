"""Texture losses: the energy of fine detail in each neighbourhood, independent of its exact position.

Squared and absolute errors are minimal for the mean of all plausible images, which is blurred. These terms compare
local energies instead, on a logarithmic scale, without a network or weights. Both are needed: a grid can match the
energy of differences, but is a peak in the spectrum; single bright dots can match the spectrum, since they have all
frequencies, but leave the rest of a small neighbourhood empty.

Legend: B batch, H W pixels, n windows, k frequencies.

Source: this project's own; matching local statistics of band-pass responses is the idea of Portilla and Simoncelli,
IJCV 2000.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

WINDOW = 16  # side of a spectrum's window in pixels; windows overlap by half
POOL = 3  # windows along a side whose power is averaged, since one window's spectrum is too noisy
POWER_FLOOR = 1e-3  # power floor: about that of noise of one grey level of 255
CELL = 4  # side of a neighbourhood of differences, in pixels of its level
LEVELS = 2  # each half the size of the one before
ENERGY_FLOOR = 1e-4  # differences of about one grey level of 255


def texture_loss(x_hat: Tensor, x: Tensor) -> Tensor:
    """(B,): `spectrum_loss` + `detail_loss`, in float32 or wider.

    Args:
        x_hat, x: (B, 3, H, W) in [-1, 1], sides of at least 32 pixels; the gradient reaches both.
    """
    x_hat, x = (image.to(torch.promote_types(image.dtype, torch.float32)) for image in (x_hat, x))
    return spectrum_loss(x_hat, x) + detail_loss(x_hat, x)


def spectrum_loss(x_hat: Tensor, x: Tensor) -> Tensor:
    """(B,): mean absolute difference of the logarithms of local power spectra."""
    return (_log_spectra(x_hat) - _log_spectra(x)).abs().flatten(1).mean(1)


def detail_loss(x_hat: Tensor, x: Tensor) -> Tensor:
    """(B,): mean absolute difference of the logarithms of the energies of differences between neighbours."""
    pairs = zip(_log_energies(x_hat), _log_energies(x), strict=True)
    return torch.stack([(found - wanted).abs().flatten(1).mean(1) for found, wanted in pairs]).mean(0)


def _log_spectra(x: Tensor) -> Tensor:
    """Logarithm of the pooled power at every frequency but the mean, (B, 3 k, n, n)."""
    hann = torch.hann_window(WINDOW, periodic=False, dtype=x.dtype, device=x.device)
    windows = x.unfold(2, WINDOW, WINDOW // 2).unfold(3, WINDOW, WINDOW // 2)  # [B,3,n,n,16,16]
    power = torch.fft.rfft2(windows * hann[:, None] * hann).abs().pow(2).flatten(4)[..., 1:]  # [B,3,n,n,k]
    pooled = functional.avg_pool2d(power.permute(0, 1, 4, 2, 3).flatten(1, 2), POOL, stride=POOL - 1)
    return (pooled + POWER_FLOOR).log()


def _log_energies(x: Tensor) -> list[Tensor]:
    """Across and down at each level, each (B, 3, h, w)."""
    energies = []
    for level in range(LEVELS):
        if level:
            x = functional.avg_pool2d(x, 2)
        for difference in (x.diff(dim=-1), x.diff(dim=-2)):
            local = functional.avg_pool2d(difference.pow(2), CELL, stride=CELL // 2)
            energies.append((local + ENERGY_FLOOR).log())
    return energies
