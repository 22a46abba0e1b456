"""Colour profiles (ICC.1:2001-04) made by hand, each with an effect that nobody could miss."""

from __future__ import annotations

import itertools
import struct

from PIL import ImageCms


def swapped_srgb() -> bytes:
    """sRGB with the tags of its red and blue primaries exchanged: it shows the channels exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile = profile.replace(b"sRGB", b"BGRs").replace("sRGB".encode("utf-16-be"), "BGRs".encode("utf-16-be"))
    count = int.from_bytes(profile[128:132], "big")
    for entry in range(132, 132 + 12 * count, 12):
        signature = bytes(profile[entry : entry + 4])
        profile[entry : entry + 4] = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}.get(signature, signature)
    return bytes(profile)


def lab() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def linear_grey() -> bytes:
    """Grey samples proportional to light: sRGB shows them brighter."""
    gamma_one = b"curv" + bytes(4) + struct.pack(">IH", 1, 256) + bytes(2)
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": gamma_one})


def black_ink_only() -> bytes:
    """A press that prints black ink and no other: cyan, magenta and yellow leave the paper white."""
    identity = bytes(range(256))
    corners = [bytes([0 if k else 255, 128, 128]) for *_, k in itertools.product((0, 1), repeat=4)]  # L, a, b
    matrix = struct.pack(">9i", *(0x10000 if place % 4 == 0 else 0 for place in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + identity * 4 + b"".join(corners) + identity * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    white = struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)  # D50
    tags = {b"wtpt": b"XYZ " + bytes(4) + white, **tags}
    offset = 132 + 12 * len(tags)
    table, content = struct.pack(">I", len(tags)), b""
    for signature, tag in tags.items():
        table += signature + struct.pack(">2I", offset + len(content), len(tag))
        content += tag + bytes(-len(tag) % 4)
    header = struct.pack(">I4sI4s4s4s", offset + len(content), bytes(4), 0x02400000, kind, space, connection)
    header += bytes(12) + b"acsp" + bytes(28) + white
    return header.ljust(128, b"\0") + table + content
