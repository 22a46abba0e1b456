"""`tsdsr score`: score a folder of images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Declare the command's options on `parser`."""
    parser.add_argument("--restored", required=required, metavar="DIR", help="folder of images to score")
    parser.add_argument("--reference", metavar="DIR", help="folder of references with the same names (optional)")
    parser.add_argument(
        "--out",
        required=required,
        metavar="FILE.csv",
        help="file for the scores of the images; FILE.json receives the means",
    )
    parser.add_argument("--metrics", metavar="A,B,...", help="default: all")
    parser.add_argument("--method", metavar="NAME", help="name of the method (default: the folder's name)")
    parser.add_argument("--dataset", default="unnamed", metavar="NAME", help="name of the data set")
    parser.add_argument(
        "--weights-dir", action="append", default=[], metavar="DIR", help="folder that is searched for weights first"
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--batch-size", type=_count, default=4, help="number of images of one size in a batch")
    parser.add_argument("--no-cache", action="store_true", help="do not use the cache of scores, .tsdsr/scores")
    parser.add_argument("--against", metavar="OTHER.csv", help="also print the paired differences to these scores")


def _count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, found {text}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Score, write and print.

    Returns:
        0; 1 if the results are partial, that is, an available metric failed on an image; 2 if none of the chosen
        metrics is available. On an interruption the scores so far are written as partial.

    Raises:
        UserError: no image can be scored, or a file cannot be read or written; raised before the work.
    """
    from tsdsr import metrics, weights

    device = metrics.choose_device(args.device)
    metrics.check_out(args.out)
    weights.check_folders(args.weights_dir)
    if args.against:
        metrics.read_csv(args.against)
    method = args.method or Path(args.restored).resolve().name

    def keep(scores: metrics.Scores) -> None:
        summary = metrics.write(scores, args.out, method=method, dataset=args.dataset, device=device)
        sys.stdout.write(describe(summary) + "\n")

    scores = metrics.score_folder(
        args.restored,
        args.reference,
        args.metrics.split(",") if args.metrics else None,
        device=device,
        batch_size=args.batch_size,
        weights_folders=args.weights_dir,
        cache=None if args.no_cache else metrics.DEFAULT_CACHE,
        on_interruption=keep,
    )
    keep(scores)
    if args.against:
        sys.stdout.write(describe_differences(args.out, args.against) + "\n")
    return int(scores.partial) if scores.means() else 2


def describe(summary: dict) -> str:
    """The means of a summary, one metric per line."""
    from tsdsr import metrics

    count = metrics.counted(summary["images"], summary["photographs"])
    lines = [f"{summary['method']} on {summary['dataset_label']}: {count}" + " (partial)" * summary["partial"]]
    lines += [f"  note: {departure}" for departure in summary["departures"]]
    for row in summary["metrics"].values():
        if row["mean"] is None:
            lines.append(f"  {row['label']:8}         - {row['reason']}")
        else:
            bounds = "" if row["low"] is None else f"  [{row['low']:.4f}, {row['high']:.4f}]"
            lines.append(f"  {row['label']:8} {row['mean']:9.4f}{bounds}")
    return "\n".join(lines)


def describe_differences(ours: str | Path, theirs: str | Path) -> str:
    """Paired differences, one metric per line; a star marks an interval without 0, over enough photographs."""
    from tsdsr import metrics

    rule = f"* the 95 % interval does not contain 0, over at least {metrics.FEWEST} photographs"
    lines = [f"{ours} - {theirs}, paired over images ({rule})"]
    for name, item in metrics.compare(ours, theirs).items():
        bounds = "" if item.low is None else f"  [{item.low:+.4f}, {item.high:+.4f}]"
        label = metrics.METRICS[name].label if name in metrics.METRICS else name
        count = metrics.counted(item.images, item.photographs)
        lines.append(f"  {label:8} {item.mean:+9.4f}{bounds}  {count}" + " *" * item.excludes_zero)
    return "\n".join(lines)
