"""The part of the stage teacher that fine-tunes the teacher's transformer on the photographs (`teacher.finetune`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.precompute import grow_cache, precision, rounding
from pipeline.stages.teacher_work import Work
from tsdsr import device, files
from tsdsr.config import Params
from tsdsr.data.cache import LatentCache
from tsdsr.data.images import read_image
from tsdsr.data.pairs import PairFolder
from tsdsr.methods.teacher import CachedLatents
from tsdsr.models import adapters, text
from tsdsr.models import teacher as teachers
from tsdsr.models.codec import LatentCodec
from tsdsr.training.teacher import Session, Values, train_flow

STATISTICS_ROWS = 1024


def train(params: Params, pairs: Path, work: Work, code: Sequence[Path]) -> dict[str, Any]:
    """Train a LoRA adapter of the teacher on the training pairs' HQ sides, and save it in the teacher's directory.

    Latents and prompts are cached on disk, since those of many photographs do not fit in memory.

    Args:
        code: a change of these files invalidates checkpoints.

    Returns:
        the flow loss per bin on the test pairs, before and after.
    """
    config = params.teacher.finetune
    directory = grow_cache(
        pairs / "train",
        work.teacher,
        work.latents,
        default_prompt=params.prompts.default,
        use_shift=params.teacher.use_shift,
        config=params.precompute.model_copy(update={"dtype": "bfloat16", "flips": False}),
    )
    cache = LatentCache.open(directory, verify=False)
    teacher = teachers.load_teacher(work.teacher, text_encoders=False, dtype=precision(), device=device.pick())
    transformer = teacher.transformer
    adapters.add_adapter(
        transformer,
        adapters.TEACHER,
        rank=config.rank,
        alpha=config.rank,
        targets=adapters.ATTENTION_TARGETS,
        seed=params.seed,
    )
    if device.pick().type == "cuda":
        transformer.enable_gradient_checkpointing()
    key = {
        "latents": cache.manifest,
        "config": config.model_dump(),
        "seed": params.seed,
        "rounding": rounding(),
        "code": files.sha256_code(Path(__file__), *code),
    }

    def training(session: Session) -> list[Values]:
        curve = train_flow(
            transformer,
            adapters.parameters(transformer, adapters.TEACHER),
            CachedLatents(cache),
            config,
            teacher.schedule,
            seed=params.seed,
            shift_positions=False,
            session=session,
        )
        return [{"step": row["step"], "finetune": row["flow"]} for row in curve]

    with adapters.active(transformer, adapters.TEACHER):
        work.train("fine-tuning", config.steps, key, training)
    adapters.save(transformer, adapters.TEACHER, work.teacher / teachers.FINETUNED)
    return _measure(teacher, work.teacher, PairFolder(pairs / "test"), _statistics(cache), params)


def _statistics(cache: LatentCache) -> tuple[Tensor, Tensor]:
    """Mean and variance of each latent channel, over at most `STATISTICS_ROWS` latents spread over the cache."""
    every = max(1, len(cache) // STATISTICS_ROWS)
    latents = torch.stack([cache.latent(number) for number in range(0, len(cache), every)])
    return latents.mean((0, 2, 3)), latents.var((0, 2, 3))


def _measure(
    teacher: teachers.Teacher, out: Path, test: PairFolder, statistics: tuple[Tensor, Tensor], params: Params
) -> dict[str, Any]:
    """Flow loss per bin on the test pairs, with the adapter and without."""
    from tsdsr.training.teacher_report import flow_by_bin

    pipe = teachers.load_text(teachers.locate(out), dtype=precision(), device=device.pick())
    prompts = text.encode_prompts(pipe, [test.caption(name) for name in test.ids])
    del pipe  # the text encoders are the larger part of SD3
    vae = teachers.load_vae(teachers.locate(out), dtype=torch.float32, device=device.pick())
    codec = LatentCodec(vae, params.teacher.use_shift)
    with torch.no_grad():
        latents = [codec.encode(read_image(test.hq_path(name))[None].to(device.pick()))[0].cpu() for name in test.ids]
    report = {}
    for key, names in (("finetune_before", ()), ("finetune_after", (adapters.TEACHER,))):
        with adapters.active(teacher.transformer, *names):
            report[key] = flow_by_bin(
                teacher.transformer,
                teacher.schedule,
                latents=latents,
                prompts=prompts,
                statistics=statistics,
                seed=params.seed,
            )
    return report
