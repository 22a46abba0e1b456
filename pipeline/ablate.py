"""Train and score one variant of the ablation with one seed: an overlay on `distill`, nothing else.

    python -m pipeline.ablate --variant wo_tsm --seed 0

Writes what distill and evaluate write, under the name `<variant>-seed<n>`; in MLflow it is a child of the pipeline's
run, beside `full`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline import stage, tracking
from pipeline.distill import distill
from pipeline.evaluate import evaluate_student
from tsdsr.config import Params
from tsdsr.errors import UserError

STUDENTS = Path("data/students")


def ablate(params: Params, variant: str, seed: int) -> None:
    """Distill and evaluate one variant.

    Args:
        variant: a key of `ablate.variants`.
        seed: takes the place of `params.seed`: adapters' start, order of samples, times and noise.
    """
    name = f"{variant}-seed{seed}"
    changed = overlaid(params, variant, seed)
    with tracking.parent(params), tracking.child(changed, name) as run:
        run.tags({"variant": variant, "seed": seed})
        distill(changed, out=STUDENTS / name, name=name, seed=seed)
        evaluate_student(changed, STUDENTS / name, name)


def overlaid(params: Params, variant: str, seed: int) -> Params:
    """The params of a variant.

    Raises:
        UserError: naming the variants there are.
    """
    variants = params.ablate.variants
    if variant not in variants:
        raise UserError(f"--variant {variant}: not in ablate.variants, which has {', '.join(sorted(variants))}")
    return params.overlay({"seed": seed, "distill": variants[variant]}, origin=f"ablate.variants.{variant}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("--variant", required=True, help="a key of ablate.variants")
    parser.add_argument("--seed", required=True, type=int, help="of everything random in the training")
    given = parser.parse_args(arguments)
    ablate(Params.load(given.params), given.variant, given.seed)


if __name__ == "__main__":
    stage.run(main)
