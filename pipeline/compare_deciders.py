"""Compare the deciders of a compression: restored quality at equal budget, and what TinySR costs.

    python -m pipeline.compare_deciders [--params params.yaml]

After `dvc repro compress/dvc.yaml evaluate`. Each of `compress.compare.deciders`, an overlay on `compress`, decides
with each seed; its cut is restored and scored on the test set. The autoencoder is the source's own, so that only the
blocks differ; equal blocks are restored once a seed. After an interruption it continues from .tsdsr/tinysr.

Writes reports/studies/tinysr: what `pipeline.study` writes, of the deciders, the whole student (`full`), TinySR and the
baselines; decisions.csv, the blocks that each decider kept; cost.png, quality against time, multiply-adds, parameters.
"""

from __future__ import annotations

import logging
from pathlib import Path

from pipeline import compress, evaluate, study
from pipeline.stages import lineage, restorers, scoring_workers, stage
from tsdsr import ablation, files, metrics
from tsdsr.ablation import REFERENCE, Columns
from tsdsr.compression.decision import Decision
from tsdsr.compression.export import write_compressed
from tsdsr.config import Params
from tsdsr.data.pairs import PairFolder
from tsdsr.errors import UserError
from tsdsr.methods.tinysr.prune import DECISION
from tsdsr.reporting import cost, scores

logger = logging.getLogger(__name__)
STUDY = study.STUDIES / compress.NAME
METRICS = ("psnr", "niqe")  # of the chart


def main() -> None:
    params = stage.load_params(__doc__)
    lineage.check(params, lineage.PAIRS, lineage.LATENTS, lineage.SOURCE, lineage.COMPRESSED)
    beside = (compress.NAME, *params.evaluate.baselines)
    known = ablation.read_runs(evaluate.SCORES, params.seed, (), beside)
    if absent := [name for name in beside if name not in known]:
        missing = ", ".join(absent)
        raise UserError(f"{evaluate.SCORES}: no scores of {missing}; run `dvc repro compress/dvc.yaml evaluate` first")
    runs, decisions = compare(params)
    rows = {REFERENCE: known[REFERENCE], **runs, **{name: known[name] for name in beside}}
    study.write(rows, STUDY)
    files.write_text(STUDY / "decisions.csv", table(decisions))
    shown = [score for score in scores.load(evaluate.SCORES) if score.method in (REFERENCE, *beside)]
    with files.atomic_file(STUDY / "cost.png") as aside:
        figure = cost.draw([row for name in METRICS for row in cost.measured(shown, name)])
        figure.savefig(aside, format="png", dpi=150)
    logger.info("the study is in %s", STUDY)


def compare(params: Params) -> tuple[dict[str, dict[int, Columns]], dict[tuple[str, int], Decision]]:
    """Scores by decider and seed, and the decisions."""
    comparison = params.compress.compare
    cells = {
        (name, seed): params.overlay({"seed": seed, "compress": changes}, origin=f"compress.compare.deciders.{name}")
        for seed in comparison.seeds
        for name, changes in comparison.deciders.items()
    }
    runs: dict[str, dict[int, Columns]] = {}
    decisions = {}
    for (name, seed), changed in cells.items():
        decision = Decision.read(compress.decide(changed) / DECISION)
        logger.info("%s, seed %d: blocks %s", name, seed, list(decision.blocks))
        decisions[name, seed] = decision
        runs.setdefault(name, {})[seed] = scored(changed, compress.restored(changed, decision))
    return runs, decisions


def scored(params: Params, transformer: Path) -> Columns:
    """The test set's scores by metric and image, as a restored transformer gives it with the source's autoencoder."""
    key = [transformer.name, files.sha256_file(Path(lineage.PAIRS, lineage.RECORD)), params.evaluate.model_dump()]
    place = compress.UNFINISHED / f"scored-{files.sha256_json(key)[:16]}"
    if not (place / "scores.csv").is_file():
        write_compressed(compress.SOURCE, transformer, None, place / "upscaler")
        restorer = restorers.student(None, place / "upscaler", params.data.scale, params.evaluate.color_alignment)
        evaluate.restore(PairFolder(evaluate.TEST), restorer, place / "restored")
        found = metrics.score_folder(
            place / "restored",
            evaluate.TEST / "hq",
            params.evaluate.metrics,
            device=metrics.choose_device(),
            batch_size=params.evaluate.batch_size,
            weights_folders=scoring_workers.weights_folders(params),
            executor=scoring_workers.executor(params),
        )
        files.write_text(place / "scores.csv", metrics.to_csv(found))
    return metrics.read_csv(place / "scores.csv")


def table(decisions: dict[tuple[str, int], Decision]) -> str:
    """CSV: decider, seed, the blocks that stay, and the score of each of the source's blocks."""
    rows: list[list[object]] = [["decider", "seed", "blocks", "scores"]]
    for (name, seed), decision in decisions.items():
        blocks, found = " ".join(map(str, decision.blocks)), " ".join(f"{score:.4g}" for score in decision.scores)
        rows.append([name, seed, blocks, found])
    return files.csv_text(rows)


if __name__ == "__main__":
    stage.run(main)
