"""precompute: the training pairs' HQ latents and every prompt's embeddings, data/latents.

Reads the params sections prompts, precompute and teacher.use_shift, data/pairs/train and data/teacher. After it neither
the text encoders nor the HQ images' encoding are needed in training.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from pipeline import stage
from tsdsr.config import Params, PrecomputeConfig
from tsdsr.data.cache import NULL_PROMPT, LatentCache, Sample, mirrored
from tsdsr.data.images import read_image
from tsdsr.data.pairs import PairFolder
from tsdsr.models import teacher as teachers
from tsdsr.models import text
from tsdsr.models.codec import LatentCodec
from tsdsr.models.prompt import Prompt

PAIRS = Path("data/pairs/train")
TEACHER = Path("data/teacher")
OUT = Path("data/latents")

log = logging.getLogger("precompute")


def main() -> None:
    precompute(stage.load_params(__doc__), PAIRS, TEACHER, OUT)


def precompute(params: Params, pairs: Path, teacher: Path, out: Path) -> None:
    """Write the cache that the params describe."""
    write_cache(
        pairs,
        teacher,
        out,
        default_prompt=params.prompts.default,
        use_shift=params.teacher.use_shift,
        config=params.precompute,
    )


def write_cache(
    pairs: Path, teacher: Path, out: Path, *, default_prompt: str, use_shift: bool, config: PrecomputeConfig
) -> None:
    """Write a cache, whole or not at all; equal input gives equal bytes."""
    folder = PairFolder(pairs)
    captions = {folder.caption(name) for name in folder.ids}
    texts = sorted(captions | {default_prompt, NULL_PROMPT})
    LatentCache.write(
        out,
        prompts=_prompts(teacher, texts),
        samples=_samples(folder, teacher, use_shift, config),
        default_prompt=default_prompt,
        dtype=config.dtype,
        shard_rows=config.shard_rows,
        origin={"teacher": teachers.fingerprint(teacher), "use_shift": use_shift},
    )
    log.info("%d latents and %d prompts in %s", len(folder), len(texts), out)


def _prompts(teacher: Path, texts: list[str]) -> Iterator[tuple[str, Prompt]]:
    """The text encoders are held only while this runs."""
    pipe = teachers.load_text(teachers.locate(teacher), dtype=precision(), device=device())
    for prompt in tqdm(texts, desc="precompute: prompts", unit="prompt"):
        yield prompt, text.encode_prompts(pipe, [prompt])[0]


@torch.no_grad()
def _samples(folder: PairFolder, teacher: Path, use_shift: bool, config: PrecomputeConfig) -> Iterator[Sample]:
    vae = teachers.load_vae(teachers.locate(teacher), dtype=torch.float32, device=device())
    codec = LatentCodec(vae, use_shift)
    with tqdm(total=len(folder), desc="precompute: latents", unit="image") as bar:
        for start in range(0, len(folder), config.batch_size):
            names = folder.ids[start : start + config.batch_size]
            images = torch.stack([read_image(folder.hq_path(name)) for name in names]).to(device())
            for name, latent in zip(names, codec.encode(images).cpu(), strict=True):
                yield Sample(name, folder.caption(name), latent)
            if config.flips:
                for name, latent in zip(names, codec.encode(images.flip(-1)).cpu(), strict=True):
                    yield Sample(mirrored(name), folder.caption(name), latent)
            bar.update(len(names))


def device() -> torch.device:
    """Where a teacher runs: the first GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision() -> torch.dtype:
    """T5-XXL is 19 GB in float32; on a GPU it runs in bfloat16, as it was trained."""
    return torch.bfloat16 if device().type == "cuda" else torch.float32


if __name__ == "__main__":
    stage.run(main)
