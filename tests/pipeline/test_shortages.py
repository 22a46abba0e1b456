"""What is short, in words: a full disk, Ray's object store, the memory of a worker."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.cluster import runtime
from pipeline.stages import stage, training
from tests.tsdsr.training.rig import all_adapters, distill_config, trainer
from tsdsr import files
from tsdsr.errors import UserError
from tsdsr.training.checkpoint import Checkpoint, CheckpointStore

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a tensor read from it may still be about


def fill(folder: Path, *, leave: int) -> Path:
    """Take all but `leave` bytes of the disk."""
    ballast = folder / "ballast"
    ballast.write_bytes(b"0" * (shutil.disk_usage(folder).free - leave))
    return ballast


def checkpoint(step: int, kib: int = 100) -> Checkpoint:
    return Checkpoint(step, {"a": torch.full((256 * kib,), float(step))}, {"history": []})


def test_a_full_disk_during_a_checkpoint_stops_with_the_reason_and_keeps_the_last(small_disk: Path) -> None:
    store = CheckpointStore(small_disk / "checkpoints", "key", keep=2)
    store.save(checkpoint(1))
    fill(small_disk, leave=50_000)
    with pytest.raises(UserError, match=r"step-00000002: no space left: it needs more than the 0\.\d MiB that"):
        store.save(checkpoint(2))
    assert [path.name for path in store.directory.iterdir()] == ["step-00000001"]
    found = store.latest()
    assert found is not None
    assert found.step == 1
    assert torch.equal(found.tensors["a"], checkpoint(1).tensors["a"])


def test_after_space_was_made_the_run_goes_on_to_the_same_bytes(small_disk: Path, tmp_path: Path) -> None:
    config = distill_config()
    whole = trainer(config, tmp_path / "whole")
    whole.run()
    ballast: list[Path] = []

    def fill_it(step: int, values: dict[str, float]) -> None:
        if step == 3:
            ballast.append(fill(small_disk, leave=20_000))

    with pytest.raises(UserError, match="step-00000004: no space left"):
        trainer(config, small_disk / "run", on_step=fill_it).run()
    ballast[0].unlink()
    steps: list[int] = []
    again = trainer(config, small_disk / "run", on_step=lambda step, values: steps.append(step))
    again.run()
    assert steps == [3, 4, 5, 6]
    found, wanted = all_adapters(again.method.student), all_adapters(whole.method.student)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("writing", [files.atomic_file, files.atomic_directory])
def test_files_and_directories_name_the_path_that_found_no_space(small_disk: Path, writing) -> None:
    def write_too_much() -> None:
        with writing(small_disk / "student") as aside:
            (aside / "x" if aside.is_dir() else aside).write_bytes(b"0" * 200_000)

    fill(small_disk, leave=50_000)
    with pytest.raises(UserError, match="student: no space left"):
        write_too_much()
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


def test_a_limit_on_the_size_of_files_is_no_space_either(tmp_path: Path) -> None:
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "from tsdsr import files\n"
        "try: files.write_text(sys.argv[1], 'x' * 5000)\n"
        "except files.UserError as error: print(error)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "x.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"{tmp_path}/x.json: no space left" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


def one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> str:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        stage.run(main)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_stage_says_in_a_line_what_was_short(capsys: pytest.CaptureFixture[str]) -> None:
    from ray import exceptions

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/x")
    assert "no space left" in one_line(full, capsys)
    assert "Lower the stage's workers or batch size" in one_line(exceptions.ObjectStoreFullError("no room"), capsys)
    assert "/tmp/ray) is full" in one_line(exceptions.OutOfDiskError("no room"), capsys)
    killed = exceptions.OutOfMemoryError("Task was killed due to the node running low on memory.\nmore")
    line = one_line(killed, capsys)
    assert "most likely because the machine ran out of memory" in line
    assert "(Ray: Task was killed due to the node running low on memory). Lower" in line


def test_other_errors_keep_their_traceback() -> None:
    def main() -> None:
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError):
        stage.run(main)


def test_a_training_worker_that_was_killed_is_a_matter_of_memory() -> None:
    from ray import exceptions
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
    from ray.train.v2.api.exceptions import WorkerGroupError

    died = WorkerHealthCheckFailedError("the check failed", exceptions.ActorDiedError())  # as Ray Train reports it
    assert "most likely because the machine ran out of memory" in str(
        runtime.shortage(WorkerGroupError("x", {0: died}))
    )
    assert runtime.shortage(WorkerGroupError("x", {0: ValueError("ours")})) is None


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried ...\nmore")])
def test_memory_that_cannot_be_had_names_the_settings(error: Exception) -> None:
    with pytest.raises(UserError) as caught, training._memory_in_words():
        raise error
    memory = ("batch_size", "accumulation", "vae_slice", "gradient_checkpointing", "low_memory", "precision")
    for setting in (*memory, "num_workers"):
        assert setting in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_process_that_asks_for_too_much_is_told_the_same() -> None:
    with pytest.raises(UserError, match="out of memory"), training._memory_in_words():
        torch.empty(2**50)
