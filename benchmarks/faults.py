"""Kill a distillation at random moments, restart it, and compare its bytes with those of an undisturbed run.

    python benchmarks/faults.py [--quick] [--tries N]

Each try starts the same tiny distillation (random networks, CPU, one seed), kills a part of it with SIGKILL once or
twice, starts again what does not start by itself until it ends, and compares the final adapters and the curve byte by
byte. The tries go through WAYS in turn: some kill the training loop in one process, the others
`python -m pipeline.distill` under Ray Train - its driver, a worker, or driver, Ray and workers all at once. A try whose
kill found nothing alive is repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import targets
from benchmarks.targets import STEPS, Head, Target

Process = subprocess.Popen[bytes]


# When


def soon(target: Target, process: Process, draw: random.Random) -> None:
    """At any moment."""
    _wait(process, draw.uniform(0, 12))


def amid_training(target: Target, process: Process, draw: random.Random) -> None:
    """At any moment after a checkpoint."""
    begun = target.steps_done()
    last = draw.randint(begun, STEPS - 4) if begun < STEPS - 4 else begun
    while process.poll() is None and target.steps_done() < last:
        time.sleep(0.005)
    while process.poll() is None and target.environment and target.worker() is None:  # Ray's start is not training yet
        time.sleep(0.005)
    _wait(process, draw.uniform(0, 0.5))


def amid_writing(target: Target, process: Process, draw: random.Random) -> None:
    """While a checkpoint is being written."""
    skipped = draw.randint(0, 8)
    seen: set[str] = set(target.unfinished())
    skipped += len(seen)  # what a killed writer left
    while process.poll() is None and len(seen) <= skipped:
        seen |= target.unfinished()
        time.sleep(0.0005)


def _wait(process: Process, seconds: float) -> None:
    """Wait for that moment, or for the end of the run."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return


# Whom


def driver(target: Target, process: Process) -> bool:
    """Kill the started process alone; returns whether it was alive."""
    if process.poll() is not None:
        return False
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return True


def worker(target: Target, process: Process) -> bool:
    """Kill the Ray worker that saves checkpoints; Ray Train starts another one."""
    pid = target.worker()
    if process.poll() is not None or pid is None:
        return False
    targets.end([pid])
    return True


def session(target: Target, process: Process) -> bool:
    """Kill the driver, Ray's own processes and the workers."""
    if process.poll() is not None:
        return False
    targets.end(target.session())
    process.wait()
    return True


@dataclass(frozen=True)
class Way:
    """One kind of fault.

    Attributes:
        num_workers: 0 = the training loop alone, in one process.
        own_ray: whether the driver starts its own Ray, which ends with it, instead of using a running one.
        damage: whether the newest checkpoint is damaged afterwards.
    """

    when: Callable[[Target, Process, random.Random], None]
    whom: Callable[[Target, Process], bool]
    num_workers: int = 0
    own_ray: bool = False
    damage: bool = False


WAYS = {
    "the loop, at any moment": Way(amid_training, driver),
    "the driver, on a cluster": Way(amid_training, driver, 1),
    "a Ray worker": Way(amid_training, worker, 1),
    "driver, Ray and workers": Way(amid_training, session, 1, own_ray=True),
    "the loop, during a checkpoint's write": Way(amid_writing, driver),
    "a Ray worker, during a checkpoint's write": Way(amid_writing, worker, 1),
    "one of two Ray workers": Way(amid_training, worker, 2),
    "the loop, and the newest checkpoint damaged": Way(amid_training, driver, damage=True),
    "the driver, with its own Ray, at any moment": Way(soon, driver, 1, own_ray=True),
}


class Bench:
    """The tries in one folder, and the undisturbed runs for comparison.

    Args:
        folder: empty. ways: those that will be tried.
    """

    def __init__(self, folder: Path, ways: list[str], stack: ExitStack) -> None:
        self.folder, self.prepared = folder, folder / "prepared"
        under_ray = [WAYS[name] for name in ways if WAYS[name].num_workers]
        self.head = stack.enter_context(Head()) if any(not way.own_ray for way in under_ray) else None
        if under_ray:
            targets.prepare_stage(self.prepared, num_workers=1)
        self.wanted: dict[int, str] = {}

    def target(self, name: str, num_workers: int, *, own_ray: bool = False) -> Target:
        directory = self.folder / name
        shutil.rmtree(directory, ignore_errors=True)
        if num_workers == 0:
            return targets.loop_target(directory)
        head = None if own_ray else self.head
        return targets.stage_target(directory, self.prepared, num_workers=num_workers, head=head)

    def undisturbed(self, way: Way) -> str:
        """The digest of a run without kills; computed once per number of workers.

        One Ray worker must give the bytes of the stage without Ray.
        """
        if way.num_workers not in self.wanted:
            directory = self.folder / f"undisturbed-{way.num_workers}"
            if way.num_workers == 1:
                target = targets.stage_target(directory, self.prepared, num_workers=0, head=None)
            else:
                target = self.target(directory.name, way.num_workers, own_ray=way.own_ray)
            assert finish(target, target.start()), _tail(directory / "log")
            if way.num_workers and not (self.prepared / "mlflow.db").exists():
                shutil.copy(directory / "mlflow.db", self.prepared)
            self.wanted[way.num_workers] = target.outcome()
        return self.wanted[way.num_workers]

    def attempt(self, number: int, way: Way, draw: random.Random, most_kills: int = 2) -> tuple[bool, int]:
        """Disturb one run; returns whether it ended with the expected bytes, and the number of kills."""
        wanted = self.undisturbed(way)
        struck = 0
        while not struck:  # a run that ended before its kill proves nothing
            target = self.target(f"try-{number}", way.num_workers, own_ray=way.own_ray)
            process = target.start()
            for _ in range(draw.randint(1, most_kills)):
                process = process if process.poll() is None else target.start()
                way.when(target, process, draw)
                struck += way.whom(target, process)
                if way.damage:
                    damage(target, draw)
            ended = finish(target, process)
        return ended and target.outcome() == wanted and not target.left_over(), struck


def finish(target: Target, process: Process) -> bool:
    """Wait for its end, restarting it if it was killed; False if it fails by itself or hangs."""
    for _ in range(3):
        try:
            if process.wait(timeout=targets.PATIENCE) == 0:
                return True
        except subprocess.TimeoutExpired:
            targets.end(target.session())
            return False
        if process.returncode > 0:
            return False
        process = target.start()
    return False


def damage(target: Target, draw: random.Random) -> None:
    """Flip a byte of the newest checkpoint, or truncate it."""
    saved = target.saved()
    if len(saved) < 2:
        return
    path = saved[-1] / "state.safetensors"
    content = bytearray(path.read_bytes())
    if draw.random() < 0.5:
        content[draw.randrange(len(content))] ^= 0xFF
    else:
        del content[draw.randrange(len(content)) :]
    path.write_bytes(bytes(content))


def run(folder: Path, ways: list[str], draw: random.Random, most_kills: int = 2) -> tuple[int, int]:
    """One try per kind of fault; returns how many ended with the undisturbed run's bytes, and the number of kills."""
    survived = kills = 0
    with ExitStack() as stack:
        bench = Bench(folder, ways, stack)
        for number, name in enumerate(ways):
            began = time.monotonic()
            same, struck = bench.attempt(number, WAYS[name], draw, most_kills)
            survived, kills = survived + same, kills + struck
            seconds = time.monotonic() - began
            verdict = "identical" if same else "DIFFERENT"
            print(f"{number + 1:3d}  killed {name:<45} {struck} times  {verdict}  {seconds:5.1f} s", flush=True)
            if not same:
                print(_tail(folder / f"try-{number}/log"), file=sys.stderr, flush=True)
    return survived, kills


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a try in each way")
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        targets.train_loop(arguments.train)
        return
    tries = len(WAYS) if arguments.quick else arguments.tries
    ways = [list(WAYS)[number % len(WAYS)] for number in range(tries)]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        survived, kills = run(Path(folder), ways, random.Random(arguments.seed))
    about = {"name": "faults", "baseline": "an undisturbed run", "ours": survived, "unit": "identical ends"}
    about |= {"ratio": survived / tries, "device": "cpu", "equal": survived == tries}
    counts = {"survived": survived, "tried": tries, "kills": kills, "under_ray": sum("loop" not in way for way in ways)}
    print(json.dumps({**about, **counts, "seconds": round(time.monotonic() - began)}))


if __name__ == "__main__":
    main()
