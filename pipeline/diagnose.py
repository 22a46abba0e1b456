"""The directions of TSM, VSD and TSD: their cosines with z_hat - z by time, for both forms of the residual.

    python -m pipeline.diagnose [--student data/students/full] [--teacher data/teacher] [--out FILE.csv]

Uses the training pairs and latents of `--params`, with fresh degradations. VSD and TSD need a fake score, which a
student directory does not contain: one is first fitted to the student's latents for `--fake-score-steps` steps, by Eq.
(9).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pipeline.stages import stage
from tsdsr import files
from tsdsr.config import Params
from tsdsr.training.directions import Directions, measure

logger = logging.getLogger(__name__)
TIMES = (50.0, 100.0, 200.0, 350.0, 500.0, 700.0, 950.0)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("--student", type=Path, default=Path("data/students/full"), help="its directory")
    parser.add_argument(
        "--teacher", type=Path, default=Path("data/teacher"), help="the teacher that the student was distilled from"
    )
    parser.add_argument("--samples", type=int, default=48, help="the number of pairs")
    parser.add_argument("--fake-score-steps", type=int, default=100, help="the number of updates of the fake score")
    parser.add_argument("--out", type=Path, default=Path("reports/diagnostics/directions.csv"))
    args = parser.parse_args(arguments)
    rows = measure(
        Params.load(args.params),
        pairs=Path("data/pairs/train"),
        latents=Path("data/latents"),
        teacher=args.teacher,
        student=args.student,
        times=TIMES,
        samples=args.samples,
        fake_score_steps=args.fake_score_steps,
    )
    files.write_text(args.out, _csv(rows))
    logger.info("cosine with z_hat - z, in %s:\n%s", args.out, _table(rows))


def _csv(rows: Sequence[Directions]) -> str:
    cells = [[row.residual, f"{row.t:g}", *(f"{value:.4f}" for value in (row.tsm, row.vsd, row.tsd))] for row in rows]
    return files.csv_text([["residual", "t", "tsm", "vsd", "tsd"], *cells])


def _table(rows: Sequence[Directions]) -> str:
    head = f"{'residual':>10} {'t':>5} {'TSM':>7} {'VSD':>7} {'TSD':>7}"
    return "\n".join([head, *(f"{r.residual:>10} {r.t:5g} {r.tsm:+7.2f} {r.vsd:+7.2f} {r.tsd:+7.2f}" for r in rows)])


if __name__ == "__main__":
    stage.run(main)
