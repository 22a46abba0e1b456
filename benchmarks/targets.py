"""The targets of `faults.py`: small distillations of one seed, each in its own process, and access to their parts.

Every process of a target has a mark in its environment, by which a whole session (driver, Ray's processes, workers)
is ended, and leftover processes are found.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARK = "TSDSR_FAULTS"
PATIENCE = 900.0  # seconds for what happens by itself, on a machine that is busy with other things
STEPS = 16


def train_loop(directory: Path) -> None:
    """A distillation of the tests' rig: the training loop alone, checkpointed at every second step."""
    import torch

    torch.set_num_threads(1)
    from safetensors.torch import save_file

    from tests.tsdsr.training.rig import all_adapters, distill_config, trainer

    config = distill_config(steps=STEPS, ema_decay=0.9)
    loop = trainer(config, directory / "checkpoints")
    loop.run()
    save_file(all_adapters(loop.method.student), directory / "final.safetensors.part")
    (directory / "final.safetensors.part").replace(directory / "final.safetensors")
    (directory / "curve.json").write_text(json.dumps(loop.history, sort_keys=True))


def prepare_stage(directory: Path, **distill: object) -> None:
    """The inputs of the stage distill: params, a teacher with random weights, pairs and their latents."""
    import yaml

    from pipeline.precompute import precompute
    from pipeline.stages import lineage
    from tests.teachers import write_pairs, write_random_teacher
    from tsdsr.config import Params

    smoke = yaml.safe_load((ROOT / "params/smoke.yaml").read_text(encoding="utf-8"))
    small = {"lora": {"rank": 4, "alpha": 4, "vae_rank": 4}, "device": "cpu", "threads_per_worker": 1}
    rhythm = {"steps": STEPS, "checkpoint": {"every": 2}, "log_every": 3}
    params = Params.load(ROOT / "params.yaml").overlay(smoke).overlay({"distill": {**small, **rhythm, **distill}})
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "params.yaml").write_text(yaml.safe_dump(params.to_dict()), encoding="utf-8")
    (directory / "data").mkdir()
    with contextlib.chdir(directory):
        with lineage.making(lineage.PAIRS, params):
            write_pairs(Path("data/pairs/train"), count=4, side=64)
            write_pairs(Path("data/pairs/test"), count=2, side=64, seed=1)
        with lineage.making(lineage.TEACHER, params):
            write_random_teacher(Path("data/teacher"))
        with lineage.making(lineage.LATENTS, params):
            precompute(params, Path("data/pairs/train"), Path("data/teacher"), Path("data/latents"), Path("growing"))


@dataclass
class Target:
    """A distillation that can be restarted.

    Attributes:
        directory: its own. results: the files below it that must equal those of the undisturbed run.
    """

    directory: Path
    command: list[str]
    checkpoints: str
    results: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    def start(self) -> subprocess.Popen[bytes]:
        self.mark = secrets.token_hex(8)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
        environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **self.environment, MARK: self.mark}
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                self.command, cwd=self.directory, env=environment, start_new_session=True, stdout=log, stderr=log
            )

    def session(self) -> list[int]:
        """Its running processes, by their mark."""
        return marked(self.mark)

    def left_over(self) -> list[int]:
        """The processes that still run well after the driver's end; Ray's own need a moment."""
        deadline = time.monotonic() + PATIENCE
        while (found := self.session()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return found

    def worker(self) -> int | None:
        """The Ray worker that saves the checkpoints, while it trains."""
        with suppress(OSError, ValueError):
            note = (self.directory / ".tsdsr/running/full/writer.holder").read_text()
            pid = int(note.removeprefix("process ").partition(" ")[0])
            return pid if b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes() else None
        return None

    def steps_done(self) -> int:
        """The steps of the newest checkpoint."""
        names = [path.name for path in self.saved()]
        return int(names[-1].removeprefix("step-")) if names else 0

    def saved(self) -> list[Path]:
        return sorted((self.directory / self.checkpoints).glob("step-*"))

    def unfinished(self) -> set[str]:
        """Checkpoints that are being written; they have a hidden name until they are complete."""
        return {path.name for path in (self.directory / self.checkpoints).glob(".step-*")}

    def outcome(self) -> str:
        """A digest of the final adapters and the curve."""
        return hashlib.sha256(b"".join((self.directory / name).read_bytes() for name in self.results)).hexdigest()


def loop_target(directory: Path) -> Target:
    """The training loop in one process."""
    directory.mkdir()
    command = [sys.executable, str(ROOT / "benchmarks/faults.py"), "--train", str(directory)]
    return Target(directory, command, "checkpoints", ("final.safetensors", "curve.json"))


def stage_target(directory: Path, prepared: Path, *, num_workers: int, head: Head | None) -> Target:
    """`python -m pipeline.distill` under Ray Train, on the head or with a Ray of its own."""
    directory.mkdir()
    (directory / "data").mkdir()
    for name in ("teacher", "pairs", "latents"):
        (directory / "data" / name).symlink_to(prepared / "data" / name)
    for store in prepared.glob("mlflow.db"):
        shutil.copy(store, directory)  # making its tables takes longer than the training
    params = (prepared / "params.yaml").read_text(encoding="utf-8")
    assert params.count("num_workers: 1\n") == 1
    (directory / "params.yaml").write_text(params.replace("num_workers: 1\n", f"num_workers: {num_workers}\n"))
    results = ("transformer.safetensors", "vae.safetensors", "prompt.safetensors")
    return Target(
        directory,
        [sys.executable, "-m", "pipeline.distill", "--params", "params.yaml"],
        ".tsdsr/checkpoints/full",
        (*(f"data/students/full/{name}" for name in results), "reports/curves/full.csv"),
        {"TSDSR_GIT_COMMIT": "0" * 40, **(head.environment if head else {})},
    )


class Head:
    """A Ray head on loopback with its own token, for the `with` block."""

    def __enter__(self) -> Head:
        from pipeline.cluster import __main__ as cluster
        from pipeline.cluster import runtime

        self._folder = tempfile.mkdtemp(prefix="ray-faults-", dir="/tmp")  # Ray's sockets need a short path
        port, dashboard = (runtime.free_port("127.0.0.1") for _ in range(2))
        token = secrets.token_hex(32)
        self.environment = {
            **runtime.ENVIRONMENT,
            "RAY_ADDRESS": f"127.0.0.1:{port}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
        }
        command = [*cluster.head_command(port, dashboard), "--num-cpus=4", f"--temp-dir={self._folder}"]
        self._mark = secrets.token_hex(8)
        own = {name: value for name, value in self.environment.items() if name != "RAY_ADDRESS"}
        own |= runtime.state_address(dashboard)
        environment = {**os.environ, **own, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", MARK: self._mark}
        with Path(self._folder, "log").open("wb") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + PATIENCE
        while "Ray runtime started" not in (said := Path(self._folder, "log").read_text()):
            assert self._process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.1)
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=20)
        end(marked(self._mark))
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def marked(mark: str) -> list[int]:
    """The running processes whose environment has the mark."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has just ended, or is not ours
            if f"{MARK}={mark}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def end(pids: list[int]) -> None:
    """SIGKILL them, and wait for their end."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and any(_lives(pid) for pid in pids):
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
