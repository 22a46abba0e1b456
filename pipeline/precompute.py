"""precompute: the training pairs' HQ latents and every prompt's embeddings, data/latents.

Reads the params sections prompts, precompute, teacher.use_shift and teacher.restorer, data/pairs/train and
data/teacher. After it neither the text encoders nor the HQ images' encoding are needed in training; nor is the sampling
of a teacher that restores (`teacher.restorer.enabled`), whose outputs for the pairs' LQ images are stored as well. A
run that was interrupted is continued by the next one of the same inputs; it ends with the same bytes.
"""

from __future__ import annotations

import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain, cycle, islice
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

import tsdsr
from pipeline.process import locks
from pipeline.stages import lineage, stage
from tsdsr import device, files, seeding
from tsdsr.config import Params, PrecomputeConfig
from tsdsr.data.cache import NULL_PROMPT, Sample, mirrored
from tsdsr.data.cache_writer import CacheWriter
from tsdsr.data.images import read_image
from tsdsr.data.pairs import PairFolder
from tsdsr.flow import gaussian_like
from tsdsr.models import restoring, text
from tsdsr.models import teacher as teachers
from tsdsr.models.codec import LatentCodec
from tsdsr.models.prompt import Prompt
from tsdsr.models.student import upsample

PAIRS = Path("data/pairs/train")
TEACHER = Path("data/teacher")
OUT = Path("data/latents")
GROWING = Path(".tsdsr/latents")
LOCK = Path(".tsdsr/running/precompute/lock")
# A change of these invalidates the results of an interrupted run.
CODE = [Path(__file__), *(Path(tsdsr.__file__).parent / name for name in ("data", "flow.py", "models"))]

Restore = Callable[[Sequence[str], Tensor], Tensor]
"""Ids and upsampled LQ images [B,3,H,W] -> z_tea and z_L, [B,2,C,h,w]."""

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger("precompute")


def main() -> None:
    params = stage.load_params(__doc__)
    with locks.exclusive_lock(LOCK, "the stage precompute"), lineage.making(lineage.LATENTS, params):
        precompute(params, PAIRS, TEACHER, OUT, GROWING)


def precompute(params: Params, pairs: Path, teacher: Path, out: Path, growing: Path) -> None:
    """Write the cache of these params to `out`, completely or not at all; until it is complete it is in `growing`."""
    cache = grow_cache(
        pairs,
        teacher,
        growing,
        default_prompt=params.prompts.default,
        use_shift=params.teacher.use_shift,
        config=params.precompute,
        restoring_steps=params.teacher.restorer.sampling_steps if params.teacher.restorer.enabled else None,
    )
    files.put_in_place(cache, out)
    shutil.rmtree(growing)
    log.info("the latents are in %s", out)


def grow_cache(
    pairs: Path,
    teacher: Path,
    growing: Path,
    *,
    default_prompt: str,
    use_shift: bool,
    config: PrecomputeConfig,
    restoring_steps: int | None = None,
) -> Path:
    """Compute a cache, or the missing part after an interrupted run with equal input; returns its directory.

    Equal input gives equal bytes. The caller removes `growing`.

    Args:
        restoring_steps: K of the teacher's restorer; None leaves its outputs out.
    """
    folder = PairFolder(pairs)
    texts = sorted({folder.caption(name) for name in folder.ids} | {default_prompt, NULL_PROMPT})
    origin = {"teacher": teachers.fingerprint(teacher), "use_shift": use_shift, "restoring_steps": restoring_steps}
    key = files.sha256_json(
        {
            "pairs": _digests(folder, with_lq=restoring_steps is not None),
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
    if writer.num_prompts < len(texts):
        writer.add_prompts(_prompts(teacher, texts, config.batch_size, writer.num_prompts))
    if writer.num_samples < len(folder) * _rows(config):
        encoders = []
        for place in device.every():
            vae = teachers.load_vae(teachers.locate(teacher), dtype=torch.float32, device=place)
            codec, restore = LatentCodec(vae, use_shift), None
            if restoring_steps is not None:
                restore = _restoring(teacher, writer.prompt(default_prompt), codec, restoring_steps)
            encoders.append(partial(_encoded, folder, codec, config, restore))
        writer.add_samples(_samples(folder.ids, encoders, config, writer.num_samples))
    return writer.finish(default_prompt=default_prompt, origin=origin)


def _digests(folder: PairFolder, with_lq: bool) -> list[tuple[str, ...]]:
    """Each pair's id, caption and the sha256 of the files that are read."""
    paths = (folder.hq_path, folder.lq_path) if with_lq else (folder.hq_path,)
    with ThreadPoolExecutor() as pool:
        sums = [list(pool.map(files.sha256_file, map(path, folder.ids))) for path in paths]
    return [(name, folder.caption(name), *digests) for name, *digests in zip(folder.ids, *sums, strict=True)]


def _prompts(teacher: Path, texts: list[str], rows: int, first: int) -> Iterator[tuple[str, Prompt]]:
    """Encode the prompts from number `first` on, in the same batches as in an uninterrupted run; the text encoders are
    in memory only during this call."""
    encoders = []
    for place in device.every():
        pipe = teachers.load_text(teachers.locate(teacher), dtype=precision(), device=place)
        encoders.append(partial(text.encode_prompts, pipe, rows=rows))
    whole = first // rows * rows
    batches = [texts[start : start + rows] for start in range(whole, len(texts), rows)]
    encoded = zip(texts[whole:], chain.from_iterable(_spread(encoders, batches)), strict=True)
    yield from tqdm(
        islice(encoded, first - whole, None), "precompute: prompts", len(texts), unit="prompt", initial=first
    )


def _spread(workers: Sequence[Callable[[T], list[R]]], batches: Sequence[T]) -> Iterator[list[R]]:
    """The workers' results for the batches, in order; each worker, one per device, has one batch at a time."""
    if len(workers) == 1:
        yield from map(workers[0], batches)
        return
    with ThreadPoolExecutor(len(workers)) as pool:
        waiting: deque[Future[list[R]]] = deque()
        for worker, batch in zip(cycle(workers), batches):
            if len(waiting) == len(workers):
                yield waiting.popleft().result()
            waiting.append(pool.submit(worker, batch))
        while waiting:
            yield waiting.popleft().result()


def _restoring(teacher: Path, prompt: Prompt, codec: LatentCodec, steps: int) -> Restore:
    """The restoring teacher, with noise that depends on the image's id alone."""
    place = codec.vae.device
    loaded = teachers.load_teacher(teacher, text_encoders=False, dtype=precision(), device=place)
    restoring.load(loaded.transformer, teacher)
    restorer = restoring.RestoringTeacher(loaded.transformer, Prompt(prompt.embeds.to(place), prompt.pooled.to(place)))

    def restore(names: Sequence[str], x_lq: Tensor) -> Tensor:
        z_lq = codec.encode(x_lq)
        noise = gaussian_like(z_lq, [seeding.generator(0, "restorer", name) for name in names])
        return torch.stack([restorer.restore(z_lq, noise, loaded.schedule, steps), z_lq], dim=1)

    return restore


def _rows(config: PrecomputeConfig) -> int:
    """Of a photograph."""
    return 2 if config.flips else 1


def _samples(
    ids: list[str], encoders: Sequence[Callable[[list[str]], list[Sample]]], config: PrecomputeConfig, first: int
) -> Iterator[Sample]:
    """The samples from number `first` on, in the same batches as in an uninterrupted run: the batch may affect
    rounding."""
    whole, begun = divmod(first, config.batch_size * _rows(config))
    names = ids[whole * config.batch_size :]
    batches = [names[start : start + config.batch_size] for start in range(0, len(names), config.batch_size)]
    with tqdm(total=len(names), desc="precompute: latents", unit="image") as bar:
        for batch, samples in zip(batches, _spread(encoders, batches), strict=True):
            yield from samples[begun:]
            begun = 0
            bar.update(len(batch))


@torch.no_grad()
def _encoded(
    folder: PairFolder, codec: LatentCodec, config: PrecomputeConfig, restore: Restore | None, names: list[str]
) -> list[Sample]:
    """The samples of a batch, then those of its mirrored images."""
    hq = torch.stack([read_image(folder.hq_path(name)) for name in names]).to(codec.vae.device)
    samples = []
    for flipped in (False, True)[: _rows(config)]:
        ids = [mirrored(name) if flipped else name for name in names]
        latents = codec.encode(hq.flip(-1) if flipped else hq).cpu()
        restored: Sequence[Tensor | None] = [None] * len(names)
        if restore is not None:
            lq = torch.stack([read_image(folder.lq_path(name)) for name in names]).to(hq)
            x_lq = upsample(lq.flip(-1) if flipped else lq, hq.shape[-1] // lq.shape[-1])
            restored = restore(ids, x_lq).cpu().unbind()
        for name, its_id, latent, its_restored in zip(names, ids, latents, restored, strict=True):
            samples.append(Sample(its_id, folder.caption(name), latent, its_restored))
    return samples


def rounding() -> list[object]:
    """Further inputs that decide the last bits: unfinished work is continued only if they are the same."""
    return ["cuda"] if device.pick().type == "cuda" else ["cpu", torch.get_num_threads()]


def precision() -> torch.dtype:
    """T5-XXL is 19 GB in float32; on a GPU it runs in bfloat16, as it was trained."""
    return torch.bfloat16 if device.pick().type == "cuda" else torch.float32


if __name__ == "__main__":
    stage.run(main)
