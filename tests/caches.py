"""A latent cache of given entries, on disk."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tsdsr.data.cache import CacheDtype, LatentCache, Sample
from tsdsr.data.cache_writer import CacheWriter
from tsdsr.models.prompt import Prompt


def write_cache(
    root: Path,
    samples: Iterable[Sample],
    prompts: Iterable[tuple[str, Prompt]],
    *,
    default_prompt: str,
    dtype: CacheDtype = "float32",
    shard_rows: int = 4,
) -> LatentCache:
    """What the stage precompute writes of such entries."""
    writer = CacheWriter(root, key="", dtype=dtype, shard_rows=shard_rows)
    writer.add_prompts(prompts)
    writer.add_samples(samples)
    return LatentCache.open(writer.finish(default_prompt=default_prompt, origin={}))
