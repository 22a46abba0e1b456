"""The losses, as functions of tensors and callables; nothing here knows of a model."""

from tsdsr import compat

compat.apply()

from tsdsr.losses.flow_matching import flow_matching_loss  # noqa: E402
from tsdsr.losses.surrogate import score_surrogate  # noqa: E402
from tsdsr.losses.tsd import TSDLoss, tsd_direction, tsd_loss  # noqa: E402

__all__ = ["TSDLoss", "flow_matching_loss", "score_surrogate", "tsd_direction", "tsd_loss"]
