"""Kill distillation at random moments and start it again: does it end with the bytes of an undisturbed run?

    python benchmarks/faults.py [--quick] [--tries N]

Each try starts the same tiny distillation (random networks, CPU, one seed), kills it with SIGKILL once or twice at
random moments - some while a checkpoint is being written, some with the newest checkpoint damaged afterwards - starts
it again until it ends, and compares the final adapters and the curve byte by byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WAYS = ("at any moment", "during a checkpoint's write", "and the newest checkpoint damaged")


def train(directory: Path) -> None:
    """The victim: a distillation of the tests' rig, checkpointed at every second step."""
    sys.path.insert(0, str(ROOT))
    import torch

    torch.set_num_threads(1)
    from safetensors.torch import save_file

    from tests.tsdsr.training.rig import all_adapters, distill_config, trainer

    config = distill_config(steps=24, ema_decay=0.9)
    loop = trainer(config, directory / "checkpoints")
    loop.run()
    save_file(all_adapters(loop.student), directory / "final.safetensors.part")
    (directory / "final.safetensors.part").replace(directory / "final.safetensors")
    (directory / "curve.json").write_text(json.dumps(loop.history, sort_keys=True))


def start(directory: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--train", str(directory)]
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=(directory / "log").open("ab"))


def finish(directory: Path) -> bool:
    """Start until it ends; True when it ended by itself."""
    return any(start(directory).wait() == 0 for _ in range(2))


def outcome(directory: Path) -> str:
    """Digest of the final adapters and of the curve."""
    parts = [(directory / name).read_bytes() for name in ("final.safetensors", "curve.json")]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def attempt(directory: Path, way: str, draw: random.Random, seconds: tuple[float, float]) -> int:
    """Kill it in this way once or twice; returns how many kills struck a living run."""
    kills = 0
    for _ in range(draw.randint(1, 2)):
        process = start(directory)
        if way == WAYS[1]:
            _wait_for_write(process, directory / "checkpoints", draw)
        else:
            _wait(process, draw.uniform(*seconds))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        if way == WAYS[2]:
            _damage(directory / "checkpoints", draw)
    return kills


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Until then, or until it has ended."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return


def _wait_for_write(process: subprocess.Popen[bytes], checkpoints: Path, draw: random.Random) -> None:
    """Until a checkpoint is being written aside: its directory has a hidden name until it is whole."""
    skipped = draw.randint(0, 8)
    seen: set[str] = set()
    while process.poll() is None and len(seen) <= skipped:
        if checkpoints.is_dir():
            seen |= {path.name for path in checkpoints.glob(".step-*")}
        time.sleep(0.0005)


def _damage(checkpoints: Path, draw: random.Random) -> None:
    """Flip a byte, or cut the file short."""
    paths = sorted(checkpoints.glob("step-*/state.safetensors"))
    if len(paths) < 2:
        return
    content = bytearray(paths[-1].read_bytes())
    if draw.random() < 0.5:
        content[draw.randrange(len(content))] ^= 0xFF
    else:
        del content[draw.randrange(len(content)) :]
    paths[-1].write_bytes(bytes(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="six tries")
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train(arguments.train)
        return
    tries, draw = (6 if arguments.quick else arguments.tries), random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        survived, kills = run(Path(folder), tries, draw)
    about = {"name": "faults", "baseline": "an undisturbed run", "ours": survived, "unit": "identical ends"}
    about |= {"ratio": survived / tries, "device": "cpu", "equal": survived == tries}
    print(json.dumps({**about, "survived": survived, "tried": tries, "kills": kills}))


def run(folder: Path, tries: int, draw: random.Random) -> tuple[int, int]:
    """Every try; returns how many ended as the undisturbed run did, and the kills in all."""
    whole = folder / "whole"
    whole.mkdir()
    began = time.monotonic()
    assert finish(whole), (whole / "log").read_text()
    took, wanted = time.monotonic() - began, outcome(whole)
    survived = kills = 0
    for number in range(tries):
        way, directory, struck = WAYS[number % len(WAYS)], folder / f"try-{number}", 0
        while not struck:  # a run that ended before its kill proves nothing
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            struck = attempt(directory, way, draw, (0.2 * took, took))
        same = finish(directory) and outcome(directory) == wanted
        survived, kills = survived + same, kills + struck
        print(f"{number + 1:3d}  killed {struck} times {way:<36}  {'identical' if same else 'DIFFERENT'}", flush=True)
    return survived, kills


if __name__ == "__main__":
    main()
