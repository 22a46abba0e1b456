"""How large a tile may be, from the memory there is, and what to do when that was too much."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from tsdsr.inference.tiles.engine import Networks, TilePlan

# Peak bytes of the VAE's decoder per pixel of a tile, in units of (widest full-resolution activation) x (item size): an
# estimate, by counting the input, output, norm and convolution buffers of a residual block; _SHARE is its margin.
_LIVE_ACTIVATIONS = 5
_SHARE = 0.5  # of what is free: the rest is for the pictures, the other networks' activations and everyone else
_OVERLAP = 0.25  # of a tile
_CODEC_TILE = 64  # latents along a side of the VAE's automatic tiles: above that little work is saved
MIN_TOKENS = 4  # along a side of a tile


def plan_tiles(
    networks: Networks, *, tile: int | str | None, overlap: int | None, batch: int, limit: int, largest: int
) -> TilePlan:
    """A plan in latents from what a person asked for in pixels.

    Args:
        networks: whose grid and memory need count.
        tile: a side in pixels; "auto" (by memory and the size the model was made for); None = never tile.
        overlap: in pixels; None = a quarter of a tile.
        batch: tiles at once.
        limit: latents along a side that the transformer was made for; automatic tiles stay within it.
        largest: latents along a side that it has positions for; no tile goes above.

    Raises:
        ValueError: for a tile or an overlap that makes no sense.
    """
    if batch < 1:
        raise ValueError(f"tiles at once must be 1 or more, found {batch}")
    factor, patch = networks.codec.factor, networks.patch
    smallest = MIN_TOKENS * patch
    codec = None
    if tile is None:
        side = largest
    elif tile == "auto":
        affordable = _affordable(networks, batch) // factor
        side = max(min(limit, largest, affordable), smallest)
        codec = min(_CODEC_TILE, affordable) // patch * patch
    elif isinstance(tile, int) and tile >= smallest * factor:
        side = min(tile // factor, largest)
    else:
        raise ValueError(f"tile must be auto or at least {smallest * factor} pixels, found {tile!r}")
    side -= side % patch
    wanted = side * _OVERLAP if overlap is None else overlap / factor
    shared = round(wanted / patch) * patch
    if not 0 <= wanted <= side / 2:
        raise ValueError(f"overlap must be 0 to {side // 2 * factor} pixels (half a tile), found {overlap}")
    return TilePlan(side, shared, batch, codec if codec and codec > side else None)


def smaller(plan: TilePlan, patch: int) -> TilePlan | None:
    """The next plan to try after one ran out of memory: fewer at once, none larger for the VAE, half the side."""
    if plan.batch > 1:
        return TilePlan(plan.tile, plan.overlap, 1, plan.codec_tile)
    if plan.codec_tile:
        return TilePlan(plan.tile, plan.overlap, 1)
    side = plan.tile // 2 // patch * patch
    if side < MIN_TOKENS * patch:
        return None
    return TilePlan(side, plan.overlap // 2 // patch * patch, 1)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of a network means that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def _affordable(networks: Networks, batch: int) -> int:
    """Pixels along a side of a tile that the VAE can take in the memory that is free."""
    vae = networks.codec.vae
    widest = max(vae.config.block_out_channels[:2])
    per_pixel = _LIVE_ACTIVATIONS * widest * torch.empty(0, dtype=vae.dtype).element_size() * batch
    return int((_SHARE * free_bytes(networks.device) / per_pixel) ** 0.5)


def free_bytes(device: torch.device) -> int:
    """Memory that a process may still take on this device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = _system_free()
    group = _cgroup_free()
    return free if group is None else min(free, group)


def _system_free() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        values = dict(line.split(":", 1) for line in lines)
        return int(values["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2  # not Linux: half of what is built in


def _cgroup_free() -> int | None:
    """What a container's limit leaves; None without one."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text(encoding="ascii").strip()
        if limit == "max":
            return None
        used = int((root / "memory.current").read_text(encoding="ascii"))
        cached = dict(line.split() for line in (root / "memory.stat").read_text(encoding="ascii").splitlines())
        return int(limit) - used + int(cached.get("inactive_file", 0))
    except (OSError, ValueError):
        return None
