"""The training step, the loop and its checkpoints: pure torch, with callbacks for the caller."""

from tsdsr import compat

compat.apply()
