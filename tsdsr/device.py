"""The device of a network."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from tsdsr.errors import UserError


def pick(wanted: str = "auto") -> torch.device:
    """`auto` is CUDA if available; other values are taken literally, `cuda` as the first GPU."""
    if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()):
        return torch.device("cuda", 0)
    return torch.device("cpu" if wanted == "auto" else wanted)


def every() -> list[torch.device]:
    """All GPUs, or the CPU if there is none, for work that can be divided."""
    cards = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    return cards if pick().type == "cuda" else [torch.device("cpu")]


def require(device: torch.device, key: str) -> None:
    """Make `device` the current one, which NCCL and kernels use by default.

    Args:
        key: the key of params that named it.

    Raises:
        UserError: there is no such GPU.
    """
    if device.type != "cuda":
        return
    if not torch.cuda.is_available():
        raise UserError(f"{key}: cuda, and torch finds no GPU here; set it to auto or cpu")
    torch.cuda.set_device(device.index or 0)  # it refuses a device without an index


def use_tensor_cores(device: torch.device) -> None:
    """On CUDA in float32: use products with 10 bits of mantissa (TF32), and cuDNN's fastest convolutions."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True


def make_deterministic() -> None:
    """Use deterministic variants of all operations; an operation without one raises an error."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS, before its first product
    torch.backends.cudnn.benchmark = False  # it chooses by measured time
    torch.use_deterministic_algorithms(True)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to the device; to a GPU through pinned memory, so that the program does not wait for the copy."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def out_of_memory(error: BaseException) -> bool:
    """Whether the error is a failed allocation, on any device."""
    text = str(error).lower()
    told = isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    return told or isinstance(error, MemoryError)
