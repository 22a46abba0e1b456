"""Ports of our own choice, and who is told them."""

from __future__ import annotations

import random
import socket
import subprocess
import sys

import pytest

from pipeline.cluster import runtime


@pytest.fixture
def few_ports(monkeypatch: pytest.MonkeyPatch) -> range:
    """Three numbers alone to choose from, none of them in use."""
    while True:
        first = random.SystemRandom().randrange(20_000, 31_000)
        ports = range(first, first + 3)
        if all(_is_free(port) for port in ports):
            break

    class Few(random.SystemRandom):
        def randrange(self, *limits: int) -> int:  # type: ignore[override]
            return random.choice(ports)

    monkeypatch.setattr(runtime.random, "SystemRandom", Few)
    monkeypatch.setattr(runtime, "_MARKS", [])  # they end with the test
    return ports


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as given:
        try:
            given.bind(("127.0.0.1", port))
        except OSError:
            return False
    return not runtime.is_taken("127.0.0.1", port)


def test_no_port_is_given_twice(few_ports: range) -> None:
    """Ray ends at once where two of its servers are told the same one."""
    assert {runtime.free_port("127.0.0.1") for _ in few_ports} == set(few_ports)


def test_no_port_is_given_that_another_process_was_given(few_ports: range) -> None:
    gets_one = "from pipeline.cluster import runtime; print(runtime.free_port('127.0.0.1'), flush=True); input()"
    only = f"import random; random.SystemRandom.randrange = lambda *_: {few_ports[0]}; {gets_one}"
    other = subprocess.Popen([sys.executable, "-c", only], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert int(other.stdout.readline()) == few_ports[0]
    assert {runtime.free_port("127.0.0.1") for _ in few_ports[1:]} == set(few_ports[1:])
    other.communicate("\n")
    assert runtime.free_port("127.0.0.1") == few_ports[0]


def test_a_port_that_a_server_has_is_not_given(few_ports: range) -> None:
    with socket.create_server(("127.0.0.1", few_ports[0])):
        assert {runtime.free_port("127.0.0.1") for _ in few_ports[1:]} == set(few_ports[1:])


def test_the_raylet_knows_its_agents_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that it does not know must be chosen within 15 s of its start."""
    from ray._private import parameter, services

    commands: dict[str, list[str]] = {}
    monkeypatch.setattr(services, "start_ray_process", lambda command, kind: commands.update({kind: command}))
    former = parameter.RayParams, services.start_ray_process
    with runtime._agents_told_their_ports():
        params = parameter.RayParams(dashboard_agent_listen_port=52365, num_cpus=3)
        for kind in ("raylet", "gcs_server"):
            services.start_ray_process([kind], kind)
    assert (parameter.RayParams, services.start_ray_process) == former
    names = ("dashboard_agent_listen_port", "metrics_agent_port", "metrics_export_port", "runtime_env_agent_port")
    ports = {getattr(params, name) for name in names}
    assert len(ports) == 4
    assert all(20_000 <= port < 32_000 for port in ports)
    assert params.num_cpus == 3
    told = f"--dashboard_agent_listen_port={params.dashboard_agent_listen_port}"
    assert commands == {"raylet": ["raylet", told], "gcs_server": ["gcs_server"]}
