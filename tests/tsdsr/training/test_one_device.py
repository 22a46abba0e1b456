"""A step of each method stays on its device, as the meta device shows, where nothing can be read or computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tsdsr.config import RUNS, Params
from tsdsr.methods.base import TurnOutput
from tsdsr.training.memory import StepMemoryProbe

META = torch.device("meta")


class OneDevice(TorchDispatchMode):
    """Notes operations on tensors of two devices, and copies between devices that would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        places = {value.device for value in given if value.ndim}
        to = kwargs.get("device")
        waits = func.overloadpacket.__name__ == "_to_copy" and to is not None and not kwargs.get("non_blocking")
        if len(places) > 1 or (waits and places - {torch.device(to)}):
            self.found.add(f"{func}: {[(str(value.device), tuple(value.shape)) for value in given]}")
        return func(*args, **kwargs)


def recipe(params: Params, root: Any, name: str) -> Params:
    """params.yaml's with an overlay of `params/`, or with one of the runs of a compression."""
    if name in RUNS:
        method, added = RUNS[name]
        params = params.overlay({"distill": {"method": method, **params.compress.runs[name], **added}})
    elif name:
        params = params.overlay(yaml.safe_load((root / f"params/{name}.yaml").read_text(encoding="utf-8")))
    small = {"batch_size": 2, "num_workers": 1, "accumulation": 1, "augment": {"crop_size": None}}
    return params.overlay({"data": {"crop_size": 128}, "distill": small})


@pytest.mark.parametrize("name", ["", "nano", "tadsr", "prune", "restore_images", "decoder"])
def test_all_that_a_step_makes_is_on_its_device(params: Params, root: Any, name: str) -> None:
    params = recipe(params, root, name)
    probe, outputs = StepMemoryProbe(params, META), list[TurnOutput]()
    probe.stepper.on_output = outputs.append
    with OneDevice() as mode:
        for phase in params.distill.phases.values():
            probe.step(phase)
    assert mode.found == set()
    made = [
        (name, value)
        for output in outputs
        for part in (output.terms, output.carried, output.statistics, output.by_noise)
        for name, value in part.items()
    ]
    assert made
    assert [name for name, value in made if value.device != META] == []
