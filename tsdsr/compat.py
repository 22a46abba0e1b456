"""Every work-around for a third party, each with its reason and the condition that ends it.

`apply()` is cheap and may be called any number of times. The packages of `tsdsr` that import a library named here
(`models`, `losses`, `metrics`, ...) call it in their `__init__`, so Ray's workers and pytest get it too.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import warnings
from functools import cache
from pathlib import Path


@cache
def apply() -> None:
    """Apply every work-around once per process. Must run before the first import of torchvision."""
    _declare_torchvision_operators()
    _alias_functional_tensor()
    _quiet()


def _declare_torchvision_operators() -> None:
    """torchvision's wheels are built against CUDA, and its extension cannot load beside a CPU build of torch; its
    Python side then registers shape functions for operators that do not exist and fails with "operator
    torchvision::nms does not exist". Declaring the two lets the rest of it (transforms, models) work; nothing here
    calls them.

    Ends when torchvision publishes CPU wheels, or guards those registrations.
    """
    import torch

    spec = importlib.util.find_spec("torchvision")
    if "torchvision" in sys.modules or spec is None or spec.origin is None:
        return
    extensions = list(Path(spec.origin).parent.glob("_C*.so")) + list(Path(spec.origin).parent.glob("_C*.pyd"))
    try:
        for extension in extensions:
            torch.ops.load_library(str(extension))
        if extensions:
            return
    except OSError:
        pass  # the extension wants libraries this build of torch does not have: declare its operators below
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT_ALIVE.append(library)  # a collected Library takes its definitions with it


def _alias_functional_tensor() -> None:
    """basicsr 1.4.2 imports `torchvision.transforms.functional_tensor`, which torchvision 0.17 renamed.

    Ends with the next release of basicsr.
    """
    name = "torchvision.transforms.functional_tensor"
    if name in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    sys.modules[name] = importlib.import_module("torchvision.transforms._functional_tensor")


def _quiet() -> None:
    """Drop warnings about what is meant: several adapters on one model (PEFT), lpips's old spelling of torchvision's
    arguments, DDP's new name (torch 2.13) for an argument and its word on strides of 1 x 1 kernels, and bitsandbytes
    (brought by another package, used by none) missing a kernel of its own.

    Ends when those libraries stop warning.
    """
    warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
    warnings.filterwarnings("ignore", module="torchvision.models._utils")
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


_KEPT_ALIVE: list[object] = []
