"""Compress the student, a part a stage: TinySR.

    python -m pipeline.compress prune      # merge the student, decide which blocks stay
    python -m pipeline.compress restore    # cut the transformer, train it in two runs
    python -m pipeline.compress vae        # train a compact encoder, then a compact decoder
    python -m pipeline.compress export     # all of it as an upscaler, data/students/tinysr

Each run is a distillation by a method of its own (`compress.runs`), on the same loop, workers and tracking; an
interrupted one goes on from its last checkpoint, and a finished one is not run again while its stage is not done.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.distill import LATENTS, TEACHER, distill
from pipeline.stages import stage
from tsdsr import files, seeding
from tsdsr.compression import deciders
from tsdsr.compression.decision import Decision
from tsdsr.compression.export import source_hash, write_compressed, write_source
from tsdsr.config import RUNS, Params
from tsdsr.data.cache import LatentCache
from tsdsr.methods.tinysr.prune import DECISION
from tsdsr.models.student import STUDENT_TIMESTEP
from tsdsr.models.teacher import load_teacher
from tsdsr.models.velocity import predict_velocity

logger = logging.getLogger(__name__)
ROOT, STUDENTS, UNFINISHED = Path("data/tinysr"), Path("data/students"), Path(".tsdsr/tinysr")
SOURCE, TRANSFORMER, VAE = ROOT / "source", ROOT / "transformer", ROOT / "vae"
SAMPLES = 8  # latents that `sensitivity` looks at


def prune(params: Params) -> None:
    """Writes the source and the decision file."""
    source, config = write_source(TEACHER, STUDENTS / params.compress.student, SOURCE), params.compress
    if config.decider == "learnt":
        decision = Decision.read(_run(params, "prune", source=source) / DECISION)
    else:
        decision = _decided(params, source)
    decision.write(ROOT / DECISION)
    logger.info("%s keeps blocks %s of %d", decision.decider, list(decision.blocks), len(decision.scores))
    _clear("prune")


def _decided(params: Params, source: str) -> Decision:
    """By a score of each block, by place, or as told."""
    config, cache = params.compress, LatentCache.open(LATENTS)
    transformer = load_teacher(SOURCE, text_encoders=False).transformer
    if config.blocks is not None:
        return deciders.given(config.blocks, len(transformer.transformer_blocks), source=source)
    z = torch.stack([cache.latent(row) for row in range(min(SAMPLES, len(cache)))])
    timestep, prompt = torch.full((len(z),), STUDENT_TIMESTEP), cache.default
    return deciders.scored(
        config.decider,
        transformer,
        config.budget,
        lambda: predict_velocity(transformer, z, timestep, prompt.embeds, prompt.pooled),
        seed=seeding.derive(params.seed, "compress"),
        source=source,
    )


def restore(params: Params) -> None:
    """Writes the cut transformer, restored."""
    decision = Decision.read(ROOT / DECISION)
    given = {"source": source_hash(SOURCE), "blocks": list(decision.blocks)}
    first = _run(params, "restore_latents", **given, network=None)
    second = _run(params, "restore_images", **given, network=str(first.resolve()))
    files.put_in_place(second, TRANSFORMER)
    _clear("restore_latents", "restore_images")


def vae(params: Params) -> None:
    """Writes the compact autoencoder."""
    source = source_hash(SOURCE)
    encoder = _run(params, "encoder", source=source)
    files.put_in_place(_run(params, "decoder", source=source, network=str(encoder.resolve())), VAE)
    _clear("encoder", "decoder")


def export(params: Params) -> None:
    """Writes the upscaler."""
    parameters = write_compressed(SOURCE, TRANSFORMER, VAE, STUDENTS / "tinysr")
    logger.info("%s: %.3f M parameters", STUDENTS / "tinysr", parameters / 1e6)


def _run(params: Params, name: str, **added: Any) -> Path:
    """Train one of `compress.runs`, unless it was trained before with the same recipe; where its result is."""
    changed = recipe(params, name, **added)
    out = UNFINISHED / name
    record = out / "run.json"
    if record.is_file() and files.read_json(record)["distill"] == changed.to_dict()["distill"]:
        logger.info("%s: already there", name)
        return out
    distill(changed, out=out, name=f"tinysr_{name}", seed=params.seed, teacher=SOURCE)
    return out


def recipe(params: Params, name: str, **added: Any) -> Params:
    """The params of a run: `distill` with the run's overlay and what earlier runs give."""
    overlay = {"method": RUNS[name][0], **params.compress.runs[name], **added, "start": None}
    return params.overlay({"distill": overlay}, origin=f"compress.runs.{name}")


def _clear(*names: str) -> None:
    for name in names:
        shutil.rmtree(UNFINISHED / name, ignore_errors=True)


PARTS: dict[str, Callable[[Params], None]] = {"prune": prune, "restore": restore, "vae": vae, "export": export}


def main() -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("part", choices=PARTS)
    given = parser.parse_args()
    PARTS[given.part](Params.load(given.params))


if __name__ == "__main__":
    stage.run(main)
