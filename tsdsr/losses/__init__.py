"""The losses, as functions of tensors and callables; nothing here knows of a model."""

from tsdsr import compat

compat.apply()

from tsdsr.losses.fake_score import fake_score_loss  # noqa: E402
from tsdsr.losses.tsd import TSDLoss, tsd_loss  # noqa: E402

__all__ = ["TSDLoss", "fake_score_loss", "tsd_loss"]
