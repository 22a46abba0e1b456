"""All work-arounds for other libraries, each with its reason and the condition under which it can be removed.

`apply()` is cheap and may be called any number of times. The packages of `tsdsr` that import a library named here
(`models`, `losses`, `metrics`, ...) call it in their `__init__`, so Ray's workers and pytest get it too.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.util
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

UNUSED = ("bitsandbytes", "scipy", "torchvision")  # imported by diffusers, PEFT and transformers where they are there


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
    """basicsr 1.4.2 imports `torchvision.transforms.functional_tensor`, which torchvision 0.17 renamed. The old name is
    looked up when somebody asks for it: importing torchvision takes a second.

    Ends with the next release of basicsr.
    """
    if not any(isinstance(finder, _FunctionalTensor) for finder in sys.meta_path):
        sys.meta_path.append(_FunctionalTensor())


class _FunctionalTensor(MetaPathFinder, Loader):
    """Finds the module that was renamed, under its old name."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name == "torchvision.transforms.functional_tensor" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return importlib.import_module("torchvision.transforms._functional_tensor")

    def exec_module(self, module: ModuleType) -> None:
        """It has run under its new name."""


def _quiet() -> None:
    """Drop warnings about intended uses: several adapters on one model (PEFT), lpips's old spelling of torchvision's
    arguments, DDP's renamed argument (torch 2.13) and its note on strides of 1 x 1 kernels, and a missing kernel of
    bitsandbytes, which is installed as a dependency and not used.

    Ends when those libraries stop warning.
    """
    warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
    warnings.filterwarnings("ignore", message="Arguments other than a weight enum")
    warnings.filterwarnings("ignore", message="The parameter 'pretrained' is deprecated")
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@contextmanager
def lean_imports() -> Iterator[None]:
    """Within the block the packages of `UNUSED` count as absent, and no garbage is collected: of the 6 s that a first
    import of diffusers and PEFT takes, half goes to these. PyTorch's table of compile times, for which it imports a
    package when the program ends, is left out.

    diffusers and transformers remember what was absent, so this is for programs that need none of them, such as
    `tsdsr upscale`. Ends when those two import their quantizers and detection losses on demand.
    """
    apply()
    absent = [name for name in UNUSED if name not in sys.modules]
    collecting = gc.isenabled()
    gc.disable()
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]  # as Python marks what cannot be imported
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
        if collecting:
            gc.enable()
        if compiler := sys.modules.get("torch._dynamo.utils"):
            atexit.unregister(compiler.dump_compile_times)


_KEPT_ALIVE: list[object] = []
