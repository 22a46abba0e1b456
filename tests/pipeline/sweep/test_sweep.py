"""The sweep: where it looks, what it keeps, what it reports; and a tiny one on Ray."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from pipeline import params as overlays
from pipeline.sweep import __main__ as sweep
from pipeline.sweep import report as sweep_report
from pipeline.sweep import study
from pipeline.sweep.space import grid, nested, planned, random_points
from pipeline.sweep.study import FAILED, FINISHED, STOPPED, TrialRecord
from pipeline.sweep.trial import Setup, run, split_pairs, trial_params
from pipeline.tracking import runs as tracking
from tsdsr.config import Params
from tsdsr.errors import UserError
from tsdsr.files import sha256_json

SPACE = [
    {"key": "distill.tsd.lambda", "uniform": [0.0, 1.0]},
    {"key": "distill.tsd.dasm.steps", "choice": [0, 2, 4]},
    {"key": "distill.optimizer.student_lr", "loguniform": [1e-4, 1e-2]},
]


@pytest.fixture
def swept(params: Params) -> Params:
    return params.overlay({"sweep": {"space": SPACE, "search": "random", "trials": 5}})


# Where it looks


def test_a_grid_has_every_combination_once(params: Params) -> None:
    space = [{"key": "distill.tsd.dasm.steps", "choice": [0, 2]}, {"key": "distill.batch_size", "choice": [4, 8, 16]}]
    points = grid(params.overlay({"sweep": {"space": space}}).sweep.space)
    assert len({sha256_json(point) for point in points}) == len(points) == 6
    assert points[1] == {"distill.tsd.dasm.steps": 0, "distill.batch_size": 8}


def test_random_points_lie_in_the_space_and_more_extend_them(swept: Params) -> None:
    few, many = (random_points(swept.sweep.space, count, seed=0) for count in (5, 40))
    assert many[:5] == few
    assert len({sha256_json(point) for point in many}) == 40
    assert all(0 <= point["distill.tsd.lambda"] <= 1 for point in many)
    assert {point["distill.tsd.dasm.steps"] for point in many} == {0, 2, 4}
    rates = sorted(point["distill.optimizer.student_lr"] for point in many)
    assert 1e-4 <= rates[0] < rates[20] < 3e-3 < rates[-1] <= 1e-2  # half of them below the geometric middle or so
    assert random_points(swept.sweep.space, 5, seed=1) != few


def test_a_small_space_of_choices_gives_what_it_has(params: Params) -> None:
    space = params.overlay({"sweep": {"space": [SPACE[1]]}}).sweep.space
    assert len(random_points(space, 10, seed=0)) == 3


def test_optuna_plans_no_points_ahead(params: Params, swept: Params) -> None:
    assert planned(params.overlay({"sweep": {"search": "optuna"}})) is None
    assert len(planned(swept) or []) == 5


def test_a_resumed_search_begins_with_what_was_cut_off_and_goes_on_to_other_points(
    swept: Params, tmp_path: Path
) -> None:
    swept = swept.overlay({"sweep": {"search": "optuna", "trials": 3}})
    begun = [study.ask(swept, study.open_study(swept, tmp_path), None) for _ in range(2)]
    trials = study.open_study(swept, tmp_path)  # as in another session
    left = [begin() for begin in sweep._waiting(swept, trials)]
    assert left == [*begun, 2]
    points = [record.values for record in study.records(swept, trials)]
    assert len({sha256_json(point) for point in points}) == 3


def test_planned_points_that_have_begun_are_not_begun_again_and_more_extend_them(swept: Params, tmp_path: Path) -> None:
    trials = study.open_study(swept, tmp_path)
    for begin in sweep._waiting(swept, trials):
        trials.tell(begin(), state=TrialState.FAIL)
    assert [record.values for record in study.records(swept, trials)] == planned(swept)
    assert list(sweep._waiting(swept, trials)) == []
    more = swept.overlay({"sweep": {"trials": 7}})
    assert [begin() for begin in sweep._waiting(more, trials)] == [5, 6]


def test_every_point_is_a_valid_overlay(swept: Params) -> None:
    for point in random_points(swept.sweep.space, 5, seed=0):
        changed = trial_params(swept, point)
        assert changed.distill.tsd.lam == point["distill.tsd.lambda"]
        assert changed.distill.steps == swept.sweep.steps
        assert changed.distill.checkpoint.every == swept.sweep.early_stopping.grace_steps
    with pytest.raises(UserError, match=r"distill\.tsd\.lambda"):
        trial_params(swept, {"distill.tsd.lambda": -1.0})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"space": [{"key": "distill.tsd.lamda", "choice": [1]}]}, "distill.tsd.lamda"),
        ({"space": [{"key": "seed", "choice": [1], "uniform": [0, 1]}]}, "exactly one"),
        ({"search": "grid", "space": SPACE}, "choices only"),
        ({"steps": 25}, "grace_steps"),
        ({"resources": {"cpus": 1, "gpus": 2}}, "gpus"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(params: Params, change: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        params.overlay({"sweep": change})


def test_a_trial_without_a_gpu_of_its_own_sees_none(params: Params) -> None:
    without, own = (params.overlay({"sweep": {"resources": {"gpus": gpus}}}) for gpus in (0, 0.5))
    assert sweep._environment(without)["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in sweep._environment(own)


# What it keeps


def test_the_study_gives_back_what_was_written(swept: Params, tmp_path: Path) -> None:
    trials = study.open_study(swept, tmp_path)
    first, second = (study.ask(swept, trials, {"a": value}) for value in (1.5, 2.5))
    running = study.load_trial(swept, tmp_path, first)  # as in a worker
    running.report(20.0, 25)
    running.set_user_attr("interval 25", (19.0, 21.0))
    running.study.tell(first, state=TrialState.PRUNED)
    ended, begun = study.records(swept, trials)
    assert ended == TrialRecord(1, {"a": 1.5}, STOPPED, None, 25, 20.0, 19.0, 21.0, 20.0)
    assert begun == TrialRecord(2, {"a": 2.5}, None)
    assert study.cut_off(trials) == [second]


def test_only_the_best_of_each_rung_go_on(swept: Params, tmp_path: Path) -> None:
    trials = study.open_study(swept, tmp_path)
    stopped = {}
    for score in (10.0, 12.0, 11.0, 13.0, 9.0, 14.0):
        trial = study.load_trial(swept, tmp_path, study.ask(swept, trials, {"a": score}))
        trial.report(score, swept.sweep.early_stopping.grace_steps)
        stopped[score] = trial.should_prune()
    assert stopped == {10.0: False, 12.0: False, 11.0: True, 13.0: False, 9.0: True, 14.0: False}


def test_a_sweep_over_other_params_is_not_continued(swept: Params, tmp_path: Path) -> None:
    study.open_study(swept, tmp_path)
    more_of_the_same = swept.overlay({"sweep": {"trials": 50}, "report": {"sheet_images": 1}})
    study.open_study(more_of_the_same, tmp_path)
    with pytest.raises(UserError, match=r"sweep\.name"):
        study.open_study(swept.overlay({"distill": {"batch_size": 8}}), tmp_path)


def test_validation_holds_out_whole_photographs(params: Params, tmp_path: Path) -> None:
    from PIL import Image

    source = tmp_path / "pairs" / "train"
    entries = []
    for photograph in "abcde":
        for crop in range(3):
            for half, side in (("hq", 32), ("lq", 8)):
                (source / half).mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (side, side)).save(source / half / f"{photograph}-c{crop:03d}.png")
            entries.append({"id": f"{photograph}-c{crop:03d}", "photograph": f"{photograph}.jpg"})
    (tmp_path / "pairs" / "manifest.json").write_text(json.dumps({"pairs": entries}))
    split_pairs(params, source, tmp_path / "split")
    names = {
        side: {path.name for path in (tmp_path / "split" / side / "hq").iterdir()} for side in ("train", "validation")
    }
    assert len(names["train"]) == 12  # a fifth of five photographs is one
    assert len(names["validation"]) == 3
    assert {name[0] for name in names["train"]}.isdisjoint({name[0] for name in names["validation"]})


# What it reports


def records() -> list[TrialRecord]:
    """Eight trials of which lambda decides the score, the learning rate nothing; and one that diverged."""
    made = []
    for number in range(1, 9):
        lam = number / 8
        values = {"distill.tsd.lambda": lam, "distill.tsd.dasm.steps": (0, 2, 4)[number % 3]}
        values["distill.optimizer.student_lr"] = 1e-4 * 2 ** (number * 5 % 7)
        end, step, score = (STOPPED, 25, 20 + lam) if number < 3 else (FINISHED, 100, 22 + lam)
        made.append(TrialRecord(number, values, end, None, step, score, score - 0.5, score + 0.5, 20 + lam))
    made.append(TrialRecord(9, {**values, "distill.tsd.lambda": 0.999}, FAILED, "step 3: not finite"))
    return made


def test_the_report_names_the_best_and_what_mattered(swept: Params, tmp_path: Path) -> None:
    written = {path.name: path for path in sweep_report.write(swept, records(), tmp_path / "sweep")}
    assert set(written) == {
        "trials.csv", "trials.md", "best.yaml", "parallel.png", "slices.png", "importance.png"
    }  # fmt: skip
    with written["trials.csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["end"] for row in rows] == [STOPPED] * 2 + [FINISHED] * 6 + [FAILED]
    assert (rows[7]["psnr"], rows[7]["steps"]) == ("23", "100")
    assert "not finite" in rows[8]["reason"]
    assert yaml.safe_load(written["best.yaml"].read_text())["distill"]["tsd"]["lambda"] == 1.0
    first = written["trials.md"].read_text().splitlines()[2]
    assert first.startswith("| 8 |")
    assert "23.00 [22.50, 23.50]" in first
    shares = sweep_report.importance(swept, records())
    assert max(shares, key=lambda key: shares[key]) == "distill.tsd.lambda"
    assert all(path.stat().st_size > 5000 for name, path in written.items() if name.endswith(".png"))


def test_the_best_overlay_is_what_dvc_takes(swept: Params, root: Path, tmp_path: Path) -> None:
    path = next(p for p in sweep_report.write(swept, records(), tmp_path) if p.name == "best.yaml")
    overlay = overlays.read_overlays([path])
    assert "distill.tsd.lambda=1.0" in overlays.flags(root / "params.yaml", overlay)


def test_a_metric_to_minimise_has_its_best_at_the_bottom() -> None:
    assert sweep_report.best(records(), "minimize").number == 3  # trials 1 and 2 scored lower, but were stopped early


def test_too_few_trials_say_nothing_about_importance(swept: Params) -> None:
    assert sweep_report.importance(swept, records()[:3]) == {}


# A tiny sweep


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A directory with the smoke overlay's params, pairs, teacher and latents."""
    from pipeline import precompute, prepare_degradations, teacher

    directory = tmp_path_factory.mktemp("sweep")
    shutil.copy(root / "params.yaml", directory)
    overlays.apply(directory / "params.yaml", overlays.read_overlays([root / "params/smoke.yaml"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        for stage in (prepare_degradations, teacher, precompute):
            patch.setattr("sys.argv", [stage.__name__])
            stage.main()
    return directory


@pytest.fixture
def here(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workplace)
    return workplace


class Killed(BaseException):
    """Stands for a kill: nothing in the trial catches it."""


@pytest.mark.repro
def test_a_trial_that_is_killed_goes_on_to_the_same_end(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = Params.load("params.yaml")
    values = {"distill.tsd.lambda": 0.25}
    directories = {name: Path(f".tsdsr/sweep/{name}").resolve() for name in ("killed", "whole")}

    def trial(name: str) -> TrialRecord:
        named = params.overlay({"sweep": {"name": name}})
        trials = study.open_study(named, directories[name])
        number = next(iter(study.cut_off(trials)), None)
        if number is None:
            split_pairs(named, sweep.PAIRS, directories[name] / "pairs")
            number = study.ask(named, trials, values)
        with tracking.parent(named, title=name, key=name):
            run(number, Setup(named.to_dict(), str(here), str(directories[name]), tracking.environment()))
        (record,) = study.records(named, trials)
        return record

    def kill(self: optuna.Trial, value: float, step: int) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "report", kill)
        with pytest.raises(Killed):
            trial("killed")
    resumed, whole = trial("killed"), trial("whole")
    assert (resumed.end, resumed.step, resumed.score) == (FINISHED, params.sweep.steps, whole.score)
    for file in ("transformer.safetensors", "vae.safetensors"):
        ours, theirs = (study.folder(directory, 0) / "student" / file for directory in directories.values())
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.repro
@pytest.mark.timeout(1800)
def test_a_sweep_runs_what_is_left_and_then_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = [{"key": "distill.tsd.lambda", "uniform": [0.0, 1.0]}, {"key": "distill.accumulation", "choice": [1, 3]}]
    params = Params.load("params.yaml").overlay({"sweep": {"trials": 3, "search": "optuna", "space": space}})
    directory = (sweep.SWEEPS / params.sweep.name).resolve()
    trials = study.open_study(params, directory)
    ended = study.load_trial(
        params, directory, study.ask(params, trials, {"distill.tsd.lambda": 0.125, "distill.accumulation": 1})
    )  # as from an earlier session
    for step, score in ((2, 50.0), (4, 60.0)):
        ended.report(score, step)
        ended.should_prune()
    ended.study.tell(ended.number, 60.0)
    study.ask(params, trials, {"distill.tsd.lambda": 0.375, "distill.accumulation": 1})
    study.ask(params, trials, {"distill.tsd.lambda": 0.5, "distill.accumulation": 3})  # of a batch of two
    result = sweep.sweep(params)
    # Continued, and no fourth one made up. ASHA remembers the 50 dB of the earlier session, which nothing here reaches.
    assert [record.number for record in result] == [1, 2, 3]
    assert (result[1].end, result[1].step) == (STOPPED, 2)
    assert (result[2].end, result[2].score) == (FAILED, None)
    assert "accumulation" in str(result[2].reason)
    assert overlays.read_overlays(["reports/sweep/best.yaml"]) == nested(result[0].values)

    with pytest.raises(UserError, match=r"sweep\.resources\.cpus: 99 for a trial, and no host has more than \d"):
        sweep.sweep(params.overlay({"sweep": {"trials": 4, "resources": {"cpus": 99}}}))

    monkeypatch.setattr(sweep.runtime, "start", lambda: pytest.fail("nothing is left to run"))
    assert sweep.sweep(params) == result

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{Path('mlflow.db').resolve()}")
    experiment = client.get_experiment_by_name(params.tracking.experiment)
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    child, above = runs["trial-02"], runs[f"sweep {params.sweep.name}"]
    assert child.data.tags["mlflow.parentRunId"] == above.info.run_id
    assert child.info.status == "FINISHED"
    assert child.data.tags["stopped_early_at_step"] == "2"
    assert child.data.params["distill.tsd.lambda"] == "0.375"
    assert "validation/psnr" in child.data.metrics
    assert above.data.metrics["best/psnr"] == 60.0
