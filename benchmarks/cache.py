"""The latent cache compared with one .pt file per image: size, writing, random reading and resident memory.

    python benchmarks/cache.py [--quick]

Every image has a caption of its own, the worst case: where captions repeat, the cache alone gets smaller. Shapes
are SD3-medium's at 512 px: a latent of 16x64x64, 333x4096 prompt embeddings and a pooled vector of 2048. A read returns
all three as float32. `cold` reads follow a request to the system to drop the files from its page cache.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from tsdsr import seeding
from tsdsr.data.cache import DTYPES, NULL_PROMPT, LatentCache, Sample
from tsdsr.data.cache_writer import CacheWriter
from tsdsr.models.prompt import Prompt

LATENT, EMBEDS, POOLED = (16, 64, 64), (333, 4096), (2048,)
PROJECTED_IMAGES = 100_000
Triple = tuple[Tensor, Tensor, Tensor]


@dataclass
class Measurement:
    """The measurements of one layout."""

    layout: str
    bytes_per_image: float
    files: int
    write_per_s: float
    cold_per_s: float
    warm_per_s: float
    open_s: float
    anonymous_mib: float
    mapped_mib: float


def entry(index: int) -> Triple:
    """The values of image `index`."""
    draw = seeding.generator(0, "benchmark", index)
    return tuple(torch.randn(shape, generator=draw) for shape in (LATENT, EMBEDS, POOLED))


# ------------------------------------------------------------------ the two layouts


def write_pt(root: Path, count: int, dtype: str) -> None:
    root.mkdir()
    for index in range(count):
        names = ("latent", "embeds", "pooled")
        values = {name: value.to(DTYPES[dtype][0]) for name, value in zip(names, entry(index))}
        torch.save(values, root / f"{index:06d}.pt")


def open_pt(root: Path) -> Callable[[int], Triple]:
    def read(index: int) -> Triple:
        values = torch.load(root / f"{index:06d}.pt", weights_only=True)
        return values["latent"].float(), values["embeds"].float(), values["pooled"].float()

    return read


def write_cache(root: Path, count: int, dtype: str) -> None:
    nothing = Prompt(torch.zeros(EMBEDS), torch.zeros(POOLED))
    writer = CacheWriter(root.with_suffix(".growing"), key="", dtype=dtype, shard_rows=1024)
    writer.add_prompts(
        (NULL_PROMPT, nothing) if index < 0 else (f"caption {index}", Prompt(*entry(index)[1:]))
        for index in range(-1, count)
    )
    writer.add_samples(Sample(f"{index:06d}", f"caption {index}", entry(index)[0]) for index in range(count))
    writer.finish(default_prompt=NULL_PROMPT, origin={}).rename(root)


def open_cache(root: Path) -> Callable[[int], Triple]:
    cache = LatentCache.open(root, verify=False)

    def read(index: int) -> Triple:
        prompt = cache.prompt(index)
        return cache.latent(index), prompt.embeds, prompt.pooled

    return read


LAYOUTS = {".pt": (write_pt, open_pt), "cache": (write_cache, open_cache)}


# ------------------------------------------------------------------ measuring


def measure(layout: str, dtype: str, root: Path, count: int, draw_s: float) -> Measurement:
    """Write in this process and read in a new one, whose memory is then the reader's only."""
    start = time.perf_counter()
    LAYOUTS[layout][0](root, count, dtype)
    for path in root.iterdir():
        _drop_from_page_cache(path)
    elapsed = time.perf_counter() - start
    command = [sys.executable, __file__, "--read", layout, str(root), str(count)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    sizes = [path.stat().st_size for path in root.iterdir()]
    # drawing the random values is not writing; the cache draws twice
    drawing = draw_s * count * (2 if layout == "cache" else 1)
    # The empty prompt is stored once, whatever the number of images: spread over a few dozen it would count.
    once = (math.prod(EMBEDS) + math.prod(POOLED)) * DTYPES[dtype][0].itemsize if layout == "cache" else 0
    per_image = (sum(sizes) - once) / count
    return Measurement(f"{layout} {dtype}", per_image, len(sizes), count / max(elapsed - drawing, 1e-9), **found)


def _drop_from_page_cache(path: Path) -> None:
    """Write the file, then ask the system to drop it from its cache. Where that is impossible, cold reads are warm."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_all(layout: str, root: Path, count: int) -> dict[str, float]:
    """The reader process: every image in random order, twice."""
    before = _memory()
    start = time.perf_counter()
    read = LAYOUTS[layout][1](root)
    found = {"open_s": time.perf_counter() - start}
    order = list(range(count))
    for name in ("cold_per_s", "warm_per_s"):
        random.Random(name).shuffle(order)
        start = time.perf_counter()
        for index in order:
            read(index)
        found[name] = count / (time.perf_counter() - start)
    after = _memory()
    return found | {f"{kind}_mib": after[kind] - before[kind] for kind in after}


def _memory() -> dict[str, float]:
    """Resident MiB: anonymous (this process's own) and mapped from files (shared by all readers, reclaimable)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return {"anonymous": float("nan"), "mapped": float("nan")}
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return {name: int(lines[key].split()[0]) / 1024 for name, key in (("anonymous", "RssAnon"), ("mapped", "RssFile"))}


def agree(roots: dict[str, Path], count: int) -> bool:
    """float32 is exact in both layouts; bfloat16 is the value, rounded once."""
    for index in range(0, count, max(1, count // 8)):
        wanted = entry(index)
        for name, root in roots.items():
            layout, dtype = name.split()
            found = LAYOUTS[layout][1](root)(index)
            if not all(f.equal(w.to(DTYPES[dtype][0]).float()) for f, w in zip(found, wanted)):
                return False
    return True


# ------------------------------------------------------------------ the report


def show(rows: list[Measurement], count: int) -> None:
    print(f"{count} images at SD3-medium's shapes, 512 px, one caption each; {platform.machine()}, one process\n")
    columns = ("MB/image", "write/s", "cold/s", "warm/s", "open s", "own MiB", "mapped")
    print(f"{'layout':<15}" + "".join(f"{name:>10}" for name in columns))
    for row in rows:
        print(
            f"{row.layout:<15}{row.bytes_per_image / 1e6:>10.2f}{row.write_per_s:>10.1f}{row.cold_per_s:>10.1f}"
            f"{row.warm_per_s:>10.1f}{row.open_s:>10.3f}{row.anonymous_mib:>10.0f}{row.mapped_mib:>10.0f}"
        )
    print(f"\nprojected to {PROJECTED_IMAGES:,} images")
    print(f"{'layout':<15}{'GB':>10}{'files':>10}{'write, min':>12}{'an epoch cold, min':>20}{'warm':>8}")
    for row in rows:
        files = PROJECTED_IMAGES if row.layout.startswith(".pt") else 2 * -(-PROJECTED_IMAGES // 1024) + 1
        minutes = [PROJECTED_IMAGES / rate / 60 for rate in (row.write_per_s, row.cold_per_s, row.warm_per_s)]
        print(
            f"{row.layout:<15}{row.bytes_per_image * PROJECTED_IMAGES / 1e9:>10.0f}{files:>10,}{minutes[0]:>12.0f}"
            f"{minutes[1]:>20.0f}{minutes[2]:>8.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="24 images instead of 240")
    parser.add_argument("--read", nargs=3, metavar=("LAYOUT", "ROOT", "COUNT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.read:
        layout, root, rows = args.read
        print(json.dumps(read_all(layout, Path(root), int(rows))))
        return
    count = 24 if args.quick else 240
    start = time.perf_counter()
    for index in range(8):
        entry(index)
    draw_s = (time.perf_counter() - start) / 8
    with tempfile.TemporaryDirectory() as folder:
        roots = {f"{layout} {dtype}": Path(folder) / f"{layout}-{dtype}" for layout in LAYOUTS for dtype in DTYPES}
        rows = [measure(*name.split(), root, count, draw_s) for name, root in roots.items()]
        equal = agree(roots, count)
    show(rows, count)
    by_name = {row.layout: row for row in rows}
    usual, ours = by_name[".pt float32"], by_name["cache bfloat16"]
    summary = {
        "name": "cache",
        "baseline": usual.warm_per_s,
        "ours": ours.warm_per_s,
        "unit": "images/s, random read, warm; .pt float32 (the usual layout) against the cache in bfloat16",
        "ratio": ours.warm_per_s / usual.warm_per_s,
        "ratio_float32": by_name["cache float32"].warm_per_s / usual.warm_per_s,
        "ratio_size": usual.bytes_per_image / ours.bytes_per_image,
        "device": f"cpu, {platform.machine()}, 1 thread",
        "equal": equal,
        "images": count,
        "rows": [asdict(row) for row in rows],
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
