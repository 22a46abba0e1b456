"""Initialise an autoencoder as a good linear one, so that a short training improves on it.

From a random start, an autoencoder of this size needs most of a short training to reach the quality of principal
components. This sets an AutoencoderKL's weights so that it computes them:

- every residual block starts as the identity (its last convolution is zero);
- each strided convolution of the encoder maps a 2x2 block to its leading principal components, so that the latent holds
  the leading components of factor x factor blocks, scaled towards equal size;
- each convolution after an upsampling in the decoder predicts the pyramid's next level by least squares;
- the normalisation and SiLU before an output are made linear: a signal x goes through as the pair (x, -x), since
  silu(x) - silu(-x) = x, and constant channels keep the normalisation's divisor steady.

Channels that this does not use keep their random weights for training to use. Needs a VAE without attention, one
group a normalisation, and channels enough for the pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

EQUALISE = 0.5  # latent channels are divided by this power of their standard deviation; 1 = equal variances
STEADY = 4.0  # size of the constant channels, in the signal's root mean square
CONSTANTS = 4  # of each sign
LOG_VARIANCE = -6.0
RIDGE = 1e-4


@torch.no_grad()
def linear_start(vae: AutoencoderKL, images: Tensor) -> None:
    """Set the weights in place.

    Args:
        vae: untrained; at least one downsampling block.
        images: [B,3,H,W] in [-1, 1], for the components and the least squares.
    """
    for module in vae.modules():
        if module.__class__.__name__ == "ResnetBlock2D":
            _make_identity(module)
    pyramid = _start_encoder(vae, images)
    _start_decoder(vae, pyramid)


def _make_identity(block: nn.Module) -> None:
    nn.init.zeros_(block.conv2.weight)
    nn.init.zeros_(block.conv2.bias)
    if block.conv_shortcut is not None:
        nn.init.dirac_(block.conv_shortcut.weight)
        nn.init.zeros_(block.conv_shortcut.bias)


def _start_encoder(vae: AutoencoderKL, images: Tensor) -> list[Tensor]:
    """Return the signal at every resolution: the images, components of 2x2 blocks, of 4x4 blocks ..., the latent."""
    encoder, channels = vae.encoder, vae.config.latent_channels
    _copy_through(encoder.conv_in, 3)
    pyramid = [images]
    widths = vae.config.block_out_channels
    for level, block in enumerate(encoder.down_blocks[:-1]):
        signal, last = pyramid[-1], level == len(widths) - 2
        basis = _components(
            functional.pixel_unshuffle(signal, 2),
            count=channels if last else min(4 * signal.shape[1], widths[level]),
            equalise=EQUALISE if last else 0.0,
        )
        kernel = functional.pad(basis.reshape(len(basis), -1, 2, 2), (0, 1, 0, 1))  # the stride-2 window is 3x3
        convolution = block.downsamplers[0].conv
        _set_rows(convolution, 0, kernel)
        pyramid.append(functional.conv2d(functional.pad(signal, (0, 1, 0, 1)), kernel, stride=2))
        if last:
            _add_pairs(convolution, kernel, pyramid[-1])
    _start_output(encoder.conv_norm_out, encoder.conv_out, pyramid[-1])
    encoder.conv_out.weight[channels:] = 0
    encoder.conv_out.bias[channels:] = LOG_VARIANCE
    return pyramid


def _start_decoder(vae: AutoencoderKL, pyramid: list[Tensor]) -> None:
    decoder = vae.decoder
    signal = pyramid[-1]
    _copy_through(decoder.conv_in, signal.shape[1])
    for block, wanted in zip(decoder.up_blocks, reversed(pyramid[:-1])):
        signal = functional.interpolate(signal, scale_factor=2.0, mode="nearest")
        kernel = _least_squares(signal, wanted)
        signal = functional.conv2d(signal, kernel, padding=1)
        _set_rows(block.upsamplers[0].conv, 0, kernel)
    _add_pairs(block.upsamplers[0].conv, kernel, signal)
    _start_output(decoder.conv_norm_out, decoder.conv_out, signal)


def _components(signal: Tensor, *, count: int, equalise: float) -> Tensor:
    """Leading principal directions [count,C] of a signal [B,C,h,w], each with its largest entry positive."""
    rows = signal.permute(1, 0, 2, 3).flatten(1).double()
    variances, directions = torch.linalg.eigh(rows @ rows.T / rows.shape[1])
    basis = directions.flip(1)[:, :count].T
    largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
    scale = variances.flip(0)[:count, None].clamp_min(1e-8) ** (-equalise / 2)
    return (basis * largest.sign() * scale).float()


def _least_squares(signal: Tensor, wanted: Tensor) -> Tensor:
    """The 3x3 kernel [K,C,3,3] that best maps `signal` [B,C,h,w] to `wanted` [B,K,h,w]."""
    inputs = functional.unfold(signal, 3, padding=1).permute(1, 0, 2).flatten(1).double()
    outputs = wanted.permute(1, 0, 2, 3).flatten(1).double()
    gram = inputs @ inputs.T
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram, inputs @ outputs.T).T.reshape(wanted.shape[1], signal.shape[1], 3, 3).float()


def _copy_through(convolution: nn.Conv2d, count: int) -> None:
    """Make the first `count` outputs equal to the inputs."""
    kernel = torch.zeros(count, convolution.in_channels, *convolution.kernel_size)
    _set_rows(convolution, 0, nn.init.dirac_(kernel))


def _set_rows(convolution: nn.Conv2d, start: int, kernel: Tensor) -> None:
    """Make the outputs from `start` on a convolution of the first inputs with `kernel`."""
    rows = slice(start, start + kernel.shape[0])
    convolution.weight[rows] = 0
    convolution.weight[rows, : kernel.shape[1]] = kernel
    convolution.bias[rows] = 0


def _add_pairs(convolution: nn.Conv2d, kernel: Tensor, signal: Tensor) -> None:
    """Add rows after the signal's own: its negative, then constants of either sign."""
    count = kernel.shape[0]
    half = _constants(convolution.out_channels, count)
    _set_rows(convolution, count, -kernel)
    size = STEADY * _rms(signal)
    for start, value in ((2 * count, size), (2 * count + half, -size)):
        convolution.weight[start : start + half] = 0
        convolution.bias[start : start + half] = value


def _start_output(norm: nn.GroupNorm, convolution: nn.Conv2d, signal: Tensor) -> None:
    """Undo the normalisation's average division, and combine the pairs."""
    count = signal.shape[1]
    half = _constants(norm.num_channels, count)
    energy = 2 * count * _rms(signal) ** 2 + 2 * half * (STEADY * _rms(signal)) ** 2
    divisor = (energy / norm.num_channels) ** 0.5
    kernel = torch.zeros(count, norm.num_channels, 3, 3)
    for channel in range(count):
        kernel[channel, channel, 1, 1] = divisor
        kernel[channel, channel + count, 1, 1] = -divisor
    _set_rows(convolution, 0, kernel)


def _constants(width: int, count: int) -> int:
    """The number of constant channels of each sign that fit beside `count` pairs."""
    half = min(CONSTANTS, (width - 2 * count) // 2)
    if half < 1:
        raise ValueError(f"{width} channels are too few for {count} pairs and two constants")
    return half


def _rms(signal: Tensor) -> float:
    return float(signal.pow(2).mean().sqrt())
