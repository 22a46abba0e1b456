"""Suppress libraries' progress bars, and warnings that this project replaces by its own messages."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_LIBRARIES = ("diffusers", "transformers")


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block diffusers and transformers log errors only; afterwards their former settings are restored."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    modules = (diffusers_logging, transformers_logging)
    barred = [module.is_progress_bar_enabled() for module in modules]
    levels = [logging.getLogger(name).level for name in _LIBRARIES]
    for module, name in zip(modules, _LIBRARIES, strict=True):
        module.disable_progress_bar()
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for module, name, bars, level in zip(modules, _LIBRARIES, barred, levels, strict=True):
            if bars:
                module.enable_progress_bar()
            logging.getLogger(name).setLevel(level)
