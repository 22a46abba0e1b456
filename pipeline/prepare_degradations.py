"""prepare-degradations: photographs to degraded pairs, data/pairs.

Reads the params sections seed, data, captions, prepare and degradation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from pipeline import stage
from tsdsr import files
from tsdsr.config import Params
from tsdsr.data.builders import Outcome, build_photograph, write_manifest
from tsdsr.data.photographs import PhotographRef, Split, find_photographs, split_of

OUT = Path("data/pairs")

log = logging.getLogger("prepare-degradations")


def main() -> None:
    prepare(stage.load_params(__doc__), OUT)


def prepare(params: Params, out: Path) -> None:
    """Build every pair of `data.source` and put them in the place of `out`, all of them or none."""
    refs = find_photographs(params.data.source)
    splits = split_of(refs, params.data.test_fraction)
    log.info("%d photographs in %s, %d of them for tests", len(refs), params.data.source, _num_test(splits))
    with files.atomic_directory(out) as aside:
        outcomes = []
        with tqdm(total=len(refs), unit="photograph", desc="prepare-degradations") as progress:
            for outcome in _fan_out(refs, splits, params, aside):
                outcomes.append(outcome)
                progress.update()
                if outcome.reason:
                    log.warning("skipped %s: %s", outcome.photograph, outcome.reason)
        write_manifest(aside, outcomes, params)
    log.info("%d pairs in %s", sum(len(outcome.pairs) for outcome in outcomes), out)


def _fan_out(refs: list[PhotographRef], splits: dict[str, Split], params: Params, root: Path) -> Iterator[Outcome]:
    """Outcomes as they come. Threads: decoding, filtering and PNG writing release the interpreter's lock."""
    with ThreadPoolExecutor(params.prepare.num_workers) as pool:
        futures = [pool.submit(build_photograph, ref, splits[ref.id], params, root) for ref in refs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def _num_test(splits: dict[str, Split]) -> int:
    return sum(split == "test" for split in splits.values())


if __name__ == "__main__":
    stage.run(main)
