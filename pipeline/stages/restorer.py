"""The part of the stage teacher that trains a restoring teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.precompute import grow_cache, precision, rounding
from pipeline.stages.teacher_work import Work
from tsdsr import device, files
from tsdsr.config import Params
from tsdsr.data.cache import LatentCache
from tsdsr.data.dataset import DistillationData
from tsdsr.data.pairs import PairFolder
from tsdsr.data.synthesis import degrade_again
from tsdsr.models import restoring
from tsdsr.models import teacher as teachers
from tsdsr.models.codec import LatentCodec
from tsdsr.models.prompt import Prompt
from tsdsr.models.restoring import RestoringTeacher
from tsdsr.training.teacher import train_restorer


def train(params: Params, pairs: Path, work: Work, code: Sequence[Path]) -> None:
    """Train a restorer on the training pairs, degraded anew in each epoch, and save it in the teacher's directory.

    Args:
        code: a change of these files invalidates checkpoints.
    """
    config, seed = params.teacher.restorer, params.seed
    directory = grow_cache(
        pairs / "train",
        work.teacher,
        work.latents.with_name("restorer-latents"),
        default_prompt=params.prompts.default,
        use_shift=params.teacher.use_shift,
        config=params.precompute,
    )
    cache = LatentCache.open(directory, verify=False)
    teacher = teachers.load_teacher(work.teacher, text_encoders=False, dtype=precision(), device=device.pick())
    restoring.attach(teacher.transformer, rank=config.rank, seed=seed, trainable=True)
    if device.pick().type == "cuda":
        teacher.transformer.enable_gradient_checkpointing()
    prompt = Prompt(cache.default.embeds.to(device.pick()), cache.default.pooled.to(device.pick()))
    data = DistillationData(
        PairFolder(pairs / "train"),
        cache,
        seed=seed,
        degrade=lambda hq, pair, epoch: degrade_again(hq, pair, epoch, seed, params),
        flip=params.precompute.flips,
    )
    key = {
        "latents": cache.manifest,
        "config": config.model_dump(exclude={"enabled", "sampling_steps"}),
        "data": [seed, params.data.scale, params.degradation.model_dump()],
        "rounding": rounding(),
        "code": files.sha256_code(*code),
    }
    work.train(
        "restorer",
        config.steps,
        key,
        lambda session: train_restorer(
            RestoringTeacher(teacher.transformer, prompt),
            LatentCodec(teacher.vae, params.teacher.use_shift),
            data,
            config,
            teacher.schedule,
            scale=params.data.scale,
            seed=seed,
            session=session,
        ),
    )
    restoring.save(teacher.transformer, work.teacher / restoring.FILE)
