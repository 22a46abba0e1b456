"""Compress the student (TinySR), one part per stage.

    python -m pipeline.compress prune      # merge the student, decide which blocks stay
    python -m pipeline.compress restore    # cut the transformer, train it in two runs
    python -m pipeline.compress vae        # train a compact encoder, then a compact decoder
    python -m pipeline.compress export     # all of it as an upscaler, data/students/tinysr

Each run (`compress.runs`) is a distillation with its own method, on the same loop, workers and tracking. An interrupted
run continues from its last checkpoint; a finished run is kept until its stage is done.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.cluster import storage
from pipeline.distill import LATENTS, TEACHER, distill
from pipeline.stages import lineage, stage
from pipeline.tracking import runs as tracking
from tsdsr import files, seeding
from tsdsr.compression import deciders
from tsdsr.compression.decision import Decision
from tsdsr.compression.export import source_hash, write_compressed, write_source
from tsdsr.config import RUNS, Params, TinySRPruneConfig
from tsdsr.data.cache import LatentCache
from tsdsr.errors import UserError
from tsdsr.methods.tinysr.prune import DECISION as DECISION_FILE
from tsdsr.models.student import STUDENT_TIMESTEP
from tsdsr.models.teacher import load_teacher
from tsdsr.models.velocity import predict_velocity

logger = logging.getLogger(__name__)
NAME = Path(lineage.COMPRESSED).name
SOURCE, DECISION, TRANSFORMER, VAE, COMPRESSED = (
    Path(path) for path in (lineage.SOURCE, lineage.DECISION, lineage.CUT, lineage.COMPACT, lineage.COMPRESSED)
)
UNFINISHED = Path(".tsdsr/tinysr")
SAMPLES = 8  # latents that `sensitivity` looks at


def prune(params: Params) -> None:
    """Writes the source and the decision."""
    with lineage.making(lineage.SOURCE, params):
        write_source(TEACHER, Path(lineage.FULL), SOURCE)
    storage.here(params).push([SOURCE])  # workers elsewhere fetch it
    with lineage.making(lineage.DECISION, params):
        files.put_in_place(decide(params), DECISION)
    decision = Decision.read(DECISION / DECISION_FILE)
    logger.info("%s keeps blocks %s of %d", decision.decider, list(decision.blocks), len(decision.scores))
    _clear("prune")


def decide(params: Params) -> Path:
    """Write a directory with the decision file: by the gates' training, a score of each block, by position, or as
    given.

    Raises:
        UserError: the budget or the blocks do not fit the source.
    """
    config, source, cache = params.compress, source_hash(SOURCE), LatentCache.open(LATENTS)
    transformer = load_teacher(SOURCE, text_encoders=False).transformer
    count = len(transformer.transformer_blocks)
    if config.decider == "learnt":
        prune_config = recipe(params, "prune", source=source).distill
        assert isinstance(prune_config, TinySRPruneConfig)
        gates = prune_config.gates
        if (kept := count // gates.group_size * gates.keep) != config.budget:
            raise UserError(f"compress.budget: {config.budget}, but compress.runs.prune.gates keeps {kept} of {count}")
        return run(params, "prune", source=source)
    if config.blocks is not None:
        decision = deciders.given(config.blocks, count, source=source)
    else:
        z = torch.stack([cache.latent(row) for row in range(min(SAMPLES, len(cache)))])
        timestep, prompt = torch.full((len(z),), STUDENT_TIMESTEP), cache.default
        decision = deciders.scored(
            config.decider,
            transformer,
            config.budget,
            lambda: predict_velocity(transformer, z, timestep, prompt.embeds, prompt.pooled),
            seed=seeding.derive(params.seed, "compress"),
            source=source,
        )
    with files.atomic_directory(UNFINISHED / "prune") as out:
        decision.write(out / DECISION_FILE)
    return UNFINISHED / "prune"


def restore(params: Params) -> None:
    """Writes the cut transformer, restored."""
    with lineage.making(lineage.CUT, params):
        files.put_in_place(restored(params, Decision.read(DECISION / DECISION_FILE)), TRANSFORMER)
    _clear("restore_latents", "restore_images")


def restored(params: Params, decision: Decision) -> Path:
    """Train both runs; returns the directory of the restored transformer with these blocks."""
    given: dict[str, Any] = {"source": source_hash(SOURCE), "blocks": list(decision.blocks)}
    return run(params, "restore_images", **given, start=run(params, "restore_latents", **given))


def vae(params: Params) -> None:
    """Writes the compact autoencoder."""
    config = params.compress
    given: dict[str, Any] = {
        "source": source_hash(SOURCE),
        "width": config.width,
        "separable": config.separable.model_dump(),
    }
    with lineage.making(lineage.COMPACT, params):
        files.put_in_place(run(params, "decoder", **given, start=run(params, "encoder", **given)), VAE)
    _clear("encoder", "decoder")


def export(params: Params) -> None:
    """Writes the upscaler."""
    with lineage.making(lineage.COMPRESSED, params):
        parameters = write_compressed(SOURCE, TRANSFORMER, VAE, COMPRESSED)
    logger.info("%s: %.3f M parameters", COMPRESSED, parameters / 1e6)
    with tracking.child(params, NAME) as made:
        made.metrics({"params_m": parameters / 1e6})
        made.artifact(DECISION / DECISION_FILE, "compression")
        made.artifact(COMPRESSED, "student")


def run(params: Params, name: str, *, start: Path | None = None, **added: Any) -> Path:
    """Train one of `compress.runs` unless it was trained with the same settings; returns the directory of its result.

    Args:
        start: the run's start, another run's result.
    """
    changed = recipe(params, name, start=None if start is None else start.as_posix(), **added)
    out = UNFINISHED / f"{name}-{lineage.training_key(changed)}"
    if out.is_dir():
        logger.info("%s: already there", out)
    else:
        distill(changed, out=out, name=f"{NAME}_{name}", seed=params.seed, teacher=SOURCE)
    return out


def recipe(params: Params, name: str, **added: Any) -> Params:
    """The params of a run: `distill` with the run's overlay and what earlier runs give."""
    overlay = {"method": RUNS[name][0], "start": None, **params.compress.runs[name], **added}
    return params.overlay({"distill": overlay}, origin=f"compress.runs.{name}")


def _clear(*names: str) -> None:
    for name in names:
        for out in UNFINISHED.glob(f"{name}*"):
            shutil.rmtree(out, ignore_errors=True)


PARTS: dict[str, Callable[[Params], None]] = {"prune": prune, "restore": restore, "vae": vae, "export": export}


def main() -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("part", choices=PARTS)
    given = parser.parse_args()
    PARTS[given.part](Params.load(given.params))


if __name__ == "__main__":
    stage.run(main)
