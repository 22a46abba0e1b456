"""precompute: the training pairs' HQ latents and every prompt's embeddings, data/latents.

Reads the params sections prompts, precompute and teacher.use_shift, data/pairs/train and data/teacher. After it neither
the text encoders nor the HQ images' encoding are needed in training. A run that was interrupted is continued by the
next one of the same inputs; it ends with the same bytes.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm

import tsdsr
from pipeline.process import locks
from pipeline.stages import lineage, stage
from tsdsr import device, files
from tsdsr.config import Params, PrecomputeConfig
from tsdsr.data.cache import NULL_PROMPT, Sample, mirrored
from tsdsr.data.cache_writer import CacheWriter
from tsdsr.data.images import read_image
from tsdsr.data.pairs import PairFolder
from tsdsr.models import teacher as teachers
from tsdsr.models import text
from tsdsr.models.codec import LatentCodec
from tsdsr.models.prompt import Prompt

PAIRS = Path("data/pairs/train")
TEACHER = Path("data/teacher")
OUT = Path("data/latents")
GROWING = Path(".tsdsr/latents")
LOCK = Path(".tsdsr/running/precompute/lock")
# A change of these makes what an interrupted run left behind worthless.
CODE = [Path(__file__), *(Path(tsdsr.__file__).parent / name for name in ("data", "models"))]

log = logging.getLogger("precompute")


def main() -> None:
    params = stage.load_params(__doc__)
    with locks.exclusive_lock(LOCK, "the stage precompute"), lineage.making(lineage.LATENTS, params):
        precompute(params, PAIRS, TEACHER, OUT, GROWING)


def precompute(params: Params, pairs: Path, teacher: Path, out: Path, growing: Path) -> None:
    """Put the cache that the params describe in the place of `out`, whole or not at all; it grows in `growing`."""
    cache = grow_cache(
        pairs,
        teacher,
        growing,
        default_prompt=params.prompts.default,
        use_shift=params.teacher.use_shift,
        config=params.precompute,
    )
    files.put_in_place(cache, out)
    shutil.rmtree(growing)
    log.info("the latents are in %s", out)


def grow_cache(
    pairs: Path, teacher: Path, growing: Path, *, default_prompt: str, use_shift: bool, config: PrecomputeConfig
) -> Path:
    """Compute a cache, or what an interrupted run of equal input left to compute of it; returns its directory.

    Equal input gives equal bytes. `growing` is the writer's own, and whoever calls removes it.
    """
    folder = PairFolder(pairs)
    texts = sorted({folder.caption(name) for name in folder.ids} | {default_prompt, NULL_PROMPT})
    origin = {"teacher": teachers.fingerprint(teacher), "use_shift": use_shift}
    key = files.sha256_json(
        {
            "pairs": _digests(folder),
            "texts": texts,
            "origin": origin,
            "config": config.model_dump(),
            "rounding": rounding(),
            "code": files.sha256_code(*CODE),
        }
    )
    writer = CacheWriter(growing, key=key, dtype=config.dtype, shard_rows=config.shard_rows)
    if writer.num_prompts:
        log.info("%d prompts and %d latents were computed before", writer.num_prompts, writer.num_samples)
    if left := texts[writer.num_prompts :]:
        writer.add_prompts(_prompts(teacher, left))
    writer.add_samples(_samples(folder, teacher, use_shift, config, writer.num_samples))
    return writer.finish(default_prompt=default_prompt, origin=origin)


def _digests(folder: PairFolder) -> list[tuple[str, str, str]]:
    """Each photograph's id, caption and sha256."""
    with ThreadPoolExecutor() as pool:
        sums = list(pool.map(files.sha256_file, map(folder.hq_path, folder.ids)))
    return [(name, folder.caption(name), digest) for name, digest in zip(folder.ids, sums, strict=True)]


def _prompts(teacher: Path, texts: list[str]) -> Iterator[tuple[str, Prompt]]:
    """The text encoders are held only while this runs."""
    pipe = teachers.load_text(teachers.locate(teacher), dtype=precision(), device=device.pick())
    for prompt in tqdm(texts, desc="precompute: prompts", unit="prompt"):
        yield prompt, text.encode_prompts(pipe, [prompt])[0]


def _samples(
    folder: PairFolder, teacher: Path, use_shift: bool, config: PrecomputeConfig, first: int
) -> Iterator[Sample]:
    """From number `first` on. Batches begin where they always do: what a row shares its batch with may round it."""
    a_photograph = 2 if config.flips else 1
    if first == len(folder) * a_photograph:
        return
    whole, begun = divmod(first, config.batch_size * a_photograph)
    names = folder.ids[whole * config.batch_size :]
    vae = teachers.load_vae(teachers.locate(teacher), dtype=torch.float32, device=device.pick())
    codec = LatentCodec(vae, use_shift)
    yield from islice(_encoded(folder, names, codec, config), begun, None)


@torch.no_grad()
def _encoded(folder: PairFolder, names: list[str], codec: LatentCodec, config: PrecomputeConfig) -> Iterator[Sample]:
    """Each batch's latents, then those of its mirror images."""
    with tqdm(total=len(names), desc="precompute: latents", unit="image") as bar:
        for start in range(0, len(names), config.batch_size):
            batch = names[start : start + config.batch_size]
            images = torch.stack([read_image(folder.hq_path(name)) for name in batch]).to(device.pick())
            for name, latent in zip(batch, codec.encode(images).cpu(), strict=True):
                yield Sample(name, folder.caption(name), latent)
            if config.flips:
                for name, latent in zip(batch, codec.encode(images.flip(-1)).cpu(), strict=True):
                    yield Sample(mirrored(name), folder.caption(name), latent)
            bar.update(len(batch))


def rounding() -> list[object]:
    """What else decides the last bits: work that is unfinished is gone on with where these are the same alone."""
    return ["cuda"] if device.pick().type == "cuda" else ["cpu", torch.get_num_threads()]


def precision() -> torch.dtype:
    """T5-XXL is 19 GB in float32; on a GPU it runs in bfloat16, as it was trained."""
    return torch.bfloat16 if device.pick().type == "cuda" else torch.float32


if __name__ == "__main__":
    stage.run(main)
