"""Train one variant of the ablation with one seed.

    python -m pipeline.ablate_distill --variant wo_tsm --seed 0

Writes what distill writes, under the name `<variant>-seed<n>`. If `ablate.start` is a recipe, the first variant trains
the common starting student, `start`.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.distill import distill
from pipeline.stages import lineage, stage, variants
from pipeline.tracking import runs as tracking
from tsdsr.config import Params


def main(arguments: Sequence[str] | None = None) -> None:
    variant = variants.given(__doc__, arguments)
    lineage.check(variant.params, lineage.PAIRS)
    if variant.params.ablate.start is not None:
        train_start(variant.params)
    with lineage.making(str(variant.student), variant.changed, variant.params), variants.tracked(variant):
        distill(variant.changed, out=variant.student, name=variant.name, seed=variant.seed)


def train_start(params: Params) -> None:
    """Train the student of `ablate.start` unless it exists."""
    directory, changed = variants.start(params)
    if not (directory / "student.json").is_file():
        with tracking.parent(params):
            distill(changed, out=directory, name="start", seed=changed.seed)


if __name__ == "__main__":
    stage.run(main)
