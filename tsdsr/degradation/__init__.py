"""Real-ESRGAN's two-round degradation model, on the CPU, in numpy and OpenCV."""

from tsdsr.degradation.draws import DegradationDraw, draw_degradation
from tsdsr.degradation.model import apply_degradation, degrade

__all__ = ["DegradationDraw", "apply_degradation", "degrade", "draw_degradation"]
