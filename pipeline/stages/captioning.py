"""`captions.source: model`: caption the photographs without a caption, here or with a pool of Ray Data actors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.cluster import runtime
from tsdsr.config import Params
from tsdsr.data.builders import Task
from tsdsr.data.caption_store import CaptionStore, caption_batch
from tsdsr.data.captioner import Captioner
from tsdsr.errors import UserError


def caption_tasks(tasks: list[Task], params: Params, base: Path) -> list[Task]:
    """The tasks with the model's captions.

    Args:
        base: the captions made so far, by model; it can be deleted.

    Raises:
        UserError: the model cannot be loaded, or needs a prompt.
    """
    store = CaptionStore(base, params.captions)
    left = [task for task in tasks if store.get(task.ref) is None]
    if left:
        caption = _with_ray if len(left) > params.prepare.ray_above else _here
        with tqdm(total=len(tasks), initial=len(tasks) - len(left), unit=" photographs", desc="captions") as progress:
            for count in caption(left, params, store):
                progress.update(count)
    return [dataclasses.replace(task, ref=dataclasses.replace(task.ref, caption=store.get(task.ref))) for task in tasks]


def _here(tasks: list[Task], params: Params, store: CaptionStore) -> Iterator[int]:
    captioner = Captioner(params.captions)
    size = params.captions.batch_size
    for start in range(0, len(tasks), size):
        batch = tasks[start : start + size]
        caption_batch([task.ref for task in batch], captioner, store, params.prepare.max_megapixels)
        yield len(batch)


class _Actor:
    """One loaded model in the pool. It returns its error as a row, so that the user sees one line."""

    def __init__(self, params: Params, store: CaptionStore) -> None:
        self.params, self.store, self.error = params, store, ""
        try:
            self.captioner = Captioner(params.captions)
        except UserError as error:
            self.error = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        refs = [Task.from_json(text).ref for text in batch["task"]]
        if not self.error:
            caption_batch(refs, self.captioner, self.store, self.params.prepare.max_megapixels)
        return {"count": [len(refs)], "error": [self.error]}


def _with_ray(tasks: list[Task], params: Params, store: CaptionStore) -> Iterator[int]:
    """One actor per GPU of the cluster, or `prepare.num_workers` on CPUs. Its nodes must see the same folders."""
    runtime.start(params.prepare.num_workers)
    import ray.data

    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    ray.data.DataContext.get_current().enable_progress_bars = False  # the stage has its own progress bar
    rows = ray.data.from_items([{"task": task.to_json()} for task in tasks]).map_batches(
        _Actor,
        fn_constructor_args=(params, store),
        batch_size=params.captions.batch_size,
        compute=ray.data.ActorPoolStrategy(size=num_gpus or params.prepare.num_workers),
        num_gpus=1 if num_gpus else None,
    )
    for row in rows.iter_rows():
        if row["error"]:
            raise UserError(row["error"])
        yield row["count"]
