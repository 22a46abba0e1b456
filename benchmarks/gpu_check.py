"""Check that all runs on a machine's GPU, and how fast: GPU tests and benchmarks, in at most nine minutes.

    python benchmarks/gpu_check.py [--device cuda|cpu] [--only PART ...] [--results DIR]
    python benchmarks/gpu_check.py --pack FILE.tar.gz

Each part has its own process and time limit; one that fails or takes too long is named, with the end of its log, and
the others still run. A benchmark's result is written to `<results>/<part>_<hardware>.json`, the logs
to `.tsdsr/gpu-check`. The exit status is 0 when every part passed. `--device cpu` is the small form, to try the
command itself.

`--pack` writes what a machine without network needs: the sources with the shipped teacher, and small photographs;
64 MiB at most. There: unpack it, and run `python benchmarks/gpu_check.py` in it with an environment that has what
`NEEDED` lists (`make gpu-check` would install). Ray, MLflow, DVC and pyiqa are not needed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tsdsr import files  # noqa: E402
from tsdsr.errors import UserError  # noqa: E402

NEEDED = {  # modules that the parts import, and the packages that have them
    "torch": "torch",
    "torchvision": "torchvision",
    "diffusers": "diffusers",
    "peft": "peft",
    "transformers": "transformers",
    "accelerate": "accelerate",
    "lpips": "lpips",
    "pydantic": "pydantic",
    "yaml": "pyyaml",
    "cv2": "opencv-python-headless",
    "pyarrow": "pyarrow",
    "scipy": "scipy",
    "skimage": "scikit-image",
    "tqdm": "tqdm",
    "onnxruntime": "onnxruntime",
    "onnxscript": "onnxscript",
    "pytest": "pytest",
    "pytest_timeout": "pytest-timeout",
    "hypothesis": "hypothesis",
}
PHOTOGRAPHS = Path("build/photographs")  # in a pack; elsewhere the bundled ones
PHOTOGRAPH_SIDE, MAX_PACK = 256, 64 * 2**20
LOGS = Path(".tsdsr/gpu-check")
LEFT_OUT = ("docs/images/", "reports/")  # of a pack
CPU_PATIENCE = 5  # the small form's limits: it proves the command, and its machine may be busy
TAIL = 12  # lines of a failed part's log


@dataclass(frozen=True)
class Part:
    """A part of the check.

    Attributes:
        limit: seconds on a GPU, start and end of its process included.
        cuda, cpu: its command's words after `python`, on a GPU and in the small form.
        is_benchmark: whether its last line is the JSON that is kept; tests have their own summary there.
    """

    name: str
    limit: float
    cuda: list[str]
    cpu: list[str]
    is_benchmark: bool = True


@dataclass(frozen=True)
class PartOutcome:
    """The result of a part: `problem` is empty if it passed."""

    part: Part
    seconds: float
    problem: str
    last_line: str


def parts() -> list[Part]:
    """In order; their limits, and the start of this program, sum to nine minutes."""
    tests = ["-m", "pytest", "-m", "gpu", "--continue-on-collection-errors", *gpu_tests()]
    given = ["--photographs", str(PHOTOGRAPHS)] if (ROOT / PHOTOGRAPHS).is_dir() else []
    distill, vae, step, upscale, memory = (
        f"benchmarks/{name}.py" for name in ("tiny_distill", "vae_precision", "distill_step", "upscale", "memory")
    )
    return [
        Part("tests", 90, tests, tests, is_benchmark=False),
        Part("tiny_distill", 90, [distill, *given], [distill, "--quick", "--device", "cpu", *given]),
        Part("vae_precision", 30, [vae, *given], [vae, "--quick", *given]),
        Part("distill_step", 120, [step, "--quick"], [step, "--quick", "--preset", "tiny"]),
        Part("upscale", 110, [upscale, "--quick", *given], [upscale, "--quick", *given]),
        Part("memory", 80, [memory, "--quick"], [memory, "--quick", "--preset", "tiny"]),
    ]


def gpu_tests() -> list[str]:
    """The test files with GPU tests; others may import packages that are not needed here."""
    found = (path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text())
    return [str(path.relative_to(ROOT)) for path in found]


def run(part: Part, device: str, logs: Path) -> PartOutcome:
    """Run a part until it ends or reaches its limit, and then end all processes that it started."""
    limit = part.limit * (CPU_PATIENCE if device == "cpu" else 1)
    log = logs / f"{part.name}.log"
    started = time.monotonic()
    with log.open("wb") as stream:
        command = [sys.executable, *getattr(part, device)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(limit)
            problem = f"exit status {status}" if status else ""
        except subprocess.TimeoutExpired:
            problem = f"not done after {limit:g} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    lines = log.read_text(errors="replace").strip().splitlines()
    return PartOutcome(part, time.monotonic() - started, problem, lines[-1] if lines else "")


def keep(outcome: PartOutcome, results: Path, hardware: dict[str, str], device: str) -> tuple[Path, bool]:
    """Save the result of a part that ended; also whether its two sides agree, where it compares two."""
    found: dict[str, Any] = {"name": outcome.part.name, "summary": outcome.last_line}
    if outcome.part.is_benchmark:
        found = json.loads(outcome.last_line)
    path = results / f"{outcome.part.name}_{label(hardware, device)}.json"
    files.write_json(path, {**found, "seconds": round(outcome.seconds, 1), "hardware": hardware})
    return path, found.get("equal", True)


def label(hardware: dict[str, str], device: str) -> str:
    """The name of the hardware that a part uses, the first GPU or the CPU, as part of a file name."""
    name = hardware["gpus"].split(", ")[0] if device == "cuda" else f"cpu {hardware['cpu']}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def check(chosen: list[Part], device: str, results: Path) -> int:
    from pipeline.tracking.provenance import hardware

    machine, logs = hardware(), ROOT / LOGS
    logs.mkdir(parents=True, exist_ok=True)
    print(f"{machine['gpus'] if device == 'cuda' else machine['cpu']}, torch {machine['torch']}", flush=True)
    failed = 0
    for part in chosen:
        outcome = run(part, device, logs)
        if not outcome.problem:
            try:
                path, equal = keep(outcome, results, machine, device)
                said = str(path)
                if not equal:
                    outcome = replace(outcome, problem=f"its two sides differ, see {path}")
            except ValueError:
                said = outcome.last_line
                outcome = PartOutcome(part, outcome.seconds, "its last line is no JSON", said)
        if outcome.problem:
            failed += 1
            tail = (logs / f"{part.name}.log").read_text(errors="replace").splitlines()[-TAIL:]
            said = f"FAILED: {outcome.problem}; {LOGS / part.name}.log ends with\n    " + "\n    ".join(tail)
        print(f"{part.name:<14}{outcome.seconds:6.0f} s  {said}", flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)} parts passed")
    return 1 if failed else 0


def pack(target: Path) -> None:
    """The tracked files without documentation images, and photographs cropped to `PHOTOGRAPH_SIDE`.

    Raises:
        UserError: where it would be larger than `MAX_PACK`.
    """
    from PIL import Image

    from tsdsr.data.photographs import find_photographs
    from tsdsr.data.reading import read_photograph

    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    names = [name for name in tracked.splitlines() if not name.startswith(LEFT_OUT) and (ROOT / name).is_file()]
    with files.atomic_file(target) as aside, tempfile.TemporaryDirectory() as folder:
        with tarfile.open(aside, "w:gz", compresslevel=1) as archive:
            for name in names:
                archive.add(ROOT / name, f"tsdsr/{name}")
            for reference in find_photographs("bundled"):
                pixels = read_photograph(reference.path, 200)
                top, left = ((side - PHOTOGRAPH_SIDE) // 2 for side in pixels.shape[:2])
                small = pixels[top : top + PHOTOGRAPH_SIDE, left : left + PHOTOGRAPH_SIDE]
                picture = Path(folder, f"{reference.id}.png")
                Image.fromarray(small).save(picture)
                archive.add(picture, f"tsdsr/{PHOTOGRAPHS}/{picture.name}")
        size = aside.stat().st_size
        if size > MAX_PACK:
            raise UserError(f"{target}: would have {size / 2**20:.0f} MiB; {MAX_PACK // 2**20} is the most")
    packages = ", ".join(NEEDED.values())
    print(f"{target}: {size / 2**20:.1f} MiB, {len(names)} files; the machine needs Python with {packages}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in parts()], help="these parts")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results")
    parser.add_argument("--pack", type=Path, metavar="FILE.tar.gz", help="write the pack for a machine without network")
    options = parser.parse_args()
    if options.pack:
        pack(options.pack)
        return 0
    if missing := [package for name, package in NEEDED.items() if importlib.util.find_spec(name) is None]:
        raise UserError(f"this Python lacks {', '.join(missing)}: install them, or run `make gpu-check`, which does")
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("torch finds no GPU here; --device cpu tries the command in a small form")
    return check(
        [part for part in parts() if part.name in (options.only or part.name)], options.device, options.results
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
