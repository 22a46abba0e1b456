"""The copy of the repository's store on a tracking server."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking import __main__ as command
from pipeline.tracking import provenance, sync
from pipeline.tracking import runs as tracking
from tsdsr.config import Params
from tsdsr.errors import UserError


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another store, as a server's."""
    folder = tmp_path_factory.mktemp("server")
    from mlflow import MlflowClient

    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(uri)
    client.create_experiment("elsewhere", artifact_location=folder.as_uri())
    return uri


def _on(server: str, params: Params) -> tuple[Any, dict[str, Any]]:
    from mlflow import MlflowClient

    client = MlflowClient(server)
    experiment = client.get_experiment_by_name(params.tracking.experiment)
    runs = client.search_runs([experiment.experiment_id])
    found = {run.data.tags["tsdsr.name"]: run for run in runs}
    assert len(found) == len(runs)
    return client, found


def test_a_server_that_was_away_gets_everything_later(
    params: Params, server: str, student: Path, closed_port: int, tmp_path: Path, monkeypatch, caplog
) -> None:
    monkeypatch.setenv(sync.URI_VARIABLE, f"http://me:secret@127.0.0.1:{closed_port}")
    (tmp_path / "table.md").write_text("as logged")
    with caplog.at_level(logging.WARNING), tracking.child(params, "full") as run:
        for step in range(20):
            run.metrics({"loss": float(step)}, step=step)
        run.artifact(tmp_path / "table.md", "tables")
        run.dataset("test pairs", "manifest.json", "evaluation")
        run.model(student, {"teacher": "data/teacher"}, {"test/psnr": 20.0}, "test pairs", "manifest.json")
    (tmp_path / "table.md").write_text("changed since")
    assert caplog.text.count("did not accept the runs") == 1
    assert f"http://***@127.0.0.1:{closed_port} did not" in caplog.text
    assert "secret" not in caplog.text

    (tmp_path / "at-server").mkdir()
    monkeypatch.chdir(tmp_path / "at-server")  # where that store keeps the files of new experiments
    monkeypatch.setenv(sync.URI_VARIABLE, server)
    monkeypatch.setattr("sys.argv", ["tracking"])
    for _ in range(2):  # the second time there is nothing to do
        command.main()
        client, runs = _on(server, params)
        copy = runs["full"]
        assert copy.data.tags["mlflow.parentRunId"] == runs["parent"].info.run_id
        assert copy.data.params["distill.tsd.lambda"] == "0.7"
        assert (copy.info.status, copy.info.run_name) == ("FINISHED", "full")
        assert [m.value for m in client.get_metric_history(copy.info.run_id, "loss")] == [float(n) for n in range(20)]
        path = client.download_artifacts(copy.info.run_id, "tables/table.md", str(tmp_path / "at-server"))
        assert Path(path).read_text() == "as logged"
        (output,) = copy.outputs.model_outputs
        model = client.get_logged_model(output.model_id)
        assert (model.name, model.params["lora.rank"]) == ("full", "8")
        assert [(m.key, m.value) for m in model.metrics] == [("test/psnr", 20.0)]
        assert [entry.dataset.name for entry in copy.inputs.dataset_inputs] == ["test pairs"]
        assert sync.waiting(provenance.root()) == []


def test_a_server_that_answers_has_a_run_when_its_session_ends(params: Params, server: str, monkeypatch) -> None:
    monkeypatch.setenv(sync.URI_VARIABLE, server)
    for value in (1.0, 2.0):
        with tracking.child(params, "full") as run:
            run.metrics({"loss": value}, step=int(value))
        _, runs = _on(server, params)
        assert runs["full"].data.metrics["loss"] == value
    assert sync.waiting(provenance.root()) == []


def test_without_a_server_there_is_nowhere_to_copy_to(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["tracking"])
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI names no server"):
        command.main()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """One that refuses: it is taken, and nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield int(taken.getsockname()[1])
