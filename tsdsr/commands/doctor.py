"""`tsdsr doctor`: checks the machine, the services it can reach, and whether params.yaml fits on it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tsdsr import machine
from tsdsr.commands.findings import BAD, NOTE, OK, WARN, Finding, gib
from tsdsr.config import Params
from tsdsr.errors import UserError

PACKAGES = (
    "torch", "torchvision", "diffusers", "transformers", "peft", "pyiqa", "basicsr", "ray", "dvc", "mlflow"
)  # fmt: skip
SMALL_SHM = 2**30  # Ray's object store is there
SMALL_DISK = 5 * 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options on `parser`."""
    parser.add_argument("--params", default="params.yaml", help="the params to check (default: %(default)s)")
    parser.add_argument(
        "--memory", action="store_true", help="also count a training step's memory (takes half a minute)"
    )


def run(args: argparse.Namespace) -> int:
    """Print every section.

    Returns:
        1 if a finding is BAD, that is, a run with these params would stop; else 0.
    """
    sections = {
        "Versions": versions(),
        "Machine": resources(),
        "Weights": weights(),
        "Services": services(),
        str(args.params): fit(Path(args.params), memory=args.memory),
    }
    for title, findings in sections.items():
        sys.stdout.write(f"{title}\n")
        for finding in findings:
            sys.stdout.write(f"  {finding.state:<4}  {finding.subject:<20}  {finding.text}\n")
            if finding.cure:
                sys.stdout.write(f"        {'':<20}  -> {finding.cure}\n")
    return int(any(finding.state == BAD for findings in sections.values() for finding in findings))


def versions() -> list[Finding]:
    """Python and the main packages."""
    import platform
    from importlib import metadata

    found = [Finding(NOTE, "python", platform.python_version())]
    for package in PACKAGES:
        try:
            found.append(Finding(NOTE, package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            found.append(Finding(WARN, package, "not installed", "`make setup` installs everything"))
    return found


def resources() -> list[Finding]:
    """Processors, accelerators, memory, shared memory, disk."""
    shared, disk = machine.shared_memory(), machine.free_disk(Path.cwd())
    memory, free = machine.memory(), machine.available_memory()
    found = [
        Finding(NOTE, "cpus", str(machine.cpus())),
        Finding(NOTE, "memory", f"{gib(memory)}, {gib(free)} available"),
    ]
    found += gpus()
    cure = "in a container: --shm-size=8g" if shared < SMALL_SHM else ""
    found.append(Finding(WARN if cure else OK, "shared memory", f"{gib(shared)} in /dev/shm", cure))
    cure = f"free some: an installation and a run of the tiny preset take about {gib(SMALL_DISK)}"
    cure = cure if disk < SMALL_DISK else ""
    found.append(Finding(WARN if cure else OK, "disk", f"{gib(disk)} free here", cure))
    return found


def gpus() -> list[Finding]:
    """The accelerators that PyTorch can use."""
    try:
        import torch
    except ModuleNotFoundError:
        return [Finding(NOTE, "gpu", "unknown: PyTorch is not installed")]
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        found.append(Finding(NOTE, f"gpu {index}", f"{name}, {gib(total)}, {gib(free)} free"))
    return found or [Finding(NOTE, "gpu", "none")]


def weights() -> list[Finding]:
    """Each published file: present, absent or damaged."""
    from tsdsr.weights import WEIGHTS, find

    findings = []
    for name, weight in WEIGHTS.items():
        found, use = find(name), ", ".join(weight.used_for)
        if found is None:
            findings.append(Finding(WARN, name, f"absent (for {use})", f"tsdsr weights fetch {name}"))
        elif not found.intact:
            findings.append(
                Finding(BAD, name, f"{found.path} is damaged", f"remove it, then tsdsr weights fetch {name}")
            )
        else:
            findings.append(Finding(OK, name, str(found.path)))
    return findings


def services() -> list[Finding]:
    """Ray and MLflow, at the addresses in the environment."""
    return [machine_ray(), *machine_mlflow()]


def machine_ray() -> Finding:
    address = machine.ray_address()
    if address is None:
        return Finding(OK, "ray", "no cluster named by RAY_ADDRESS: stages start their own on loopback")
    if address == "auto":
        return Finding(NOTE, "ray", "RAY_ADDRESS is `auto`: the cluster that runs on this machine")
    if machine.reachable(address):
        return Finding(OK, "ray", f"{address} answers")
    return Finding(BAD, "ray", f"{address} does not answer", "start it (make cluster), or unset RAY_ADDRESS")


def machine_mlflow() -> list[Finding]:
    server = machine.mlflow_server()
    if server is None:
        return [Finding(OK, "mlflow", "runs are kept in mlflow.db of this directory")]
    shown = machine.without_passwords(server)
    if not server.startswith(("http://", "https://")) or machine.reachable(server):
        return [Finding(OK, "mlflow", f"runs are kept in mlflow.db of this directory and copied to {shown}")]
    cure = "runs are kept here; `python -m pipeline.tracking` copies them later; or unset MLFLOW_TRACKING_URI"
    return [Finding(WARN, "mlflow", f"{shown} does not answer", cure)]


def fit(path: Path, *, memory: bool) -> list[Finding]:
    """Settings in params that are wrong, missing or too large for this machine."""
    try:
        params = Params.load(path)
    except UserError as error:
        return [Finding(BAD, "params", str(error))]
    try:
        from tsdsr.commands import fit_checks
    except ModuleNotFoundError as error:
        return [Finding(NOTE, "params", f"valid; training needs {error.name}: pip install 'tsdsr[train]'")]
    return fit_checks.check(params, count_memory=memory)
