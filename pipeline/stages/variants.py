"""The ablation's variants: each is an overlay on `distill` and a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.stages import lineage, stage
from pipeline.tracking import runs as tracking
from tsdsr.config import Params
from tsdsr.errors import UserError

STARTS = Path(".tsdsr/starts")


@dataclass(frozen=True)
class Variant:
    """One cell of the matrix.

    Attributes:
        params: the experiment's. changed: the variant's own.
        seed: replaces `params.seed`: initial adapters, order of samples, times and noise.
        name: `<variant>-seed<n>`, the name of its files and of its run.
    """

    params: Params
    changed: Params
    seed: int
    name: str

    @property
    def student(self) -> Path:
        return Path("data/students") / self.name


def given(description: str | None, arguments: Sequence[str] | None = None) -> Variant:
    """The variant that a stage's command line names."""
    parser = stage.parser(description)
    parser.add_argument("--variant", required=True, help="a key of ablate.variants")
    parser.add_argument("--seed", required=True, type=int, help="the seed of the training")
    named = parser.parse_args(arguments)
    params = Params.load(named.params)
    changed = overlaid(params, named.variant, named.seed)
    return Variant(params, changed, named.seed, f"{named.variant}-seed{named.seed}")


def overlaid(params: Params, variant: str, seed: int) -> Params:
    """The params of a variant.

    Raises:
        UserError: naming the variants there are.
    """
    variants = params.ablate.variants
    if variant not in variants:
        raise UserError(f"--variant {variant}: not in ablate.variants, which has {', '.join(sorted(variants))}")
    changed = params.overlay({"seed": seed, "distill": variants[variant]}, origin=f"ablate.variants.{variant}")
    if params.ablate.start is None:
        return changed
    return changed.overlay({"distill": {"start": start(params)[0].as_posix()}})


def start(params: Params) -> tuple[Path, Params]:
    """The starting student of all variants: its directory, named by a hash of everything that affects it, and its
    params."""
    changed = params.overlay({"distill": params.ablate.start}, origin="ablate.start")
    return STARTS / lineage.training_key(changed), changed


@contextmanager
def tracked(variant: Variant) -> Iterator[None]:
    """Within the block, logging goes to the variant's run, a child of the experiment's like `full`."""
    with tracking.parent(variant.params):
        with tracking.child(variant.changed, variant.name) as run:
            run.tags({"variant": variant.name.rpartition("-seed")[0], "seed": variant.seed})
        yield
