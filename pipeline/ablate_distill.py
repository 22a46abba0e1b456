"""Train one variant of the ablation with one seed.

    python -m pipeline.ablate_distill --variant wo_tsm --seed 0

Writes what distill writes, under the name `<variant>-seed<n>`.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.distill import distill
from pipeline.stages import lineage, stage, variants


def main(arguments: Sequence[str] | None = None) -> None:
    variant = variants.given(__doc__, arguments)
    lineage.check(variant.params, lineage.PAIRS)
    with lineage.making(str(variant.student), variant.changed), variants.tracked(variant):
        distill(variant.changed, out=variant.student, name=variant.name, seed=variant.seed)


if __name__ == "__main__":
    stage.run(main)
