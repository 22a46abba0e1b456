"""A Ray head on this machine for `ray job submit`: loopback only, token on.

    make cluster                       # python -m pipeline.cluster, in the foreground; Ctrl-C ends it
    export RAY_AUTH_MODE=token
    ray job submit --address http://127.0.0.1:8265 --working-dir . -- python -m pipeline.distill --params params.yaml

A job runs in a copy of the working directory without data (.rayignore). Its `data`, `reports` and `.tsdsr` are those of
the storage folder the head was started with, `--storage`: this repository by default; with several hosts, a folder that
all of them see.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline import provenance, runtime, stage, storage
from tsdsr.errors import UserError

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"


def head_environment(folder: Path) -> dict[str, str]:
    """What the head, and through it every job, runs with."""
    return {
        **os.environ,
        **runtime.ENVIRONMENT,
        "RAY_AUTH_MODE": "token",
        storage.VARIABLE: str(folder),
        provenance.ROOT_VARIABLE: str(folder),
        provenance.COMMIT_VARIABLE: provenance.git_commit(),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def head_command(port: int, dashboard_port: int) -> list[str]:
    """`ray start` for a head whose every port is on loopback."""
    return [
        str(Path(sys.executable).parent / "ray"),
        "start",
        "--head",
        "--block",
        f"--node-ip-address={LOOPBACK}",
        f"--port={port}",
        "--include-dashboard=true",
        f"--dashboard-host={LOOPBACK}",
        f"--dashboard-port={dashboard_port}",
        "--disable-usage-stats",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Start a Ray head on loopback for `ray job submit`.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--storage", type=Path, default=Path.cwd(), help="the folder jobs read and write")
    parser.add_argument("--port", type=int, default=6379, help="of the head")
    parser.add_argument("--dashboard-port", type=int, default=8265, help="of the jobs' address")
    given = parser.parse_args(arguments)
    if not given.storage.is_dir():
        raise UserError(f"--storage {given.storage}: no such folder")
    environment = head_environment(given.storage.resolve())
    _make_token(environment)
    command = head_command(given.port, given.dashboard_port)
    logger.info(
        "jobs: RAY_AUTH_MODE=token ray job submit --address http://%s:%d --working-dir . -- ...",
        LOOPBACK,
        given.dashboard_port,
    )
    os.execve(command[0], command, environment)


def _make_token(environment: Mapping[str, str]) -> None:
    """Make the user's token (~/.ray/auth_token) if there is none; RAY_AUTH_MODE=token lets Ray's tools find it."""
    ray = str(Path(sys.executable).parent / "ray")
    done = subprocess.run(
        [ray, "get-auth-token", "--generate"], env=dict(environment), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"cannot make Ray's token: {done.stderr.strip().splitlines()[-1:]}")
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file():
        token.chmod(0o600)  # Ray leaves it readable by everyone on the machine


if __name__ == "__main__":
    stage.run(main)
