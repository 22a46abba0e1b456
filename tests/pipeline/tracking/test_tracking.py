"""MLflow tracking on a store of its own, and with the server away."""

from __future__ import annotations

import json
import logging
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import ui
from pipeline.tracking import outbox, provenance
from pipeline.tracking import runs as tracking
from pipeline.tracking.store import Store, flatten
from tsdsr.config import Params
from tsdsr.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One SQLite store for the module: creating its tables takes longer than all else here."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture
def params(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Params:
    """The committed params with an experiment of the test's own, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(tracking.URI_VARIABLE, f"sqlite:///{database / 'mlflow.db'}")
    monkeypatch.delenv(tracking.PARENT_VARIABLE, raising=False)
    monkeypatch.setattr(tracking, "_AWAY", {})
    tracking._store_at.cache_clear()
    return Params.load(REPOSITORY / "params.yaml").overlay({"tracking": {"experiment": request.node.name}})


def _runs(params: Params) -> dict[str, object]:
    """Name -> run of the test's experiment; fails where a name occurs twice."""
    client = _client()
    experiment = client.get_experiment_by_name(params.tracking.experiment)
    runs = client.search_runs([experiment.experiment_id])
    names = [run.data.tags["tsdsr.name"] for run in runs]
    assert len(set(names)) == len(names), names
    return dict(zip(names, runs))


def _client():
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking.environment()[tracking.URI_VARIABLE])


def _steps(params: Params, name: str, key: str) -> list[int]:
    run_id = _runs(params)[name].info.run_id
    return [metric.step for metric in _client().get_metric_history(run_id, key)]


def test_children_of_separate_stages_meet_under_one_parent(params: Params) -> None:
    for name in ("full", "evaluate"):
        tracking._store_at.cache_clear()  # as in another process
        with tracking.child(params, name) as run:
            run.metrics({"psnr": 20.0})
    runs = _runs(params)
    assert set(runs) == {"parent", "full", "evaluate"}
    for name in ("full", "evaluate"):
        assert runs[name].data.tags["mlflow.parentRunId"] == runs["parent"].info.run_id
        assert runs[name].info.run_name == name
        assert runs[name].info.status == "FINISHED"
    assert runs["full"].data.params["distill.tsd.lambda"] == "0.7"
    assert runs["full"].data.metrics == {"psnr": 20.0}


def test_a_variant_with_its_own_params_stays_below_the_open_parent(params: Params) -> None:
    variant = params.overlay({"distill": {"tsd": {"lambda": 1.0}}})
    with tracking.parent(params):
        with tracking.child(params, "full"):
            pass
        with tracking.child(variant, "wo_tsm-seed1") as run:
            run.params({"seed": 1})
    runs = _runs(params)
    assert set(runs) == {"parent", "full", "wo_tsm-seed1"}
    shown = runs["wo_tsm-seed1"].data.params
    assert (shown["distill.tsd.lambda"], shown["seed"]) == ("1.0", "1")
    assert runs["full"].data.params["distill.tsd.lambda"] == "0.7"


def test_a_stage_run_again_continues_its_child_without_repeating_steps(params: Params) -> None:
    for first in (0, 10):  # killed after step 20, resumed from a checkpoint at step 10
        tracking._store_at.cache_clear()
        with tracking.child(params, "full") as run:
            for step in range(first, 21 if first == 0 else 31, 5):
                run.metrics({"loss": 1.0, "grad": 2.0}, step=step)
    assert _steps(params, "full", "loss") == [0, 5, 10, 15, 20, 25, 30]
    assert _steps(params, "full", "grad") == [0, 5, 10, 15, 20, 25, 30]


@pytest.mark.parametrize("edited", [False, True])
def test_steps_that_begin_again_replace_the_run_only_where_the_code_changed(
    params: Params, edited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking.child(params, "full") as run:
        run.metrics({"loss": 1.0}, step=0)
        run.metrics({"loss": 1.0}, step=5)
    before = _runs(params)["full"].info.run_id
    tracking._store_at.cache_clear()
    if edited:
        monkeypatch.setattr(provenance, "code_hash", lambda: "edited")
    with tracking.child(params, "full") as run:
        run.tags({"note": "again"})
        run.metrics({"loss": 3.0}, step=0)
    after = _runs(params)["full"]
    assert (after.info.run_id != before) is edited
    assert after.data.metrics["loss"] == (3.0 if edited else 1.0)
    assert after.data.tags["note"] == "again"
    assert after.data.params["distill.tsd.lambda"] == "0.7"
    assert after.info.status == "FINISHED"


@pytest.mark.parametrize(("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_the_end_of_a_run_says_how_it_ended(params: Params, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), tracking.child(params, "full"):
        raise error
    assert {run.info.status for run in _runs(params).values()} == {status}


def test_provenance_is_in_the_tags(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = {
        "stages": {
            "teacher": {
                "deps": [_out("tsdsr/flow.py"), {"path": "data/pairs", "md5": "aa.dir"}],
                "outs": [_out("data/teacher")],
            }
        }
    }
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(lock))
    monkeypatch.setenv(provenance.COMMIT_VARIABLE, "0" * 40)
    with tracking.child(params, "full"):
        pass
    for run in _runs(params).values():
        tags = run.data.tags
        assert tags["git.commit"] == tags["mlflow.source.git.commit"] == "0" * 40
        assert (tags["dvc.data/pairs"], tags["dvc.data/teacher"]) == ("aa.dir", "bb.dir")
        assert "dvc.tsdsr/flow.py" not in tags
        assert tags["git.dirty"] in ("true", "false")
        assert {"hardware.cpu", "hardware.gpus", "hardware.torch"} <= set(tags)


def _out(path: str) -> dict[str, str]:
    return {"path": path, "md5": "bb.dir"}


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
        listed = {
            item.path for folder in ("tables", "student") for item in _client().list_artifacts(run.run_id, folder)
        }
    assert listed == {"tables/manifest.json", "student/student.json"}
    entry = _client().get_run(run.run_id).inputs.dataset_inputs[0]
    assert (entry.dataset.name, json.loads(entry.dataset.profile)) == ("pairs", {"pairs": 3})


def test_values_mlflow_would_refuse_do_not_stop_a_run(params: Params) -> None:
    with tracking.child(params, "full") as run:
        run.params({"a,b": "x" * 10_000})
        run.flush()
        run.params({"a,b": "other"})  # a param cannot change
        run.metrics({"loss(%)": float("nan")})
    data = _runs(params)["full"].data
    assert set(data.params["a_b"]) == {"x"}
    assert "loss___" in data.metrics


def test_a_dead_server_warns_once_and_gets_everything_later(
    params: Params,
    closed_port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real = tracking.environment()[tracking.URI_VARIABLE]
    monkeypatch.setenv(tracking.URI_VARIABLE, f"http://me:secret@127.0.0.1:{closed_port}")
    table = tmp_path / "table.md"
    table.write_text("as logged")
    with caplog.at_level(logging.WARNING), tracking.child(params, "full") as run:
        for step in range(20):
            run.metrics({"loss": float(step)}, step=step)
        run.flush()
        run.artifact(table)
        assert run.run_id is None
    table.write_text("changed since")
    assert [record.name for record in caplog.records].count("pipeline.tracking.runs") == 1
    assert f"http://***@127.0.0.1:{closed_port}/" in caplog.text
    assert "secret" not in caplog.text
    assert outbox.waiting(tmp_path)

    monkeypatch.setenv(tracking.URI_VARIABLE, real)
    assert tracking.send_waiting(tmp_path) > 0
    assert outbox.waiting(tmp_path) == []
    assert _steps(params, "full", "loss") == list(range(20))
    runs = _runs(params)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs["full"].data.tags["mlflow.parentRunId"] == runs["parent"].info.run_id
    assert runs["full"].data.params["distill.tsd.lambda"] == "0.7"
    folder = tmp_path / "fetched"
    folder.mkdir()
    fetched = _client().download_artifacts(runs["full"].info.run_id, "table.md", str(folder))
    assert Path(fetched).read_text() == "as logged"


def test_a_server_that_comes_back_is_used_again(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.tracking.store import StoreUnavailable

    apply, broken = Store.apply, threading.Event()

    def flaky(self: Store, *arguments: object) -> None:
        if broken.is_set():
            raise StoreUnavailable("away")
        apply(self, *arguments)

    monkeypatch.setattr(Store, "apply", flaky)
    monkeypatch.setattr(tracking, "_FIRST_DELAY", 0.0)
    with tracking.child(params, "full") as run:
        broken.set()
        run.metrics({"loss": 1.0}, step=0)
        run.flush()
        assert outbox.waiting(tmp_path)
        broken.clear()
        run.metrics({"loss": 2.0}, step=1)
        run.flush()
        assert outbox.waiting(tmp_path) == []
    assert _steps(params, "full", "loss") == [0, 1]


def test_a_server_that_never_answers_is_asked_twice_and_then_left_alone(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_FIRST_DELAY", 1e9)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
        monkeypatch.setenv(tracking.URI_VARIABLE, f"http://127.0.0.1:{silent.getsockname()[1]}")
        with tracking.child(params, "full") as run:
            for step in range(50):
                run.metrics({"loss": 0.0}, step=step)
        silent.setblocking(False)
        for _ in range(2):  # each waited for MLFLOW_HTTP_REQUEST_TIMEOUT
            silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


@pytest.mark.parametrize("scheme", ["sqlite:///", "http://me:secret@127.0.0.1:"])
def test_pages_that_cannot_be_shown_are_a_line(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv(tracking.URI_VARIABLE, f"{scheme}{port}")
        monkeypatch.setattr("sys.argv", ["ui", "--port", str(port)])
        wanted = "--port [0-9]+: taken" if scheme == "sqlite:///" else r"is http://\*\*\*@127.0.0.1:[0-9]+: open that"
        with pytest.raises(UserError, match=wanted):
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
    for key, value in elsewhere.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir("/")
    with tracking.child(params, "worker"):
        pass
    assert set(_runs(params)) == {"parent", "worker"}


def test_flatten_names_keys_as_dvc_does() -> None:
    assert flatten({"tsd": {"lambda": 1, "dasm": {"steps": 3}}, "a": [1, 2]}) == {
        "tsd.lambda": 1,
        "tsd.dasm.steps": 3,
        "a": [1, 2],
    }


@pytest.fixture
def closed_port() -> Iterator[int]:
    """One that refuses: it is taken, and nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield int(taken.getsockname()[1])


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """Files with the names of a student's."""
    folder = tmp_path / "students/full"
    folder.mkdir(parents=True)
    for name in ("transformer.safetensors", "vae.safetensors", "prompt.safetensors"):
        (folder / name).write_text(name)
    (folder / "student.json").write_text(json.dumps({"scale": 4, "lora": {"rank": 8}}))
    (tmp_path / "manifest.json").write_text("{}")
    return folder


def _model(params: Params, student: Path, psnr: float) -> Any:
    with tracking.child(params, "full") as run:
        run.dataset("test pairs", "manifest.json", "evaluation")
        run.model(student, {"teacher": "data/teacher"}, {"test/psnr": psnr}, "test pairs", "manifest.json")
    run = _runs(params)["full"]
    return run, [_client().get_logged_model(output.model_id) for output in run.outputs.model_outputs]


def test_a_student_is_a_model_of_its_run_with_its_scores(params: Params, student: Path) -> None:
    run, (model,) = _model(params, student, 20.0)
    assert (model.name, model.status, model.source_run_id) == ("full", "READY", run.info.run_id)
    assert model.params["lora.rank"] == "8"
    (score,) = model.metrics
    assert (score.key, score.value, score.dataset_name) == ("test/psnr", 20.0, "test pairs")
    assert run.data.metrics == {"test/psnr": 20.0}

    _, (same,) = _model(params, student, 21.0)  # scored again: the model stays, its score is new
    assert same.model_id == model.model_id
    assert max(same.metrics, key=lambda metric: metric.timestamp).value == 21.0

    (student / "vae.safetensors").write_text("other weights")
    _, models = _model(params, student, 22.0)
    assert len(models) == 2


def test_a_logged_model_is_code_and_safetensors_and_nothing_to_unpickle(params: Params, student: Path) -> None:
    _, (model,) = _model(params, student, 20.0)
    folder = Path(urllib.request.url2pathname(urllib.parse.urlparse(model.artifact_location).path))
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {"mlflow_model.py", "student.json", "vae.safetensors"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".bin", ".pt"))]
    record = yaml.safe_load((folder / "MLmodel").read_text())["flavors"]["python_function"]
    assert record["loader_module"] == "mlflow.pyfunc.loaders.code_model"
    assert record["config"] == {"teacher": "data/teacher"}
