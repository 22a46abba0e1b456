"""Write the report: tables, loss curves, the before/after sheet and the page, and log them to the pipeline's run."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from pipeline.stages import stage
from pipeline.tracking import runs as tracking
from tsdsr import ablation, files
from tsdsr.config import Params
from tsdsr.reporting import build, scores

logger = logging.getLogger(__name__)

SCORES, TABLES = Path("reports/scores"), Path("reports/tables")
TERM_TITLES = {
    "lpips": "LPIPS loss",
    "teacher_features": "Distance in the teacher's features",
    "tsd": "TSD (surrogate value)",
    "latent_mse": "Latent MSE",
    "fake_score": "Fake score's flow matching",
    "tsd_norm": "Norm of the TSD direction",
    "vsd_norm": "Norm of the VSD direction",
    "tsm_norm": "Norm of the TSM direction",
    "cosine_z": "Teacher's cosine with the truth on z",
    "cosine_z_hat": "Teacher's cosine with the truth on ẑ",
    "regression": "Latent MSE to the teacher's output",
    "hfsd": "HFSD (surrogate value)",
    "hfsd_norm": "Norm of the HFSD direction",
    "gan": "Minus the mean logit",
    "discriminator": "Discriminator's hinge loss",
    "logit_real": "Mean logit of photographs",
    "logit_fake": "Mean logit of the student",
    "discriminator_grad_norm": "Discriminator's gradient norm",
    "restorer": "Restorer's flow matching",
    "student_grad_norm": "Student's gradient norm",
    "fake_score_grad_norm": "Fake score's gradient norm",
    "student_lr": "Student's learning rate",
    "vae_reconstruction": "Autoencoder's reconstruction",
    "vae_divergence": "Autoencoder's KL divergence",
    "flow": "Flow matching",
}
TERM_TITLES |= {f"grad_norm/{term}": f"{TERM_TITLES[term]}: gradient at ẑ" for term in ("lpips", "tsd", "latent_mse")}


def main() -> None:
    params = stage.load_params(__doc__)
    written = build.build(Path.cwd(), options(params))
    if (SCORES / "full.csv").is_file():
        runs = ablation.read_runs(SCORES, params.seed, ablated(params), params.evaluate.baselines)
        written = [*ablation.write_tables(ablation.summarise(runs), TABLES), *written]
    with tracking.parent(params) as run:
        run.metrics(means(SCORES, ablated(params)))
        for path in written:
            run.artifact(path, folder=f"report/{path.name}" if path.is_dir() else "report")
    logger.info("open %s", written[-1])


def ablated(params: Params) -> frozenset[str]:
    """The ablation's runs, `<variant>-seed<n>`."""
    return frozenset(f"{variant}-seed{seed}" for variant in params.ablate.run for seed in params.ablate.seeds)


def means(folder: Path, named: Collection[str]) -> dict[str, float]:
    """Every method's scores as metrics of the parent run, `full/psnr`, so that parent runs can be compared."""
    return {
        f"{path.stem}/{metric}": row["mean"]
        for path in sorted(folder.glob("*.json"))
        if not scores.former(path.stem, named)
        for metric, row in files.read_json(path)["metrics"].items()
        if row["mean"] is not None
    }


def options(params: Params) -> build.Options:
    """The report's options from the params, with a caveat if the LPIPS features are untrained."""
    titles, caveats = dict(TERM_TITLES), []
    if params.distill.lpips.weights == "random" and any(p.losses.get("lpips") for p in params.distill.phases.values()):
        titles["lpips"] = "LPIPS loss, untrained features"
        caveats.append(
            "The LPIPS term of the training loss used the features of an untrained network (distill.lpips.weights: "
            "random). It steered the training and appears in the loss curves under that name; it is not the LPIPS "
            "metric, whose column is filled by published weights or stays empty."
        )
    return build.Options(
        sheet_images=params.report.sheet_images,
        page_images=params.report.page_images,
        paper_version=params.report.paper_version,
        base_model=f"{params.teacher.preset} (params: teacher.preset)",
        ablated=ablated(params),
        own_full=f"{ablation.REFERENCE}-seed{params.seed}",
        max_pattern_rise_db=params.distill.validation.max_pattern_rise_db,
        term_titles=titles,
        caveats=tuple(caveats),
    )


if __name__ == "__main__":
    stage.run(main)
