"""The runs that compress a student: which blocks stay, their restoration, and a compact autoencoder.

The teacher of each is the source: the distilled student with its adapters merged in.
"""

from tsdsr.methods.tinysr.autoencoder import CompactDecoder, CompactEncoder
from tsdsr.methods.tinysr.prune import Prune
from tsdsr.methods.tinysr.restore import Restore

__all__ = ["CompactDecoder", "CompactEncoder", "Prune", "Restore"]
