"""SIGTERM and Ctrl-C: exit status, one line, nothing half-written; and the distillation goes on to the same bytes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import targets
from benchmarks.targets import STEPS, Target
from pipeline import distill, precompute
from pipeline.process import interruption
from pipeline.process.interruption import Interrupted
from pipeline.stages import stage
from tsdsr import files
from tsdsr.config import Params
from tsdsr.errors import UserError
from tsdsr.training.distillation import DistillJob
from tsdsr.training.stepper import Stepper


class KilledError(Exception):
    """Stands for a SIGKILL: nothing below it is caught."""


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stage_ends_with_a_line_and_leaves_nothing_half_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], signum: signal.Signals, status: int
) -> None:
    def main() -> None:
        with files.atomic_directory(tmp_path / "out") as aside:
            (aside / "half").write_text("x")
            os.kill(os.getpid(), signum)
            time.sleep(5)

    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(SystemExit) as caught:
        stage.run(main)
    assert caught.value.code == status
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"interrupted by {signum.name}: nothing half-written is left. Run the same command")
    assert list(tmp_path.iterdir()) == []
    assert before == [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]


def test_a_signal_on_the_way_out_does_not_make_a_finished_stage_look_undone() -> None:
    stage.run(lambda: None)
    for signum in (signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), signum)


def test_a_deferred_signal_is_noted_once_and_a_second_ctrl_c_leaves_at_once() -> None:
    told: list[None] = []
    with interruption.raising():
        with interruption.deferred(lambda: told.append(None)) as request:
            assert not request.asked()
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # schedulers send it to a process and to its group
            assert request.asked()
            assert request.signum == signal.SIGTERM
            with pytest.raises(Interrupted) as caught:
                os.kill(os.getpid(), signal.SIGINT)
            assert caught.value.code == 130
        assert told
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)


def test_handlers_that_a_library_sets_when_it_starts_are_undone() -> None:
    with interruption.deferred() as request:
        with interruption.kept():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.asked()


def test_an_interrupted_stage_leaves_its_former_output(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(prepared)
    monkeypatch.setattr("sys.argv", ["precompute"])
    before = {path.name: path.read_bytes() for path in Path("data/latents").iterdir()}

    def encode(*args: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(precompute.LatentCodec, "encode", encode)
    with pytest.raises(SystemExit) as caught:
        stage.run(precompute.main)
    assert caught.value.code == 75
    assert {path.name: path.read_bytes() for path in Path("data/latents").iterdir()} == before
    assert [path.name for path in Path("data").iterdir() if path.name.startswith(".")] == []


def when(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it holds; the process must not end before."""
    while not condition():
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.01)


def ended(process: subprocess.Popen[bytes]) -> int:
    return process.wait(timeout=targets.PATIENCE)


def hold(target: Target, *, after: int) -> Path:
    """Hold it once it has done so many steps, until the file that is returned is removed."""
    path = target.directory / "hold"
    path.write_text(str(after))
    python_path = os.pathsep.join((str(Path(__file__).parents[1] / "held"), str(targets.ROOT)))
    target.environment |= {"HOLD": str(path), "PYTHONPATH": python_path}
    return path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("prepared") / "x"
    targets.prepare_stage(directory, num_workers=1)
    return directory


@pytest.fixture(scope="module")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Target:
    target = targets.stage_target(tmp_path_factory.mktemp("whole") / "x", prepared, num_workers=0, head=None)
    assert ended(target.start()) == 0
    shutil.copy(target.directory / "mlflow.db", prepared)
    return target


DVC_STAGE = """
stages:
  distill:
    cmd: python -m pipeline.distill --params params.yaml
    params: [distill]
    deps: [data/latents, data/pairs/train, data/teacher]
    outs: [data/students/full]
"""


def with_dvc(target: Target) -> Target:
    """The same stage in a repository of its own, started by `dvc repro`."""
    tools = Path(sys.executable).parent
    for name in ("teacher", "pairs", "latents"):  # DVC does not follow links out of its repository
        link = target.directory / "data" / name
        source = link.resolve()
        link.unlink()
        shutil.copytree(source, link)
    (target.directory / "dvc.yaml").write_text(DVC_STAGE)
    (target.directory / ".dvcignore").write_text(".tsdsr\nmlruns\n")
    for command in (["git", "init", "--quiet"], [str(tools / "dvc"), "init", "--quiet"]):
        subprocess.run(command, cwd=target.directory, check=True, capture_output=True)
    target.environment |= {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    target.command = [str(tools / "dvc"), "repro"]
    return target


def refuse_a_second(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the stage's script beside the one that is at work."""
    note = (target.directory / ".tsdsr/running/full/lock.holder").read_text()
    holder = note.removeprefix("process ").partition(" ")[0]
    monkeypatch.chdir(target.directory)
    monkeypatch.setattr("sys.argv", ["distill"])
    with pytest.raises(UserError, match=f"the distillation of full is already running, in process {holder} on "):
        distill.main()


@pytest.mark.repro
def test_dvc_repro_goes_on_where_it_was_killed_or_interrupted_and_a_second_is_refused(
    tmp_path: Path, prepared: Path, undisturbed: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = with_dvc(targets.stage_target(tmp_path / "x", prepared, num_workers=0, head=None))
    log = target.directory / "log"
    hold(target, after=4)
    process = target.start()
    when(lambda: target.steps_done() == 4, process, log)
    targets.end(target.session())  # DVC, its shell and the stage
    process.wait()
    held = hold(target, after=8)
    process = target.start()
    when(lambda: target.steps_done() == 8, process, log)
    refuse_a_second(target, monkeypatch)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    when((target.directory / ".tsdsr/running/full/asked/stop").exists, process, log)
    held.unlink()
    assert ended(process) != 0
    assert target.left_over() == []  # where DVC's shell does not wait for the stage, it has not ended yet
    assert "interrupted by SIGINT: " in log.read_text()  # which status DVC sees is its shell's choice
    assert ended(target.start()) == 0, log.read_text()[-3000:]
    assert re.findall(r"resuming after step (\d+) of", log.read_text()) == ["4", "9"]
    assert target.outcome() == undisturbed.outcome()
    assert target.saved() == []


@pytest.mark.parametrize("end", ["killed", "interrupted"])
def test_a_trained_student_whose_stage_did_not_come_to_its_end_is_not_trained_again(
    tmp_path: Path, prepared: Path, undisturbed: Target, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """While the results are written down: DVC then removes the student, and the next start makes it again."""
    target = targets.stage_target(tmp_path / "x", prepared, num_workers=0, head=None)
    monkeypatch.chdir(target.directory)
    monkeypatch.setattr("sys.argv", ["distill"])
    monkeypatch.setenv("TSDSR_GIT_COMMIT", "0" * 40)
    report = distill._report

    def leave(params: Params, job: DistillJob) -> None:
        if end == "killed":
            raise KilledError
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(distill, "_report", leave)
    with pytest.raises(KilledError if end == "killed" else Interrupted):
        stage.run(distill.main)
    shutil.rmtree("data/students/full")
    monkeypatch.setattr(distill, "_report", report)
    monkeypatch.setattr(Stepper, "take", None)
    distill.main()
    assert target.outcome() == undisturbed.outcome()
    assert target.saved() == []


@pytest.mark.repro
def test_sigterm_to_the_driver_reaches_ray_s_workers(tmp_path: Path, prepared: Path, undisturbed: Target) -> None:
    target = targets.stage_target(tmp_path / "x", prepared, num_workers=1, head=None)
    log = target.directory / "log"
    held = hold(target, after=4)
    target.environment["LATE"] = "17"  # as on a busy machine: a Ray of ours starts all the same
    process = target.start()
    when(lambda: target.steps_done() == 4, process, log)
    os.kill(process.pid, signal.SIGTERM)
    when((target.directory / ".tsdsr/running/full/asked/stop").exists, process, log)
    held.unlink()
    assert ended(process) == 75, log.read_text()[-3000:]
    assert f"stopped after step 5 of {STEPS}; its checkpoint is saved" in log.read_text()
    assert target.steps_done() == 5
    assert target.left_over() == []
    (target.directory / "params.yaml").write_text(
        (undisturbed.directory / "params.yaml").read_text()
    )  # it goes on without Ray as well
    assert ended(target.start()) == 0, log.read_text()[-3000:]
    assert target.outcome() == undisturbed.outcome()
