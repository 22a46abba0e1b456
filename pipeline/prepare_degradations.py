"""prepare-degradations: make degraded pairs, data/pairs, from photographs.

Reads the params sections seed, data, captions, prepare and degradation. A run that was interrupted is continued by the
next one with the same params; it ends with the same bytes.
"""

from __future__ import annotations

import logging
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pipeline.stages import fan_out, lineage, stage
from tsdsr.config import Params
from tsdsr.data.builders import Outcome, Task
from tsdsr.data.staging import Staging
from tsdsr.data.tasks import plan

OUT = Path("data/pairs")
STAGING = Path(".tsdsr/prepare")
CAPTIONS = Path(".tsdsr/captions")

log = logging.getLogger("prepare-degradations")


def main() -> None:
    params = stage.load_params(__doc__)
    with lineage.making(lineage.PAIRS, params):
        prepare(params, OUT, STAGING, CAPTIONS)


def prepare(params: Params, out: Path, staging_base: Path, captions_base: Path) -> None:
    """Build every pair of the source and replace `out` by them, all or none."""
    tasks = plan(params)
    if params.captions.source == "model":
        from pipeline.stages.captioning import (
            caption_tasks,  # imports torch and transformers, which takes seconds
        )

        tasks = caption_tasks(tasks, params, captions_base)
    staging = Staging.under(staging_base, params)
    outcomes, left = _continue(tasks, staging)
    num_test = sum(task.split == "test" for task in tasks)
    log.info("%d photographs, %d of them for tests, %d done before", len(tasks), num_test, len(outcomes))
    with (
        logging_redirect_tqdm(),
        tqdm(total=len(tasks), initial=len(outcomes), unit=" photographs", desc="prepare-degradations") as progress,
    ):
        for outcome in fan_out.run(left, params, staging) if left else ():
            outcomes.append(outcome)
            progress.update()
            if outcome.reason:
                log.warning("skipped %s: %s", outcome.photograph, outcome.reason)
    staging.publish(outcomes, params, out)
    num_pairs, num_skipped = sum(len(one.pairs) for one in outcomes), sum(one.reason is not None for one in outcomes)
    log.info("%d pairs in %s, %d photographs skipped (%s)", num_pairs, out, num_skipped, out / "manifest.json")


def _continue(tasks: list[Task], staging: Staging) -> tuple[list[Outcome], list[Task]]:
    """The outcomes of an interrupted run, and the remaining tasks."""
    recorded = [(task, staging.recorded(task)) for task in tasks]
    return [outcome for _, outcome in recorded if outcome], [task for task, outcome in recorded if not outcome]


if __name__ == "__main__":
    stage.run(main)
