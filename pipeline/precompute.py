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
from pipeline.teacher import read_image
from tsdsr.config import Params
from tsdsr.data.cache import NULL_PROMPT, LatentCache, Sample, mirrored
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
    """Write the cache, whole or not at all; equal input gives equal bytes."""
    folder = PairFolder(pairs)
    captions = {folder.caption(name) for name in folder.ids}
    texts = sorted(captions | {params.prompts.default, NULL_PROMPT})
    LatentCache.write(
        out,
        prompts=_prompts(teacher, texts),
        samples=_samples(params, folder, teacher),
        default_prompt=params.prompts.default,
        dtype=params.precompute.dtype,
        shard_rows=params.precompute.shard_rows,
        origin={"teacher": teachers.fingerprint(teacher), "use_shift": params.teacher.use_shift},
    )
    log.info("%d latents and %d prompts in %s", len(folder), len(texts), out)


def _prompts(teacher: Path, texts: list[str]) -> Iterator[tuple[str, Prompt]]:
    """The text encoders are held only while this runs."""
    pipe = teachers.load_text(teachers.locate(teacher), dtype=_precision(), device=_device())
    for prompt in tqdm(texts, desc="precompute: prompts", unit="prompt"):
        yield prompt, text.encode_prompts(pipe, [prompt])[0]


@torch.no_grad()
def _samples(params: Params, folder: PairFolder, teacher: Path) -> Iterator[Sample]:
    vae = teachers.load_vae(teachers.locate(teacher), dtype=torch.float32, device=_device())
    codec = LatentCodec(vae, params.teacher.use_shift)
    rows = params.precompute.batch_size
    with tqdm(total=len(folder), desc="precompute: latents", unit="image") as bar:
        for start in range(0, len(folder), rows):
            names = folder.ids[start : start + rows]
            images = torch.stack([read_image(folder.hq_path(name)) for name in names]).to(_device())
            for name, latent in zip(names, codec.encode(images).cpu(), strict=True):
                yield Sample(name, folder.caption(name), latent)
            if params.precompute.flips:
                for name, latent in zip(names, codec.encode(images.flip(-1)).cpu(), strict=True):
                    yield Sample(mirrored(name), folder.caption(name), latent)
            bar.update(len(names))


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _precision() -> torch.dtype:
    """T5-XXL is 19 GB in float32; on a GPU it runs in bfloat16, as it was trained."""
    return torch.bfloat16 if _device().type == "cuda" else torch.float32


if __name__ == "__main__":
    stage.run(main)
