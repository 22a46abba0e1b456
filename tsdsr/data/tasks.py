"""The tasks of prepare-degradations, from the params: the photographs and their splits."""

from __future__ import annotations

from tsdsr.config import Params
from tsdsr.data.builders import Task
from tsdsr.data.photographs import find_photographs, split_of
from tsdsr.data.ready_made import ready_made_tasks
from tsdsr.errors import UserError


def plan(params: Params) -> list[Task]:
    """One task per photograph and per ready-made pair, in a fixed order.

    Raises:
        UserError: a source is missing or empty, ready-made pairs do not fit, or a photograph is in both sources.
    """
    data = params.data
    refs = find_photographs(data.source)
    if data.test_source is None:
        splits = split_of(refs, data.test_fraction)
        return [Task(ref, splits[ref.id]) for ref in refs]
    if data.test_set == "pairs":
        tests = ready_made_tasks(data.test_source, data.scale)
    else:
        tests = [Task(ref, "test") for ref in find_photographs(data.test_source, key="data.test_source")]
    train = {ref.path.resolve(): ref for ref in refs}
    both = [task.ref.name for task in tests if task.ref.path.resolve() in train]
    if both:
        raise UserError(
            f"data.test_source: {len(both)} of its photographs are in data.source too (first: {both[0]}); "
            "a test photograph must not be trained on"
        )
    return [Task(ref, "train") for ref in refs] + tests
