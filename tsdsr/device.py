"""Which device a network runs on."""

from __future__ import annotations

import torch

from tsdsr.errors import UserError


def pick(wanted: str = "auto") -> torch.device:
    """`auto` takes CUDA where there is one; otherwise as it is said, `cuda` being the first card."""
    if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()):
        return torch.device("cuda", 0)
    return torch.device("cpu" if wanted == "auto" else wanted)


def require(device: torch.device, key: str) -> None:
    """Make `device` what NCCL and kernels take that are told of none.

    Args:
        key: of params, that named it.

    Raises:
        UserError: a GPU that is not there.
    """
    if device.type != "cuda":
        return
    if not torch.cuda.is_available():
        raise UserError(f"{key}: cuda, and torch finds no GPU here; set it to auto or cpu")
    torch.cuda.set_device(device)


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on whatever device."""
    text = str(error).lower()
    told = isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    return told or isinstance(error, MemoryError)
