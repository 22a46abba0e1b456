"""basicsr's functions, called with our drawn parameters: the oracle of the tests and the baseline of the benchmark.

Pictures are float32 tensors (1, 3, H, W), RGB, in [0, 1], as in basicsr. Every operator is basicsr's or torch's own;
the order of steps follows the facts of its RealESRGANModel.feed_data, with the choices taken from a `DegradationDraw`.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from tsdsr import compat

compat.apply()

from basicsr.data.degradations import (  # noqa: E402
    add_gaussian_noise_pt,
    add_poisson_noise_pt,
    bivariate_Gaussian,
    bivariate_generalized_Gaussian,
    bivariate_plateau,
    circular_lowpass_kernel,
)
from basicsr.utils.diffjpeg import DiffJPEG  # noqa: E402
from basicsr.utils.img_process_util import USMSharp, filter2D  # noqa: E402

from tsdsr.degradation.draws import DegradationDraw, NoiseDraw  # noqa: E402
from tsdsr.degradation.kernels import Kernel, SincKernel  # noqa: E402

PADDED_SIZE = 21  # the data set pads every kernel to this size
_GAUSSIANS = {
    "iso": bivariate_Gaussian,
    "aniso": bivariate_Gaussian,
    "generalized_iso": bivariate_generalized_Gaussian,
    "generalized_aniso": bivariate_generalized_Gaussian,
    "plateau_iso": bivariate_plateau,
    "plateau_aniso": bivariate_plateau,
}
_NOISE = {"gaussian": add_gaussian_noise_pt, "poisson": add_poisson_noise_pt}
_JPEG = DiffJPEG(differentiable=False)
_USM = USMSharp()


def kernel_weights(kernel: Kernel) -> np.ndarray:
    """(size, size) weights from basicsr's kernel functions."""
    if isinstance(kernel, SincKernel):
        return circular_lowpass_kernel(kernel.cutoff, kernel.size)
    shape = {} if kernel.kind in ("iso", "aniso") else {"beta": kernel.beta}
    return _GAUSSIANS[kernel.kind](
        kernel.size,
        kernel.sigma_x,
        kernel.sigma_y,
        kernel.rotation,
        isotropic=kernel.kind.endswith("iso") and not kernel.kind.endswith("aniso"),
        **shape,
    )


def blur(image: torch.Tensor, kernel: Kernel | None) -> torch.Tensor:
    """filter2D with the kernel padded to 21 x 21; no kernel is the unit pulse."""
    weights = np.ones((1, 1)) if kernel is None else kernel_weights(kernel)
    padding = (PADDED_SIZE - len(weights)) // 2
    padded = torch.from_numpy(np.pad(weights, padding)).float()
    return filter2D(image, padded[None])


def noise(image: torch.Tensor, draw: NoiseDraw) -> torch.Tensor:
    """Noise of the drawn strength, from torch's global generator, as tensors (b,): the form feed_data uses."""
    return _NOISE[draw.kind](
        image, torch.tensor([draw.strength]), gray_noise=torch.tensor([float(draw.gray)]), clip=True, rounds=False
    )


def jpeg(image: torch.Tensor, quality: float) -> torch.Tensor:
    """DiffJPEG, not differentiable. It overwrites the quality tensor, hence a fresh one."""
    return _JPEG(image.clamp(0, 1), quality=torch.tensor([quality]))


def usm_sharpen(image: torch.Tensor) -> torch.Tensor:
    return _USM(image)


@torch.no_grad()
def degrade(hq: torch.Tensor, draw: DegradationDraw, *, scale: int, usm: bool) -> torch.Tensor:
    """The whole chain: hq (1, 3, H, W) -> lq (1, 3, H / scale, W / scale), in [0, 1], on 8-bit levels."""
    height, width = (side // scale for side in hq.shape[2:])
    out = blur(usm_sharpen(hq) if usm else hq, draw.first.kernel)
    out = F.interpolate(out, scale_factor=draw.first.resize.factor, mode=draw.first.resize.mode)
    out = jpeg(noise(out, draw.first.noise), draw.first.jpeg_quality)
    if draw.second.kernel is not None:
        out = blur(out, draw.second.kernel)
    factor = draw.second.resize.factor
    out = F.interpolate(out, size=(int(height * factor), int(width * factor)), mode=draw.second.resize.mode)
    out = noise(out, draw.second.noise)
    if not draw.jpeg_last:
        out = jpeg(out, draw.second.jpeg_quality)
    out = F.interpolate(out, size=(height, width), mode=draw.final_mode)
    out = blur(out, draw.final_sinc)
    if draw.jpeg_last:
        out = jpeg(out, draw.second.jpeg_quality)
    return (out * 255.0).round().clamp(0, 255) / 255.0


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) RGB in 8-bit levels -> (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32)).permute(2, 0, 1)[None].contiguous() / 255


def to_levels(image: torch.Tensor) -> np.ndarray:
    """(1, 3, H, W) in [0, 1] -> (H, W, 3) RGB float32 in 8-bit levels."""
    return (image[0].permute(1, 2, 0) * 255).detach().numpy()
