"""Other super-resolution networks that ours is compared with, read from packages that carry their weights."""

from tsdsr.peers.real_esrgan import real_esrgan

__all__ = ["real_esrgan"]
