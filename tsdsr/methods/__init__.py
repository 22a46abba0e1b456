"""The training methods: each defines its trained parameters, turns and loss terms. A new one is a file, its keys in
`tsdsr.config.methods`, and a line here (docs/architecture.md, "Adding a method")."""

from tsdsr import compat

compat.apply()

from tsdsr.methods.base import Distillation  # noqa: E402
from tsdsr.methods.tadsr import TADSR  # noqa: E402
from tsdsr.methods.tinysr import CompactDecoder, CompactEncoder, Prune, Restore  # noqa: E402
from tsdsr.methods.tsdsr import TSDSR  # noqa: E402
from tsdsr.methods.tsdsr_decoder import TSDSRDecoder  # noqa: E402
from tsdsr.methods.vsd import VSD  # noqa: E402

METHODS: dict[str, type[Distillation]] = {
    "tsdsr": TSDSR,
    "tsdsr_decoder": TSDSRDecoder,
    "vsd": VSD,
    "tadsr": TADSR,
    "tinysr_prune": Prune,
    "tinysr_restore": Restore,
    "tinysr_encoder": CompactEncoder,
    "tinysr_decoder": CompactDecoder,
}

__all__ = ["METHODS", "Distillation"]
