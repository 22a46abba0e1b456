"""MLflow tracking in the repository's store."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import socket
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline import ui
from pipeline.process import dvc_yaml
from pipeline.tracking import description, provenance
from pipeline.tracking import runs as tracking
from tests.pipeline.tracking.rig import open_client, runs_of
from tsdsr.config import Params, flatten
from tsdsr.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[3]


def _steps(params: Params, name: str, key: str) -> list[int]:
    run_id = runs_of(params)[name].info.run_id
    return [metric.step for metric in open_client().get_metric_history(run_id, key)]


def test_children_of_separate_stages_meet_under_one_parent(params: Params) -> None:
    for name in ("full", "evaluate"):
        with tracking.child(params, name) as run:
            run.metrics({"psnr": 20.0})
    runs = runs_of(params)
    assert set(runs) == {"parent", "full", "evaluate"}
    for name in ("full", "evaluate"):
        assert runs[name].data.tags["mlflow.parentRunId"] == runs["parent"].info.run_id
        assert runs[name].info.run_name == name
        assert runs[name].info.status == "FINISHED"
    assert runs["full"].data.params["distill.tsd.lambda"] == "0.7"
    assert runs["full"].data.metrics == {"psnr": 20.0}


def test_a_variant_with_its_own_params_stays_below_the_open_parent(params: Params) -> None:
    variant = params.overlay({"seed": 1, "distill": {"tsd": {"lambda": 1.0}}})
    with tracking.parent(params):
        with tracking.child(params, "full"):
            pass
        with tracking.child(variant, "wo_tsm-seed1"):
            pass
    runs = runs_of(params)
    assert set(runs) == {"parent", "full", "wo_tsm-seed1"}
    shown = runs["wo_tsm-seed1"].data.params
    assert (shown["distill.tsd.lambda"], shown["seed"]) == ("1.0", "1")
    assert runs["full"].data.params["distill.tsd.lambda"] == "0.7"


def test_a_stage_run_again_continues_its_child(params: Params) -> None:
    for first in (0, 10):  # killed after step 20, resumed from a checkpoint at step 10: the same values come again
        with tracking.child(params, "full") as run:
            for step in range(first, 21 if first == 0 else 31, 5):
                run.metrics({"loss": float(step)}, step=step)
    history = open_client().get_metric_history(runs_of(params)["full"].info.run_id, "loss")
    assert {point.step: point.value for point in history} == {step: float(step) for step in range(0, 31, 5)}


def test_other_code_makes_other_runs(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracking.child(params, "full") as run:
        before = run.run_id
    monkeypatch.setattr(provenance, "code_hash", lambda: "edited")
    with tracking.child(params, "full") as run:
        assert run.run_id != before


def test_the_time_between_two_sessions_is_no_part_of_a_runs_duration(params: Params) -> None:
    began = time.monotonic()
    for _ in range(2):
        with tracking.child(params, "full"):
            time.sleep(0.2)
        waited = time.monotonic()
        time.sleep(1.0)
        waited = time.monotonic() - waited
    took = time.monotonic() - began - 2 * waited
    info = runs_of(params)["full"].info
    assert 400 <= info.end_time - info.start_time <= 1000 * took + 50


@pytest.mark.parametrize(("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_the_end_of_a_run_says_how_it_ended(params: Params, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), tracking.child(params, "full"):
        raise error
    assert {run.info.status for run in runs_of(params).values()} == {status}


def test_provenance_is_in_the_tags(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(provenance.COMMIT_VARIABLE, "0" * 40)
    with tracking.child(params, "full"):
        pass
    for name, run in runs_of(params).items():
        tags = run.data.tags
        assert tags["git.commit"] == tags["mlflow.source.git.commit"] == "0" * 40
        assert tags["code.sha256"] == provenance.code_hash()
        assert tags["git.dirty"] in ("true", "false")
        assert {"hardware.cpu", "hardware.gpus", "hardware.torch", "mlflow.source.name", "mlflow.user"} <= set(tags)
        assert tags["mlflow.note.content"] == (
            description.of_child(params, "full") if name == "full" else description.of_parent(run.info.run_name)
        )


def _stage(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """As in a process of its own that runs a stage."""
    monkeypatch.setattr(dvc_yaml, "command", lambda: command)
    monkeypatch.setattr("sys.argv", [command])
    monkeypatch.delenv(provenance.STAGE_VARIABLE, raising=False)
    tracking._OPENED.clear()


def test_data_tags_are_of_what_the_stage_read_and_wrote_not_of_the_lock(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a dvc.lock from another run, whose later stages have other hashes of the same paths."""
    stale = [{"path": path, "md5": "5ta1e.dir"} for path in ("data/teacher", "data/students/full", "data/latents")]
    stages = {
        "precompute": {"cmd": "python -m pipeline.precompute", "deps": ["data/teacher"], "outs": ["data/latents"]},
        "distill": {
            "cmd": "python -m pipeline.distill",
            "deps": ["data/teacher", "data/latents", "tsdsr/flow.py"],
            "outs": ["data/students/full", {"reports/curve.csv": {"cache": False}}],
        },
        "evaluate": {"cmd": "python -m pipeline.evaluate", "deps": ["data/students/full"], "outs": ["data/restored"]},
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": {"evaluate": {"deps": stale, "outs": stale}}}))
    for name in ("teacher", "latents"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "weights").write_text(name)
    at_start = {name: provenance.data_hash(tmp_path / "data" / name) for name in ("teacher", "latents")}

    _stage(monkeypatch, "pipeline.distill")
    with tracking.child(params, "full"):
        (tmp_path / "data/latents/weights").write_text("changed meanwhile")
        (tmp_path / "data/students/full").mkdir(parents=True)
        (tmp_path / "data/students/full/weights").write_text("student")
    tracking.log_outputs()
    tags = runs_of(params)["full"].data.tags
    data = {key: value for key, value in tags.items() if key.startswith("dvc.")}
    assert data == {
        "dvc.data/teacher": at_start["teacher"],
        "dvc.data/latents": at_start["latents"],
        "dvc.data/students/full": provenance.data_hash(tmp_path / "data/students/full"),
    }
    assert tags["mlflow.source.name"] == "pipeline.distill"


def test_the_hash_of_data_is_dvcs_own(tmp_path: Path) -> None:
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db.local import LocalHashFileDB
    from dvc_objects.fs.local import LocalFileSystem

    (tmp_path / "data/b/c").mkdir(parents=True)
    for name in ("a.txt", "b/x.png", "b/c/y", "b.txt"):
        (tmp_path / "data" / name).write_bytes(name.encode() * 1000 + b"\r\n")
    for path in (tmp_path / "data", tmp_path / "data/a.txt"):
        database = LocalHashFileDB(LocalFileSystem(), str(tmp_path / "cache"))
        _, _, tree = build(database, str(path), LocalFileSystem(), "md5", dry_run=True)
        assert provenance.data_hash(path) == tree.hash_info.value
    assert provenance.data_hash(tmp_path / "absent") is None


def test_a_copied_repository_writes_into_its_own_files(params: Params, tmp_path: Path, monkeypatch) -> None:
    """Also where an older version made the store: its own experiment led to wherever its maker's process was."""
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setenv(provenance.ROOT_VARIABLE, str(first))
    (tmp_path / "note.txt").write_text("of the first")
    with tracking.child(params, "full") as run:
        run.artifact(tmp_path / "note.txt")
    with contextlib.closing(sqlite3.connect(first / "mlflow.db")) as database, database:
        database.execute("UPDATE experiments SET artifact_location = '/tmp/ray/1/mlruns/0' WHERE experiment_id = 0")
    shutil.copytree(first, second)
    kept = {path: path.stat().st_mtime_ns for path in first.rglob("mlruns/**/*")}

    monkeypatch.setenv(provenance.ROOT_VARIABLE, str(second))
    (tmp_path / "note.txt").write_text("of the second")
    with tracking.child(params, "another") as run:
        run.artifact(tmp_path / "note.txt")
    client = open_client()
    places = [run.info.artifact_uri for run in runs_of(params).values()]
    places += [client.get_experiment(number).artifact_location for number in ("0", run.run_id and "1")]
    assert len(places) == 5
    assert all(place.startswith((second / "mlruns").as_uri()) for place in places)
    assert sorted(path.read_text() for path in second.rglob("mlruns/**/note.txt")) == ["of the first", "of the second"]
    assert {path: path.stat().st_mtime_ns for path in first.rglob("mlruns/**/*")} == kept


def test_files_folders_and_datasets_are_logged(params: Params, tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "student.json").write_text("{}")
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"pairs": [1, 2, 3]}))
    with tracking.child(params, "full") as run:
        run.artifact(manifest, "tables")
        run.artifact(tmp_path / "student")
        run.dataset("pairs", manifest, "training")
        assert run.run_id is not None
        artifacts = [open_client().list_artifacts(run.run_id, folder) for folder in ("tables", "student")]
        listed = {item.path for items in artifacts for item in items}
    assert listed == {"tables/manifest.json", "student/student.json"}
    entry = open_client().get_run(run.run_id).inputs.dataset_inputs[0]
    assert (entry.dataset.name, json.loads(entry.dataset.profile)) == ("pairs", {"pairs": 3})


def test_values_mlflow_would_refuse_do_not_stop_a_run(params: Params) -> None:
    with tracking.child(params, "full") as run:
        run.params({"a,b": "x" * 10_000})
        run.params({"a,b": "other"})  # a param cannot change
        run.metrics({"loss(%)": float("nan")})
    data = runs_of(params)["full"].data
    assert set(data.params["a_b"]) == {"x"}
    assert "loss___" in data.metrics


def test_a_store_that_cannot_be_opened_stops_nothing(params: Params, tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setenv(provenance.ROOT_VARIABLE, str(tmp_path / "broken"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/mlflow.db").write_text("no database" * 1000)
    with caplog.at_level(logging.WARNING), tracking.child(params, "full") as run:
        run.metrics({"loss": 1.0}, step=0)
    assert caplog.text.count("MLflow did not record the start of run full") == 1


def test_validation_images_are_a_series(params: Params) -> None:
    with tracking.child(params, "full") as run:
        for step in (0, 50):
            run.image("validation", np.full((4, 6, 3), step, np.uint8), step)
    images = [item.path for item in open_client().list_artifacts(run.run_id, "images") if item.path.endswith(".png")]
    assert len(images) == 2
    assert all(path.startswith("images/validation") for path in images)


def test_the_hosts_load_is_logged(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    with tracking.child(params, "full") as run:
        while "system/cpu_utilization_percentage" not in open_client().get_run(run.run_id).data.metrics:
            time.sleep(0.1)


def test_the_link_opens_the_runs_with_their_scores(params: Params) -> None:
    with tracking.child(params, "full"):
        pass
    client, runs = open_client(), runs_of(params)
    experiment = client.get_experiment_by_name(params.tracking.experiment)
    page = ui.link(client, 5000, experiment.experiment_id)
    assert page.startswith(f"http://127.0.0.1:5000/#/experiments/{experiment.experiment_id}/runs?workflowType=machine")
    tags = client.get_experiment(experiment.experiment_id).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    view = json.loads(tags[f"mlflow.sharedViewState.{page.rpartition('=')[2]}"])
    assert view["runsExpanded"] == {runs["parent"].info.run_id: True}
    assert view["selectedColumns"][:3] == [f"metrics.`test/{name}`" for name in ("psnr", "ssim", "niqe")]


def test_pages_that_cannot_be_shown_are_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setattr("sys.argv", ["ui", "--port", str(port)])
        with pytest.raises(UserError, match=r"--port \d+: taken"):
            ui.main()


def test_the_store_of_a_queued_experiment_is_outside_its_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "standard" / "abc"
    copy.mkdir(parents=True)
    monkeypatch.delenv(provenance.ROOT_VARIABLE, raising=False)
    monkeypatch.chdir(copy)
    assert provenance.root() == tmp_path
    monkeypatch.chdir(tmp_path)
    assert provenance.root() == tmp_path


def test_the_environment_leads_another_process_to_the_same_run(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracking.parent(params):
        elsewhere = tracking.environment()
    monkeypatch.delenv(provenance.ROOT_VARIABLE)
    for key, value in elsewhere.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir("/")
    with tracking.child(params, "worker"):
        pass
    assert set(runs_of(params)) == {"parent", "worker"}


def test_flatten_names_keys_as_dvc_does() -> None:
    assert flatten({"tsd": {"lambda": 1, "dasm": {"steps": 3}}, "a": [1, 2]}) == {
        "tsd.lambda": 1,
        "tsd.dasm.steps": 3,
        "a": [1, 2],
    }
