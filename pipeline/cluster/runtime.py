"""Starting Ray and speaking to it: the environment every driver and worker of ours runs in, and its errors in words."""

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

# Ray reads these when it is imported or started. Ports bind to loopback on a cluster of our own; a health check every
# 2 s (the default) would make each report of a training worker wait as long; a busy machine does not start workers, or
# the dashboard and agents of Ray's own, within a minute, after which Ray would end them, or itself. The watcher for
# hosts that a cloud is about to take ends with an error line, and nothing here asks it.
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

# What TMPDIR may take of the 107 bytes of a socket's path: below it Ray adds the likes of
# /ray/session_2026-11-21_12-20-49_195541_4194304/sockets/plasma_store.
LONGEST_TMPDIR = 35

_WORKER_DIED = "a Ray worker was ended from outside, most likely for its memory"
# What is short, by the name of the class of Ray's error.
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

_MARKS: list[socket.socket] = []  # of the ports that `free_port` gave


def start(num_cpus: int | None = None) -> None:
    """Join the cluster that RAY_ADDRESS names, or start one on loopback for the life of this process.

    Args:
        num_cpus: logical CPUs a cluster of our own must at least have.

    Raises:
        UserError: where Python lies below a folder with a space in its name.
    """
    if " " in sys.executable:  # its shell takes it for two words: no worker starts, and the driver waits for ever
        raise UserError(
            f"{sys.executable}: Ray starts no workers by a path with a space; move the repository elsewhere"
        )
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.update(room_for_sockets())
    import ray

    if ray.is_initialized():
        return
    options: dict[str, Any] = {"log_to_driver": True, "logging_level": logging.WARNING}
    if not os.environ.get("RAY_ADDRESS"):
        options["address"] = "local"  # or Ray would join whatever cluster was last started on this machine
        options["num_cpus"] = max(os.cpu_count() or 1, num_cpus or 1)
        options["dashboard_port"] = free_port("127.0.0.1")  # Ray's own choice is that of `make cluster`
        os.environ.update(state_address(options["dashboard_port"]))
    announces = logging.getLogger("ray._private.authentication.authentication_token_setup")
    _drop_line(announces, "Token authentication is enabled")  # its default for a cluster of our own
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
    """For what starts Ray: its agents take ports of our choice, and its raylet knows them from the beginning.

    It gives each port that an agent chooses by itself 15 s to be known, and ends if the agent, a Python process, comes
    later, as on a busy machine. Of Ray 2.60's own callers `ray.init` sets none, and none tells the raylet the last one.
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
    """Where Ray Train's helper asks whether a run is alive; else, of several heads on a machine, it asks the latest."""
    return {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard_port}"}


def room_for_sockets() -> dict[str, str]:
    """/tmp, where TMPDIR has too long a name: schedulers give jobs such."""
    return {"TMPDIR": "/tmp"} if len(os.fsencode(os.environ.get("TMPDIR", ""))) > LONGEST_TMPDIR else {}


def total(resource: str) -> float:
    """How much of a resource, CPU or GPU, the cluster's hosts have together, in use or not."""
    import ray

    return float(ray.cluster_resources().get(resource, 0.0))


def free_port(host: str) -> int:
    """A TCP port for a server that has to be told one; no other call gets its number while this process lives.

    It is below those that the system gives to whoever asks for any: nobody takes it before the server does. What is
    given is marked, for calls here and in other processes, by the UDP port of the same number on loopback.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        mark = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            mark.bind(("127.0.0.1", port))
        except OSError:  # it is given
            mark.close()
            continue
        _MARKS.append(mark)
        if not is_taken(host, port):
            return port


def is_taken(host: str, port: int) -> bool:
    """Does something listen there?"""
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def shortage(error: BaseException, cure: str = CURE) -> str | None:
    """What is short, and the cure, where Ray's error means that; None for any other error."""
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
