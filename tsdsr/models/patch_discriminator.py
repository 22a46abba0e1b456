"""A discriminator of image patches.

Source: the PatchGAN of Isola et al., arXiv 1611.07004, with spectral norm (Miyato et al., arXiv 1802.05957) in place of
batch norm.
"""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

SLOPE = 0.2  # of LeakyReLU


class PatchDiscriminator(nn.Sequential):
    """(B, 3, H, W) in [-1, 1] -> logits (B, 1, H / 8, W / 8); a logit sees 54 pixels along a side.

    Args:
        width: channels after the first convolution; they double twice.
    """

    def __init__(self, width: int = 32) -> None:
        layers: list[nn.Module] = []
        channels = 3
        for out, kernel, stride in ((width, 4, 2), (2 * width, 4, 2), (4 * width, 4, 2), (4 * width, 3, 1)):
            convolution = nn.Conv2d(channels, out, kernel, stride=stride, padding=1)
            layers += [spectral_norm(convolution), nn.LeakyReLU(SLOPE)]
            channels = out
        super().__init__(*layers, spectral_norm(nn.Conv2d(channels, 1, 3, padding=1)))
