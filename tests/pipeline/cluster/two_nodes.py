"""A cluster of two Ray nodes on this machine, each with an address, a cache and so a mirror of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from pipeline.cluster.runtime import free_port

HEAD = "127.0.0.2"
PATIENCE = 600.0  # seconds for what happens by itself, on a machine that is busy with other things


class TwoNodes:
    """Starts the head with `pipeline.cluster`; further nodes join. Everything ends with `close`.

    Args:
        folder: for logs, caches, the token. code: the working directory of jobs, with pipeline/ and tsdsr/.
    """

    def __init__(self, folder: Path, code: Path) -> None:
        self.folder, self.code = folder, code
        self.port, self.dashboard = free_port(HEAD), free_port("127.0.0.1")
        self.hold = folder / "hold"  # see held/sitecustomize.py
        self._ray = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # its sockets' paths must be short
        self._base = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RAY_", "TSDSR_", "MLFLOW_", "GIT_"))
        }
        self._base |= {
            "HOME": str(folder),
            "PYTHONPATH": f"{Path(__file__).parent / 'held'}{os.pathsep}{code}",
            "HOLD": str(self.hold),
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self._nodes: dict[str, psutil.Process] = {}
        self._family: list[psutil.Process] = []

    def start(self, host: str) -> None:
        """The head, or a node that joins it; see `wait`."""
        if host == HEAD:
            how = ["--port", str(self.port), "--dashboard-port", str(self.dashboard), "--storage", str(self.folder)]
        else:
            how = ["--join", f"{HEAD}:{self.port}"]
        how += ["--host", host, "--cpus", "1", "--temp-dir", str(self._ray / host[-1])]
        command = [sys.executable, "-m", "pipeline.cluster", *how]
        environment = {**self._base, "XDG_CACHE_HOME": str(self.folder / f"cache-{host}")}
        log = (self.folder / f"{host}.log").open("wb")
        process = subprocess.Popen(
            command, cwd=self.code, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        self._nodes[host] = psutil.Process(process.pid)

    def wait(self, host: str) -> None:
        """Until the node is there."""
        log = self.folder / f"{host}.log"

        def started() -> bool:
            text = log.read_text(encoding="utf-8")
            assert self._nodes[host].status() != psutil.STATUS_ZOMBIE, text
            return "Ray runtime started" in text

        wait_for(started, f"node {host}")

    def kill(self, host: str) -> None:
        """Pull the plug: raylet, agents and workers at once."""
        for process in self._of(host):
            with suppress(psutil.NoSuchProcess):  # it ended with the one before it
                process.send_signal(signal.SIGKILL)

    def submit(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """`ray job submit`, as the README has it; `name` is that of its log."""
        log = self.folder / f"{name}.log"
        while True:
            job = self._submit(log, command)
            if "No available agent" not in log.read_text(encoding="utf-8"):  # as a head says just after its start
                return job

    def _submit(self, log: Path, command: tuple[str, ...]) -> subprocess.Popen[bytes]:
        environment = self._base | {"RAY_AUTH_MODE": "token"}
        whole = ["ray", "job", "submit", "--address", f"http://127.0.0.1:{self.dashboard}", "--working-dir", ".", "--"]
        with log.open("wb") as file:
            job = subprocess.Popen([*whole, *command], cwd=self.code, env=environment, stdout=file, stderr=file)
        wait_for(lambda: b"submitted successfully" in log.read_bytes() or job.poll() is not None, "job")
        return job

    def finish(self, job: subprocess.Popen[bytes], name: str) -> str:
        """Wait for a job's good end; returns what it said."""
        job.wait(timeout=PATIENCE)
        output = (self.folder / f"{name}.log").read_text(encoding="utf-8")
        assert job.returncode == 0, output[-6000:]
        return output

    def close(self) -> None:
        processes = [process for host in reversed(self._nodes) for process in self._of(host)]
        for node in self._nodes.values():
            with suppress(psutil.NoSuchProcess):
                node.terminate()
        _, left = psutil.wait_procs(processes, timeout=10)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(self._ray, ignore_errors=True)

    def _of(self, host: str) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return [*self._nodes[host].children(recursive=True), self._nodes[host]]
        return []


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"no {what} within {PATIENCE} s"
        time.sleep(0.1)
