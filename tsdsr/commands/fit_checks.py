"""Checks whether the params fit on this machine, each with the change to make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tsdsr import machine, weights
from tsdsr.commands.findings import BAD, NOTE, OK, WARN, Finding, gib
from tsdsr.config import Params
from tsdsr.models import fp8, presets

if TYPE_CHECKING:
    from tsdsr.training.memory import DistillMemory

LPIPS_FILES = {"alex": ("alexnet", "lpips-alex"), "vgg": ("vgg16", "lpips-vgg")}
RESERVE = 0.9  # the usable share of a device's memory


def check(params: Params, *, count_memory: bool) -> list[Finding]:
    """The findings of every check, or one line if all is well.

    Args:
        count_memory: count a training step's memory too, which takes half a minute.
    """
    found = [finding for row in CHECKS for finding in row(params)]
    if count_memory:
        found += _room(params)
    else:
        found.append(Finding(NOTE, "distill memory", "not counted; tsdsr doctor --memory does"))
    if not any(finding.state in (BAD, WARN) for finding in found):
        found.append(Finding(OK, "params", "valid, and they fit"))
    return found


def uses_gpu(params: Params) -> bool:
    return params.distill.device != "cpu" and torch.cuda.is_available()


def _device(params: Params) -> list[Finding]:
    config, gpus, cpus = params.distill, torch.cuda.device_count(), machine.cpus()
    found = []
    if config.device == "cuda" and not gpus:
        found.append(Finding(BAD, "distill.device", "is cuda, and there is no CUDA device", "distill.device: auto"))
    if config.precision == "bfloat16" and not uses_gpu(params):
        text = "is bfloat16 without a GPU: hundreds of times slower than float32 on most processors"
        found.append(Finding(WARN, "distill.precision", text, "distill.precision: float32"))
    if getattr(config, "fp8_scores", False):  # some methods have no scores
        card, cure = torch.device("cuda", 0), "distill.fp8_scores: false"
        if not uses_gpu(params):
            found.append(Finding(WARN, "distill.fp8_scores", "is true without a GPU: a CPU is slower with it", cure))
        elif not fp8.supports(card):
            text = f"needs FP8 units, which {torch.cuda.get_device_name(card)} does not have"
            found.append(Finding(BAD, "distill.fp8_scores", text, cure))
    if uses_gpu(params) and config.num_workers > gpus:
        text = f"{config.num_workers} workers for {gpus} GPUs: they would wait for ever on this machine alone"
        found.append(Finding(BAD, "distill.num_workers", text, f"distill.num_workers: {gpus}, or join a cluster"))
    if not uses_gpu(params) and max(1, config.num_workers) * config.threads_per_worker > cpus:
        text = f"{config.num_workers} workers of {config.threads_per_worker} threads share {cpus} CPUs"
        found.append(Finding(WARN, "distill.threads_per_worker", text, _threads(params, cpus)))
    return found


def _threads(params: Params, cpus: int) -> str:
    return f"distill.threads_per_worker: {max(1, cpus // max(1, params.distill.num_workers))}"


def _room(params: Params) -> list[Finding]:
    from tsdsr.training import memory

    need = memory.count(params)
    return [_memory(params, need), _disk(params, need)]


def _memory(params: Params, need: DistillMemory) -> Finding:
    on_gpu = uses_gpu(params)
    have = torch.cuda.mem_get_info(0)[1] if on_gpu else machine.available_memory()
    workers = 1 if on_gpu else max(1, params.distill.num_workers)
    parts = (
        f"{gib(need.weights)} weights, {gib(need.trained)} adapters and optimiser, {gib(need.activations)} activations"
    )
    text = f"about {gib(need.total)} a worker ({parts}); {gib(have / workers)} are there"
    if need.total <= RESERVE * have / workers:
        return Finding(NOTE, "distill memory", text)
    return Finding(BAD, "distill memory", text, "; ".join(_savings(params, on_gpu)) or "a larger machine")


def _savings(params: Params, on_gpu: bool) -> list[str]:
    """The settings that lower it, the least costly first."""
    config = params.distill
    lora = getattr(config, "lora", None)  # some methods have no adapters
    rows = config.batch_size // max(1, config.num_workers) // config.accumulation
    wanted = [
        (on_gpu and config.precision == "float32", "distill.precision: bfloat16"),
        (rows > 1, f"distill.accumulation: {config.accumulation * rows} (micro-batches of 1)"),
        (config.vae_slice != 1, "distill.vae_slice: 1"),
        (not config.gradient_checkpointing, "distill.gradient_checkpointing: true"),
        (not config.low_memory, "distill.low_memory: true"),
        (lora is not None and lora.rank > 16, f"distill.lora.rank: {lora.rank // 2 if lora else 0}"),
        (params.data.crop_size > 256, f"data.crop_size: {params.data.crop_size // 2}"),
    ]
    return [cure for applies, cure in wanted if applies]


def _disk(params: Params, memory_need: DistillMemory) -> Finding:
    keep = params.distill.checkpoint.keep + 1  # one more during a write
    need, have = keep * memory_need.checkpoint, machine.free_disk(Path.cwd())
    text = f"checkpoints take up to {gib(need)}; {gib(have)} are free"
    if need <= have:
        return Finding(NOTE, "distill checkpoints", text)
    return Finding(BAD, "distill checkpoints", text, "free space, or distill.checkpoint.keep: 1")


def _files(params: Params) -> list[Finding]:
    found = []
    source, lpips = params.teacher.source, params.distill.lpips
    if not presets.get(params.teacher.preset).trained and not source:
        found.append(Finding(BAD, "teacher.source", "names no weights for this preset", "a hub id or a directory"))
    if source and source.startswith((".", "/", "~")) and not Path(source).expanduser().is_dir():
        found.append(Finding(BAD, "teacher.source", f"{source} is not a directory", "correct the path"))
    if params.data.source != "bundled" and not _exists(params.data.source):
        found.append(Finding(BAD, "data.source", f"{params.data.source}: no such folder", "correct the path"))
    folder = params.evaluate.weights_dir
    if folder and not Path(folder).expanduser().is_dir():
        found.append(Finding(WARN, "evaluate.weights_dir", f"{folder} is not a directory", "correct the path"))
    if lpips.weights == "published" and lpips.path is None and not lpips.download:
        missing = [reason for name in LPIPS_FILES[lpips.net] if (reason := weights.missing(name))]
        if missing:
            text = "; ".join(missing)
            found.append(Finding(BAD, "distill.lpips", text, "distill.lpips.path, or distill.lpips.download: true"))
    return found


def _exists(source: object) -> bool:
    """Check that each folder or glob of `data.source` exists."""
    patterns = source if isinstance(source, list | tuple) else [source]
    return all(_matches(str(pattern)) for pattern in patterns)


def _matches(pattern: str) -> bool:
    path = Path(pattern).expanduser()
    if path.exists():
        return True
    anchor = path.anchor or "."
    return any(Path(anchor).glob(str(path.relative_to(anchor) if path.anchor else path)))


def _sweep(params: Params) -> list[Finding]:
    wanted, gpus, cpus = params.sweep.resources, torch.cuda.device_count(), machine.cpus()
    if wanted.gpus > gpus:
        text = f"{wanted.gpus:g} GPUs a trial, and there are {gpus}"
        return [Finding(WARN, "sweep.resources", text, f"sweep.resources.gpus: {gpus}, or join a cluster")]
    if wanted.cpus > cpus:
        text = f"{wanted.cpus:g} CPUs a trial, and there are {cpus}"
        return [Finding(WARN, "sweep.resources", text, f"sweep.resources.cpus: {cpus}, or join a cluster")]
    return []


CHECKS: tuple[Callable[[Params], list[Finding]], ...] = (_files, _device, _sweep)
