"""Restore the test set with a student and score it beside its baselines; or score any folder of images.

    python -m pipeline.evaluate [--params params.yaml]
    python -m pipeline.evaluate --restored DIR [--reference DIR] --out FILE.csv

The first form writes data/restored/{full,bicubic,...}, reports/scores/ and reports/metrics/evaluate.json.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.stages import lineage, restorers, scoring_workers, stage
from pipeline.stages.cost import Cost
from pipeline.stages.restorers import Restorer
from pipeline.tracking import provenance
from pipeline.tracking import runs as tracking
from tsdsr import files, metrics
from tsdsr.commands import score as command
from tsdsr.config import ExternalConfig, Params
from tsdsr.data.pairs import PairFolder, write_png
from tsdsr.errors import UserError
from tsdsr.metrics.images import collect

logger = logging.getLogger(__name__)

TEST, TEACHER, STUDENT = Path("data/pairs/test"), Path("data/teacher"), Path("data/students/full")
MANIFEST = Path("data/pairs/manifest.json")
RESTORED, SCORES, METRICS = Path("data/restored"), Path("reports/scores"), Path("reports/metrics")
RUNS = Path("reports/runs")  # the run, commit and params of each file of scores, and the cost of an image
EXTERNAL = "outputs"  # provenance key: the folder of images that another method made
TEST_DATA = "test pairs"  # its name in MLflow
TEST_SET = "test"  # its name among the data sets


def evaluate(params: Params) -> bool:
    """Run the stage: score the student and its baselines on the test set, then other methods' outputs.

    Returns:
        Whether every image was scored by every metric whose weights are installed.
    """
    _check(params)
    _drop_former_external(params)
    executor = scoring_workers.executor(params)
    with tracking.parent(params):
        results = {"full": evaluate_student(params, STUDENT, "full", executor=executor)}
        for name in params.evaluate.baselines:
            spent = restore(PairFolder(TEST), restorers.BASELINES[name](params, TEACHER), RESTORED / name)
            results[name] = score(params, name, executor=executor, cost=spent)
        for entry in params.evaluate.external:
            results[entry.run_name] = _score_external(params, entry, executor)
    files.write_json(METRICS / "evaluate.json", {name: result.means for name, result in results.items()})
    return not any(result.partial for result in results.values())


class Result:
    """The means of a scored method, from the content of its JSON."""

    def __init__(self, summary: dict[str, Any]) -> None:
        self.means: dict[str, float] = {
            name: row["mean"] for name, row in summary["metrics"].items() if row["mean"] is not None
        }
        self.partial = bool(summary["partial"])


def evaluate_student(
    params: Params,
    student: Path,
    name: str,
    *,
    executor: metrics.Executor | None = None,
) -> Result:
    """Restore the test set with a student, score it, and log the scores to its run.

    Args:
        params: sections data, teacher, evaluate and tracking are read.
        student: a student directory.
        name: the variant's, used in data/restored/<name> and reports/scores/<name>.csv and for the run.
        executor: how images are scored; by default as `evaluate.fan_out` says.
    """
    pairs = PairFolder(TEST)
    color = params.evaluate.color_alignment
    spent = restore(pairs, restorers.student(TEACHER, student, params.data.scale, color), RESTORED / name)
    weights = {path.name: files.sha256_file(path) for path in sorted(student.glob("*.safetensors"))}
    result = score(params, name, executor=executor, student=weights, cost=spent)
    with tracking.child(params, name) as run:
        run.model(
            student,
            {"teacher": str(TEACHER.resolve()), "color": color},
            _named(TEST_SET, result.means),
            TEST_DATA,
            MANIFEST,
        )
    return result


def restore(pairs: PairFolder, restorer: Restorer, out: Path) -> dict[str, float | str]:
    """Restore every LQ image of `pairs` to `out`/<id>.png.

    Returns:
        The cost (`Cost.figures`).
    """
    cost = Cost(restorer)
    logger.info("restoring %d images into %s", len(pairs.ids), out)
    with files.atomic_directory(out) as aside:
        for pair in pairs.ids:
            write_png(aside / f"{pair}.png", cost.restore(restorers.read(pairs.lq_path(pair))))
    return cost.figures()


def score(params: Params, name: str, *, executor: metrics.Executor | None = None, **made_by: Any) -> Result:
    """Score data/restored/<name> against the test set.

    Args:
        made_by: further provenance of the images.
    """
    return _score(params, name, TEST_SET, RESTORED / name, TEST / "hq", SCORES / f"{name}.csv", executor, made_by)


def _score(
    params: Params,
    method: str,
    dataset: str,
    restored: Path,
    reference: Path,
    out: Path,
    executor: metrics.Executor | None,
    made_by: dict[str, Any],
) -> Result:
    device = metrics.choose_device()
    with tracking.child(params, out.stem) as run:
        scores = metrics.score_folder(
            restored,
            reference,
            params.evaluate.metrics,
            device=device,
            batch_size=params.evaluate.batch_size,
            weights_folders=scoring_workers.weights_folders(params),
            executor=executor or scoring_workers.executor(params),
        )
        # In a separate file, since these differ from run to run: equal scores give equal bytes.
        made_in = {
            "commit": provenance.git_commit(),
            "params": provenance.params_hash(params),
            "run": run.run_id,
            "cost": made_by.pop("cost", {}),
        }
        files.write_json(RUNS / f"{out.stem}.json", made_in)
        summary = metrics.write(
            scores, out, method=method, dataset=dataset, device=device, seed=params.seed, provenance=made_by
        )
        run.metrics(_named(dataset, scores.means()))
        for path in (out, metrics.json_path(out)):
            run.artifact(path, "scores")
        if dataset == TEST_SET:
            run.artifact(restored, "restored")
            run.dataset(TEST_DATA, MANIFEST, "evaluation")
    logger.info("%s on %s: %s", method, dataset, ", ".join(f"{k} {v:.4f}" for k, v in scores.means().items()))
    return Result(summary)


def _named(dataset: str, means: dict[str, float]) -> dict[str, float]:
    """Scores under their names in MLflow: `test/psnr`."""
    return {f"{dataset}/{key}": value for key, value in means.items()}


def _score_external(params: Params, entry: ExternalConfig, executor: metrics.Executor) -> Result:
    out = SCORES / f"{entry.run_name}.csv"
    made_by = {EXTERNAL: entry.dir}
    return _score(params, entry.name, entry.dataset, Path(entry.dir), _reference(params, entry), out, executor, made_by)


def _drop_former_external(params: Params) -> None:
    """Remove the scores of outputs that params no longer name, so that they leave the tables."""
    named = {f"{entry.run_name}.json" for entry in params.evaluate.external}
    for path in sorted(SCORES.glob("*.json")):
        if path.name not in named and EXTERNAL in files.read_json(path).get("provenance", {}):
            path.unlink()
            path.with_suffix(".csv").unlink(missing_ok=True)
            (RUNS / path.name).unlink(missing_ok=True)


def _reference(params: Params, entry: ExternalConfig) -> Path:
    return TEST / "hq" if entry.dataset == TEST_SET else Path(params.evaluate.references[entry.dataset])


def _check(params: Params) -> None:
    """Check, before any work, that everything named by params exists; report every fault of other methods' outputs."""
    metrics.select(params.evaluate.metrics)
    _check_names(params)
    for name in params.evaluate.baselines:
        if name not in restorers.BASELINES:
            known = ", ".join(restorers.BASELINES)
            raise UserError(f"evaluate.baselines: unknown baseline {name}; known: {known}")
    wanted: Iterable[tuple[str, Path]] = [
        place
        for index, entry in enumerate(params.evaluate.external)
        for place in (
            (f"evaluate.external.{index}.dir", Path(entry.dir)),
            (f"evaluate.references.{entry.dataset}", _reference(params, entry)),
        )
    ]
    folders = [("evaluate.weights_dir", Path(folder)) for folder in scoring_workers.weights_folders(params)]
    absent = [f"{key}: {path} is not a folder" for key, path in (*folders, *wanted) if not path.is_dir()]
    if absent:
        raise UserError("; ".join(absent))
    for entry in params.evaluate.external:
        items, problems = collect(entry.dir, _reference(params, entry))
        for problem in problems:
            logger.error("%s: %s", entry.run_name, problem)
        if not items:
            raise UserError(f"{entry.dir}: no image has a reference of the same name in {_reference(params, entry)}")


def _check_names(params: Params) -> None:
    """Refuse names of our own methods for others' outputs: tables and plots tell methods apart by name."""
    own = ["full", *restorers.BASELINES, *params.ablate.variants]
    for index, entry in enumerate(params.evaluate.external):
        if entry.name.replace(" ", "_").partition("-seed")[0] in own:
            raise UserError(
                f"evaluate.external.{index}.name: {entry.name} is the name of a method of our own, and "
                f"tables tell methods apart by name; choose another name than {', '.join(dict.fromkeys(own))}"
            )


def main(arguments: list[str] | None = None) -> None:
    """Parse, then run one of the two forms; exit status 1 when results are partial."""
    parser = stage.parser(__doc__)
    command.add_arguments(parser, required=False)
    args = parser.parse_args(arguments)
    if status := _main(args, parser):
        sys.exit(status)


def _main(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if args.restored is None and args.out is None:
        params = Params.load(args.params)
        lineage.check(params, lineage.PAIRS, lineage.TEACHER, str(STUDENT))
        return int(not evaluate(params))
    if args.restored is None or args.out is None:
        parser.error("--restored and --out belong together")
    return command.run(args)


if __name__ == "__main__":
    stage.run(main)
