"""Other super-resolution networks for comparison, from packages that contain their weights."""

from tsdsr.peers.real_esrgan import real_esrgan

__all__ = ["real_esrgan"]
