"""The training step, the loop and its checkpoints: pure torch, with callbacks for whoever runs it."""

from tsdsr import compat

compat.apply()
