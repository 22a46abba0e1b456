"""Holds a distillation before a step, so that what a test does to it then does not depend on how fast it runs.

Python imports this by itself in every process with this folder in PYTHONPATH, Ray's workers among them. The file that
HOLD names has the number of steps to be held after; whoever removes it lets the distillation go on. Ray's agent, which
its raylet waits for no longer than 15 s, begins only after as many seconds as LATE says.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

LOOP = "tsdsr.training.stepper"
hold = Path(os.environ["HOLD"])


def is_held(number: int) -> bool:
    try:
        return number >= int(hold.read_text())
    except FileNotFoundError:
        return False


def held(step: Any) -> Any:
    def wait_and_step(stepper: Any, number: int, *arguments: Any) -> None:
        while is_held(number):
            time.sleep(0.01)
        step(stepper, number, *arguments)

    return wait_and_step


class Finder(MetaPathFinder):
    """Wraps what takes the steps when the module is first imported."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != LOOP:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            module.Stepper.take = held(module.Stepper.take)  # type: ignore[attr-defined]

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Finder())
if any(argument.endswith("ray/dashboard/agent.py") for argument in sys.orig_argv):
    time.sleep(float(os.environ.get("LATE", "0")))
