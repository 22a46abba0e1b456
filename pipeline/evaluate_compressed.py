"""Restore the test set with the compressed student and score it, beside the methods that `pipeline.evaluate` scores.

    python -m pipeline.evaluate_compressed [--params params.yaml]

Writes data/restored/tinysr, reports/scores/tinysr.csv and .json.
"""

from __future__ import annotations

from pathlib import Path

from pipeline import evaluate
from pipeline.stages import lineage, restorers, stage
from tsdsr import files
from tsdsr.data.pairs import PairFolder


def main() -> None:
    params, student = stage.load_params(__doc__), Path(lineage.COMPRESSED)
    lineage.check(params, lineage.PAIRS, lineage.COMPRESSED)
    restorer = restorers.student(None, student, params.data.scale, params.evaluate.color_alignment)
    spent = evaluate.restore(PairFolder(evaluate.TEST), restorer, evaluate.RESTORED / student.name)
    weights = {path.parent.name: files.sha256_file(path) for path in sorted(student.rglob("*.safetensors"))}
    evaluate.score(params, student.name, student=weights, cost=spent)


if __name__ == "__main__":
    stage.run(main)
