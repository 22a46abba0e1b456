"""How our drivers and workers start Ray: its environment, and its errors as readable messages."""

from __future__ import annotations

import logging
import os
import random
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.process import interruption
from tsdsr.errors import UserError

# Ray reads these when it is imported or started. A local cluster binds its ports to loopback. With the default health
# check every 2 s, each report of a training worker would wait that long. On a busy machine, workers, the dashboard and
# Ray's agents take longer to start than the default limit of a minute. The watcher for preempted cloud hosts is not
# used, and prints an error when it ends.
ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "600",
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}

# Longest TMPDIR in bytes: a socket's path has at most 107, and Ray adds for example
# /ray/session_2026-11-21_12-20-49_195541_4194304/sockets/plasma_store.
LONGEST_TMPDIR = 35

_WORKER_DIED = "a Ray worker was killed, most likely because the machine ran out of memory"
# The resource that ran out, by the name of Ray's error class.
SHORTAGES = {
    "ObjectStoreFullError": "Ray's object store is full, and could not spill to disk",
    "OutOfDiskError": "the disk that Ray spills its objects to (/tmp/ray) is full",
    "OutOfMemoryError": _WORKER_DIED,
    "WorkerCrashedError": _WORKER_DIED,
    "ActorDiedError": _WORKER_DIED,
    "RayActorError": _WORKER_DIED,
}
CURE = (
    "Lower the stage's workers or batch size (`tsdsr doctor --memory` says what does not fit), or free space "
    "for /tmp/ray, and start again"
)

_MARKS: list[socket.socket] = []  # one per port that `free_port` returned


def start(num_cpus: int | None = None) -> None:
    """Join the cluster that RAY_ADDRESS names, or start one on loopback that ends with this process.

    Args:
        num_cpus: the minimum of logical CPUs of a cluster started here.

    Raises:
        UserError: the path of the Python interpreter has a space.
    """
    if " " in sys.executable:  # Ray's shell would split it: no worker would start, and the driver would wait for ever
        raise UserError(
            f"{sys.executable}: Ray cannot start workers from a path with a space; move the repository elsewhere"
        )
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.update(room_for_sockets())
    import ray

    if ray.is_initialized():
        return
    options: dict[str, Any] = {"log_to_driver": True, "logging_level": logging.WARNING}
    if not os.environ.get("RAY_ADDRESS"):
        options["address"] = "local"  # otherwise Ray joins the cluster that was last started on this machine
        options["num_cpus"] = max(os.cpu_count() or 1, num_cpus or 1)
        options["dashboard_port"] = free_port("127.0.0.1")  # Ray's default is the port of `make cluster`
        os.environ.update(state_address(options["dashboard_port"]))
    announces = logging.getLogger("ray._private.authentication.authentication_token_setup")
    _drop_line(announces, "Token authentication is enabled")  # Ray's default for a local cluster
    with interruption.kept(), _agents_told_their_ports():
        ray.init(**options)


def quiet_reports() -> None:
    """In a training worker: drop Ray's line with all metrics at each `ray.train.report`.

    Ray 2.60 names that logger after its file, so that `LoggingConfig` does not reach it.
    """
    for handler in logging.getLogger().handlers:
        _drop_line(handler, "Reporting training result")


def _drop_line(source: logging.Filterer, start: str) -> None:
    source.addFilter(lambda record: not record.getMessage().startswith(start))


@contextmanager
def _agents_told_their_ports() -> Iterator[None]:
    """Start Ray within this block: its agents use ports chosen here, and its raylet knows them from the beginning.

    Otherwise the raylet waits 15 s for each agent, a Python process, to report its port, and ends if the agent starts
    later, as on a busy machine. In Ray 2.60, `ray.init` sets none of these ports, and nothing tells the raylet the
    dashboard agent's.
    """
    from ray._private import parameter, ray_constants, services

    make, begin = parameter.RayParams, services.start_ray_process
    listen = free_port("127.0.0.1")
    ports = {"dashboard_agent_listen_port": listen}
    for name in ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port"):
        ports[name] = free_port("127.0.0.1")

    def begin_with_port(command: list[str], process_type: str, *arguments: Any, **options: Any) -> Any:
        told = process_type == ray_constants.PROCESS_TYPE_RAYLET
        command = [*command, f"--dashboard_agent_listen_port={listen}"] if told else command
        return begin(command, process_type, *arguments, **options)

    parameter.RayParams = lambda *arguments, **options: make(*arguments, **{**options, **ports})
    services.start_ray_process = begin_with_port
    try:
        yield
    finally:
        parameter.RayParams, services.start_ray_process = make, begin


def state_address(dashboard_port: int) -> dict[str, str]:
    """The address at which Ray Train checks that a run is alive; by default it asks the head that was started last."""
    return {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard_port}"}


def room_for_sockets() -> dict[str, str]:
    """/tmp, if TMPDIR is too long for Ray's sockets, as schedulers may set it."""
    return {"TMPDIR": "/tmp"} if len(os.fsencode(os.environ.get("TMPDIR", ""))) > LONGEST_TMPDIR else {}


def total(resource: str) -> float:
    """The cluster's total of a resource, CPU or GPU, whether in use or not."""
    import ray

    return float(ray.cluster_resources().get(resource, 0.0))


def free_port(host: str) -> int:
    """A free TCP port for a server that needs a port number; no other call returns it while this process lives.

    It is below the system's ephemeral ports, so that no other program is given it. A returned port is marked, for calls
    here and in other processes, by binding the UDP port of the same number on loopback.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        mark = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            mark.bind(("127.0.0.1", port))
        except OSError:  # already returned by another call
            mark.close()
            continue
        _MARKS.append(mark)
        if not is_taken(host, port):
            return port


def is_taken(host: str, port: int) -> bool:
    """Whether a server listens there."""
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def shortage(error: BaseException, cure: str = CURE) -> str | None:
    """A message with the resource that ran out and the remedy, if Ray's error means that; otherwise None."""
    for cause in causes(error):
        if type(cause).__module__.startswith("ray.") and type(cause).__name__ in SHORTAGES:
            return f"{SHORTAGES[type(cause).__name__]} (Ray: {_first_line(cause)}). {cure}"
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and what failed on Ray Train's workers."""
    yield error
    wrapped = [getattr(error, name, None) for name in ("cause", "health_check_failure", "controller_failure")]
    for cause in [error.__cause__, *wrapped, *getattr(error, "worker_failures", {}).values()]:
        if isinstance(cause, BaseException) and cause is not error:
            yield from causes(cause)


def _first_line(error: BaseException) -> str:
    return next((line.strip(" .") for line in str(error).splitlines() if line.strip()), type(error).__name__)


def main() -> None:
    """`ray start ...` as `python -m pipeline.cluster.runtime start ...`, however slowly its agents start."""
    from ray.scripts.scripts import main as ray

    with _agents_told_their_ports():
        ray()


if __name__ == "__main__":
    main()
