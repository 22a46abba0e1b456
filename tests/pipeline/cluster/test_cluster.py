"""The cluster for `ray job submit`: what its head runs with, what a job finds, and how little is sent."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest
import yaml

from pipeline.cluster import __main__ as cluster
from pipeline.cluster import runtime, storage
from pipeline.cluster.tree_store import TreeStore
from pipeline.tracking import provenance
from tsdsr.config import Params
from tsdsr.errors import UserError


def test_every_port_of_the_head_is_on_loopback_and_asks_for_a_token(tmp_path: Path) -> None:
    command = cluster.head_command(6379, 8265)
    assert "--node-ip-address=127.0.0.1" in command
    assert "--dashboard-host=127.0.0.1" in command
    environment = cluster.head_environment(tmp_path, 8265)
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert environment["RAY_API_SERVER_ADDRESS"] == "http://127.0.0.1:8265"  # whatever other heads there are
    assert int(environment["RAY_JOB_STOP_WAIT_TIME_S"]) >= 600  # time for a step and a checkpoint
    assert environment[storage.VARIABLE] == environment[provenance.ROOT_VARIABLE] == str(tmp_path)


def test_a_further_host_joins_by_its_own_address_and_with_the_token(tmp_path: Path) -> None:
    command = cluster.join_command("127.0.0.2:6379", "127.0.0.3")
    assert {"--address=127.0.0.2:6379", "--node-ip-address=127.0.0.3"} <= set(command)
    assert "--head" not in command
    environment = cluster.node_environment("127.0.0.3")
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "1"  # else Ray refuses to join
    assert environment["GLOO_SOCKET_IFNAME"] == environment["NCCL_SOCKET_IFNAME"] == "lo"


@pytest.mark.parametrize("name", ["/scratch/a", "/scratch/user-1234567/job-0123456789/temporary"])
def test_a_temporary_folder_with_too_long_a_name_for_ray_s_sockets_is_not_used(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", name)
    socket_path = f"{name}/ray/session_2026-11-21_12-20-49_195541_4194304/sockets/plasma_store"
    used = name if len(socket_path) < 108 else "/tmp"
    assert cluster.node_environment("127.0.0.1")["TMPDIR"] == used


def test_a_repository_whose_path_has_a_space_is_refused_by_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/my photographs/.venv/bin/python")
    with pytest.raises(UserError, match="a path with a space"):
        runtime.start()


def test_an_address_that_is_not_this_machines_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"--host 203\.0\.113\.7: no interface .* there are .*127\.0\.0\.1"):
        cluster.node_environment("203.0.113.7")


def test_a_host_without_the_token_does_not_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "TOKEN", tmp_path / "auth_token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    with pytest.raises(UserError, match="copy the head's"):
        cluster.main(["--join", "127.0.0.2:6379", "--host", "127.0.0.3"])


JOB = {storage.JOB_VARIABLE: "{}"}


@pytest.fixture
def copy(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job's working copy: params and stages, no data."""
    folder = tmp_path / "copy"
    (folder / "compress").mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml", "compress/dvc.yaml"):
        shutil.copy(root / name, folder / name)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def stored_at(storage: Path | str, name: str = "params.yaml") -> list[str]:
    """The arguments of a stage whose params name this storage."""
    values = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    values["cluster"]["storage"] = str(storage)
    Path(name).write_text(yaml.safe_dump(values), encoding="utf-8")
    return ["--params", name]


@pytest.mark.parametrize("by", ["head", "params"])
def test_a_job_reads_and_writes_the_storage_folder(by: str, copy: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "data/teacher").mkdir(parents=True)
    environment = JOB | ({storage.VARIABLE: str(shared)} if by == "head" else {})
    arguments = [] if by == "head" else stored_at(shared)
    for text in ("x", "y"):  # a second stage of one job, too
        with storage.workplace(arguments, environment):
            assert Path("data/teacher").is_dir()
            assert Path("data").resolve() == shared / "data"  # in place: nothing is copied
            Path("reports/scores.csv").write_text(text)
        assert (shared / "reports/scores.csv").read_text() == text


def test_jobs_that_share_a_copy_but_no_storage_do_not_mix(copy: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    arguments, others = stored_at(first, "one.yaml"), stored_at(second, "two.yaml")
    with (
        storage.workplace(arguments, JOB),
        storage.workplace(arguments, JOB),
        pytest.raises(UserError, match="another storage"),
        storage.workplace(others, JOB),
    ):
        pass
    with storage.workplace(others, JOB):
        assert Path("data").resolve() == second / "data"


@pytest.mark.parametrize("environment", [{}, {storage.VARIABLE: "/no/such"}, JOB])
def test_outside_of_a_job_nothing_is_linked(environment: dict[str, str], copy: Path) -> None:
    with storage.workplace([], environment):
        assert {path.name for path in copy.iterdir()} == {"params.yaml", "dvc.yaml", "compress"}


def test_a_host_that_does_not_see_the_storage_says_so(copy: Path) -> None:
    nowhere = JOB | {storage.VARIABLE: "/no/such"}
    with pytest.raises(UserError, match="no such folder on this host"), storage.workplace([], nowhere):
        pass


def test_a_stage_finds_what_it_reads_and_leaves_what_it_writes_under_a_url(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, home = f"file://{tmp_path}/bucket", tmp_path / "home"
    for name in ("data/pairs/train/hq/a.png", "data/pairs/test/hq/b.png", "data/pairs/manifest.json"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name)
    (home / "data/teacher").mkdir()
    (home / "data/teacher/model_index.json").write_text("{}")
    for name in ("data/pairs", "data/teacher"):
        TreeStore(url).push(home, name)
    monkeypatch.setattr(storage.dvc_yaml, "command", lambda: "pipeline.precompute")
    arguments = stored_at(url)
    with storage.workplace(arguments, JOB):
        assert Path("data/pairs/train/hq/a.png").read_text() == "data/pairs/train/hq/a.png"
        assert Path("data/teacher/model_index.json").is_file()
        assert not Path("data/pairs/test").exists()  # precompute does not read it
        Path("data/latents").mkdir()
        Path("data/latents/manifest.json").write_text("{}")
        assert not (tmp_path / "bucket/data/latents").exists()
    assert (tmp_path / "bucket/data/latents/manifest.json").read_text() == "{}"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another host"))
    monkeypatch.setattr(storage.dvc_yaml, "command", lambda: "pipeline.distill")
    with storage.workplace(arguments, JOB):
        assert Path("data/latents/manifest.json").read_text() == "{}"


def test_what_a_stage_reads_and_writes_is_what_dvc_says(copy: Path) -> None:
    reads, writes = storage.needs("pipeline.ablate_distill", ["--variant", "wo_tsm", "--seed", "3"])
    assert {"data/latents", "data/pairs/train", "data/teacher"} <= set(reads)
    assert {"data/students/wo_tsm-seed3", "reports/curves/wo_tsm-seed3.csv"} <= set(writes)
    reads, writes = storage.needs("pipeline.ablate", ["--variant", "wo_tsm", "--seed", "3"])
    assert {"data/students/wo_tsm-seed3", "data/pairs/test", "data/teacher"} <= set(reads)
    assert "reports/scores/wo_tsm-seed3.csv" in writes
    assert "data/pairs/manifest.json" in storage.needs("pipeline.evaluate", [])[0]
    for part, made in (("restore", "data/tinysr/transformer"), ("export", "data/students/tinysr")):
        reads, writes = storage.needs("pipeline.compress", ["--params", "params.yaml", part])
        assert "data/tinysr/source" in reads
        assert writes == [made]
    assert storage.needs("pipeline.sweep", [])[1] == ["reports/sweep"]
    assert storage.needs("pipeline.ui", []) == ([], [])


@pytest.mark.parametrize("value", ["data", "s3://key:secret@bucket/path"])
def test_a_storage_that_no_job_can_use_is_refused(value: str, params: Params) -> None:
    with pytest.raises(UserError, match=r"cluster\.storage"):
        params.overlay({"cluster": {"storage": value}})


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


def test_a_second_head_is_told_that_there_is_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(UserError, match=f"--dashboard-port {port}: taken on 127.0.0.1"):
            cluster.main(["--port", str(runtime.free_port("127.0.0.1")), "--dashboard-port", str(port)])
