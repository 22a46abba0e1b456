"""Starting Ray and speaking to it: the environment every driver and worker of ours runs in."""

from __future__ import annotations

import logging
import os
from typing import Any

# Ray reads these when it is imported or started. Ports bind to loopback on a cluster of our own; a health check every
# 2 s (the default) would make each report of a training worker wait as long.
ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}


def start(num_cpus: int | None = None) -> None:
    """Join the cluster that RAY_ADDRESS names, or start one on loopback for the life of this process.

    Args:
        num_cpus: logical CPUs a cluster of our own must at least have.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    options: dict[str, Any] = {"log_to_driver": True, "logging_level": logging.WARNING}
    if not os.environ.get("RAY_ADDRESS"):
        options["address"] = "local"  # or Ray would join whatever cluster was last started on this machine
        options["num_cpus"] = max(os.cpu_count() or 1, num_cpus or 1)
    ray.init(**options)
