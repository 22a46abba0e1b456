"""Restore and score the test set with one trained variant of the ablation.

    python -m pipeline.ablate --variant wo_tsm --seed 0

Writes what evaluate writes, under the name `<variant>-seed<n>`; in MLflow it is a child of the pipeline's run, beside
`full`.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.evaluate import evaluate_student
from pipeline.stages import lineage, stage, variants


def main(arguments: Sequence[str] | None = None) -> None:
    variant = variants.given(__doc__, arguments)
    lineage.check(variant.params, lineage.PAIRS, lineage.TEACHER)
    lineage.check(variant.changed, str(variant.student))
    with variants.tracked(variant):
        evaluate_student(variant.changed, variant.student, variant.name)


if __name__ == "__main__":
    stage.run(main)
