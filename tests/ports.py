"""A port for a server that has to be told one."""

from __future__ import annotations

import os
import random
import socket

# Below those that systems give to whoever asks for any: between the choice and the server's start nobody takes it.
PORTS = range(20_000, 32_000)


def free_port(host: str = "127.0.0.1") -> int:
    """One that nothing uses; each of pytest's processes chooses among its own."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = random.SystemRandom().choice(PORTS[first::workers])
        with socket.socket() as probe:
            if probe.connect_ex((host, port)) != 0:
                return port
