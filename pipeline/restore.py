"""Restore a folder of images with a baseline, such as Real-ESRGAN, in order to score it beside the students.

    python -m pipeline.restore --with real_esrgan --lq DIR --out DIR [--params params.yaml]

`--out` receives one PNG per image, of the same name, enlarged `data.scale` times.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.stages import restorers, stage
from tsdsr import files
from tsdsr.config import Params
from tsdsr.data.pairs import write_png
from tsdsr.errors import UserError
from tsdsr.metrics.images import collect

TEACHER = Path("data/teacher")


def main(arguments: list[str] | None = None) -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("--with", dest="baseline", required=True, type=_name, metavar="NAME", help=_known())
    parser.add_argument("--lq", required=True, type=Path, metavar="DIR", help="low-quality pictures")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="replaced when all images are done")
    args = parser.parse_args(arguments)
    items, problems = collect(args.lq, None)
    if problems or not items:
        raise UserError("; ".join(map(str, problems)) or f"{args.lq}: contains no image")
    restore = restorers.BASELINES[args.baseline](Params.load(args.params), TEACHER)
    with files.atomic_directory(args.out) as aside:
        for item in items:
            write_png(aside / f"{item.restored.path.stem}.png", restore(item.restored.load()))


def _name(text: str) -> str:
    name = text.replace("-", "_")
    if name not in restorers.BASELINES:
        raise argparse.ArgumentTypeError(f"unknown baseline {text}; {_known()}")
    return name


def _known() -> str:
    return "known: " + ", ".join(restorers.BASELINES)


if __name__ == "__main__":
    stage.run(main)
