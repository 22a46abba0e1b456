"""Run the tasks of prepare-degradations: few in threads, many with Ray Data.

Both ways call the same function and give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from pipeline.cluster import runtime
from tsdsr.config import Params
from tsdsr.data.builders import Outcome, Task, build
from tsdsr.data.staging import Staging
from tsdsr.errors import UserError

MOST_BLOCKS = 1000


def run(tasks: list[Task], params: Params, staging: Staging) -> Iterator[Outcome]:
    """Yield the outcome of each task when it is done."""
    fan_out = _with_ray if len(tasks) > params.prepare.ray_above else _in_threads
    return fan_out(tasks, params, staging)


def _build_and_record(task: Task, params: Params, staging: Staging) -> Outcome:
    outcome = build(task, params, staging.pairs)
    staging.record(task, outcome)
    return outcome


def _in_threads(tasks: list[Task], params: Params, staging: Staging) -> Iterator[Outcome]:
    """Decoding, filtering and PNG writing release the interpreter's lock."""
    with ThreadPoolExecutor(params.prepare.num_workers) as pool:
        futures = [pool.submit(_build_and_record, task, params, staging) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def _with_ray(tasks: list[Task], params: Params, staging: Staging) -> Iterator[Outcome]:
    """On this machine, or on the cluster that RAY_ADDRESS names; its nodes must see the same folders."""
    runtime.start(params.prepare.num_workers)
    import ray.data

    def work(row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"outcome": _build_and_record(Task.from_json(row["task"]), params, staging).to_json(), "error": ""}
        except UserError as error:
            return {"outcome": "", "error": str(error)}

    ray.data.DataContext.get_current().enable_progress_bars = False  # the stage has its own progress bar
    rows = ray.data.from_items([{"task": task.to_json()} for task in tasks], override_num_blocks=_blocks(len(tasks)))
    compute = ray.data.TaskPoolStrategy(size=params.prepare.num_workers)
    for row in rows.map(work, compute=compute).iter_rows():
        if row["error"]:
            raise UserError(row["error"])
        yield Outcome.from_json(row["outcome"])


def _blocks(num_tasks: int) -> int:
    """One Ray task processes one block, and progress is counted in blocks; too many of them cost time."""
    return max(1, min(num_tasks // 4, MOST_BLOCKS))
