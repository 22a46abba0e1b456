"""The upscaler. Importing this package is cheap; torch and diffusers are imported with its first name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tsdsr.inference.pipeline import TSDSRPipeline

__all__ = ["TSDSRPipeline"]


def __getattr__(name: str) -> Any:
    if name == "TSDSRPipeline":
        from tsdsr import compat

        compat.apply()
        from tsdsr.inference.pipeline import TSDSRPipeline

        return TSDSRPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
