"""All work-arounds for other libraries, each with its reason and the condition under which it can be removed.

`apply()` is cheap and may be called any number of times. The packages of `tsdsr` that import a library named here
(`models`, `losses`, `metrics`, ...) call it in their `__init__`, so Ray's workers and pytest get it too.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

UNUSED = ("scipy", "torchvision")  # imported by diffusers, PEFT and transformers where they are there
COMPILER = ("torch._dynamo", "torch._dynamo._trace_wrapped_higher_order_op")
# What is imported from COMPILER.
DECORATORS = ("allow_in_graph", "assume_constant_result", "disable", "TransformGetItemToIndex")


@cache
def apply() -> None:
    """Apply every work-around once per process. Must run before the first import of torchvision."""
    _declare_torchvision_operators()
    _alias_functional_tensor()
    _hide_bitsandbytes()
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


def _hide_bitsandbytes() -> None:
    """bitsandbytes is installed as a dependency of pyiqa. Nothing here uses it, but PEFT imports it wherever it is, and
    with it PyTorch's compiler backend: 1 s of every program's start.

    Ends when PEFT imports it on demand.
    """
    sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]  # marks what cannot be imported


def _quiet() -> None:
    """Drop warnings about intended uses: several adapters on one model (PEFT), lpips's old spelling of torchvision's
    arguments, and DDP's renamed argument (torch 2.13) and its note on strides of 1 x 1 kernels.

    Ends when those libraries stop warning.
    """
    warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
    warnings.filterwarnings("ignore", message="Arguments other than a weight enum")
    warnings.filterwarnings("ignore", message="The parameter 'pretrained' is deprecated")
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")


@contextmanager
def lean_imports() -> Iterator[None]:
    """Within the block the packages of `UNUSED` count as absent, a stand-in for PyTorch's compiler compiles nothing,
    and no garbage is collected: more than half of the 6 s that a first import of diffusers and PEFT takes goes to
    these.

    diffusers and transformers remember what they found, so this is for programs that need none of it, such as
    `tsdsr upscale`. Ends when those two import their quantizers, detection losses and the compiler on demand.
    """
    apply()
    compiler = ModuleType(COMPILER[0])
    compiler.__dict__.update(dict.fromkeys(DECORATORS, _unchanged), eval_frame=compiler, OptimizedModule=ModuleType)
    modules = dict.fromkeys(UNUSED) | dict.fromkeys(COMPILER, compiler)  # None marks what cannot be imported
    added = {name: module for name, module in modules.items() if name not in sys.modules}
    collecting = gc.isenabled()
    gc.disable()
    atexit.register(gc.freeze)  # the collection at the program's end then leaves out all that these made
    sys.modules.update(added)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
        if collecting:
            gc.enable()


def _unchanged(decorated: Any = None, *_: Any, **__: Any) -> Any:
    """A decorator, with or without arguments, that changes nothing."""
    return decorated or _unchanged


_KEPT_ALIVE: list[object] = []
