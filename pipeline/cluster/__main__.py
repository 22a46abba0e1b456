"""A Ray cluster for `ray job submit`, with token authentication; by default on this machine and loopback only.

    make cluster                       # python -m pipeline.cluster, in the foreground; Ctrl-C ends it
    export RAY_AUTH_MODE=token
    ray job submit --address http://127.0.0.1:8265 --working-dir . -- python -m pipeline.distill --params params.yaml

    python -m pipeline.cluster --host 10.0.0.1                            # several hosts: the head,
    python -m pipeline.cluster --host 10.0.0.2 --join 10.0.0.1:6379       # and every other

A job runs in a copy of the working directory without data (.rayignore). Its `data`, `reports` and `.tsdsr` are in the
folder that the head was started in, unless params.yaml names another storage (pipeline/cluster/storage.py).
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.cluster import runtime, storage
from pipeline.process import interruption
from pipeline.stages import stage
from pipeline.tracking import provenance
from tsdsr.errors import UserError

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
TOKEN = Path.home() / ".ray" / "auth_token"


def node_environment(host: str) -> dict[str, str]:
    """The environment of a host's Ray processes and of their workers."""
    alone = {} if host == LOOPBACK else {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}  # Ray's switch for several hosts
    interface = _interface(host)
    return {
        # Otherwise workers may choose an address that the other hosts cannot reach.
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
        # `ray job stop` kills after 3 s by default; a large model's step and checkpoint take longer.
        "RAY_JOB_STOP_WAIT_TIME_S": "600",
        **os.environ,
        **runtime.ENVIRONMENT,
        **runtime.room_for_sockets(),
        **alone,
        "RAY_AUTH_MODE": "token",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def head_environment(folder: Path, dashboard_port: int, host: str = LOOPBACK) -> dict[str, str]:
    """The environment of the head and of every job."""
    return {
        **node_environment(host),
        **runtime.state_address(dashboard_port),
        storage.VARIABLE: str(folder),
        provenance.ROOT_VARIABLE: str(folder),
        provenance.COMMIT_VARIABLE: provenance.git_commit(),
    }


def head_command(port: int, dashboard_port: int, host: str = LOOPBACK) -> list[str]:
    """`ray start` for a head. Its ports for jobs are on loopback; the others are on `host`."""
    return [
        *_start(host),
        "--head",
        f"--port={port}",
        "--include-dashboard=true",
        # Ray's default port is fixed: a second head on this machine would end as soon as it has started.
        f"--ray-client-server-port={runtime.free_port(host)}",
        f"--dashboard-host={LOOPBACK}",
        f"--dashboard-port={dashboard_port}",
    ]


def join_command(head: str, host: str) -> list[str]:
    """`ray start` for a further host of the cluster whose head is at `head`, host:port."""
    return [*_start(host), f"--address={head}"]


def _start(host: str) -> list[str]:
    # From Ray's default range, two clusters on one machine may give two workers the same port.
    any_port = ["--min-worker-port=0", "--max-worker-port=0"]
    start = [sys.executable, "-m", "pipeline.cluster.runtime", "start", "--block"]
    return [*start, f"--node-ip-address={host}", *any_port]


def _interface(host: str) -> str:
    """The network interface with this address."""
    import psutil

    wanted = LOOPBACK if host.startswith("127.") else host
    interfaces = psutil.net_if_addrs()
    for name, addresses in interfaces.items():
        if any(address.address == wanted for address in addresses):
            return name
    have = sorted(address.address for found in interfaces.values() for address in found if "." in address.address)
    raise UserError(f"--host {host}: no interface of this machine has this address; there are {', '.join(have)}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Start a Ray cluster for `ray job submit`, or join one.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--host", default=LOOPBACK, help="the address at which the cluster's other hosts reach this machine"
    )
    parser.add_argument("--join", metavar="HEAD:PORT", help="join that cluster instead of starting a head")
    parser.add_argument(
        "--storage", type=Path, default=Path.cwd(), help="the folder jobs use if params.yaml names none"
    )
    parser.add_argument("--port", type=int, default=6379, help="of the head")
    parser.add_argument("--dashboard-port", type=int, default=8265, help="the port for jobs, on loopback")
    parser.add_argument("--cpus", type=int, help="how many of this machine's cores jobs may use (default: all)")
    parser.add_argument("--temp-dir", type=Path, help="where Ray keeps logs and copies of the code (default: /tmp/ray)")
    given = parser.parse_args(arguments)
    if given.join:
        environment, command = node_environment(given.host), join_command(given.join, given.host)
        _find_token(environment)
    else:
        if not given.storage.is_dir():
            raise UserError(f"--storage {given.storage}: no such folder")
        _check_ports({"--port": (given.host, given.port), "--dashboard-port": (LOOPBACK, given.dashboard_port)})
        environment = head_environment(given.storage.resolve(), given.dashboard_port, given.host)
        command = head_command(given.port, given.dashboard_port, given.host)
        _make_token(environment)
        logger.info(
            "jobs: RAY_AUTH_MODE=token ray job submit --address http://%s:%d --working-dir . -- ...",
            LOOPBACK,
            given.dashboard_port,
        )
    if given.cpus:
        command.append(f"--num-cpus={given.cpus}")
    if given.temp_dir:
        command.append(f"--temp-dir={given.temp_dir.resolve()}")
    with interruption.in_foreground(command, environment):
        pass


def _check_ports(wanted: Mapping[str, tuple[str, int]]) -> None:
    for option, (host, port) in wanted.items():
        if runtime.is_taken(host, port):
            raise UserError(
                f"{option} {port}: taken on {host}, perhaps by another cluster's head; end that, or give another port"
            )


def _find_token(environment: Mapping[str, str]) -> None:
    named = "RAY_AUTH_TOKEN" in environment or "RAY_AUTH_TOKEN_PATH" in environment
    if not named and not TOKEN.is_file():
        raise UserError(f"{TOKEN}: missing; copy the head's to this host, readable by you alone")


def _make_token(environment: Mapping[str, str]) -> None:
    """Make the user's token (~/.ray/auth_token) if there is none; RAY_AUTH_MODE=token lets Ray's tools find it."""
    ray = str(Path(sys.executable).parent / "ray")
    done = subprocess.run(
        [ray, "get-auth-token", "--generate"], env=dict(environment), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"cannot make Ray's token: {done.stderr.strip().splitlines()[-1:]}")
    if TOKEN.is_file():
        TOKEN.chmod(0o600)  # Ray creates it readable by everyone on the machine


if __name__ == "__main__":
    stage.run(main)
