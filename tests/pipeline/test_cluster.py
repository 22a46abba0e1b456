"""The cluster for `ray job submit`: what its head runs with, what a job finds, and how little is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import cluster, provenance, storage
from tsdsr.errors import UserError


def test_every_port_of_the_head_is_on_loopback_and_asks_for_a_token(tmp_path: Path) -> None:
    command = cluster.head_command(6379, 8265)
    assert "--node-ip-address=127.0.0.1" in command
    assert "--dashboard-host=127.0.0.1" in command
    environment = cluster.head_environment(tmp_path)
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert environment[storage.VARIABLE] == environment[provenance.ROOT_VARIABLE] == str(tmp_path)


def test_a_job_reads_and_writes_the_storage_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, copy = tmp_path / "shared", tmp_path / "copy"
    (shared / "data/teacher").mkdir(parents=True)
    copy.mkdir()
    monkeypatch.chdir(copy)
    storage.link({storage.VARIABLE: str(shared), storage.JOB_VARIABLE: "{}"})
    assert Path("data/teacher").is_dir()
    Path("reports/scores.csv").write_text("x")
    assert (shared / "reports/scores.csv").read_text() == "x"
    storage.link({storage.VARIABLE: str(shared), storage.JOB_VARIABLE: "{}"})  # a second stage of one job


@pytest.mark.parametrize("environment", [{}, {storage.VARIABLE: "/no/such"}, {storage.JOB_VARIABLE: "{}"}])
def test_outside_of_a_job_nothing_is_linked(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage.link(environment)
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_does_not_see_the_storage_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such folder on this host"):
        storage.link({storage.VARIABLE: "/no/such", storage.JOB_VARIABLE: "{}"})


def test_what_is_sent_is_small_and_holds_no_data(root: Path) -> None:
    """By Ray's own reading of .rayignore."""
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    excluded = get_excludes_from_ignore_files(root, include_gitignore=True)
    sent = [
        path
        for top in root.iterdir()
        if not any(rule(top) for rule in excluded)
        for path in ([top] if top.is_file() else top.rglob("*"))
        if path.is_file() and not any(rule(path) for rule in excluded)
    ]
    names = {path.relative_to(root).parts[0] for path in sent}
    assert {"pipeline", "tsdsr", "params.yaml"} <= names
    assert names.isdisjoint({".git", ".venv", "data", "reports", "mlruns", ".tsdsr", "tests"})
    assert sum(path.stat().st_size for path in sent) < 5e6
