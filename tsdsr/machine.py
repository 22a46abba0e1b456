"""Properties of this machine and its reachable services. Nothing here imports Ray, MLflow or torch."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
from pathlib import Path
from urllib.parse import urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443, "ray": 10001}
SECONDS = 3.0


def cpus() -> int:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The kernel's name of the processor, otherwise the machine's type."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def memory() -> int:
    """Bytes of main memory, or the container's limit if that is lower."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [_number(Path(path)) for path in _LIMITS]
    return min([installed, *(limit for limit in limits if limit is not None)])


_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def available_memory() -> int:
    """Bytes available without swapping; all of it if the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return memory()
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if len(line.split()) > 1}
    return min(_left_by_the_container(), values.get("MemAvailable", memory()))


def _left_by_the_container() -> int:
    """Bytes below the container's limit, its file cache counted as free; the limit itself where usage is unknown."""
    root = Path("/sys/fs/cgroup")
    used = _number(root / "memory.current")
    if used is None:
        return memory()
    try:
        fields = dict(line.split() for line in (root / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        fields = {}
    return max(0, memory() - used + int(fields.get("inactive_file", 0)))


def shared_memory() -> int:
    """Bytes free in /dev/shm; 0 if it does not exist."""
    return shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0


def free_disk(path: Path) -> int:
    return shutil.disk_usage(path).free


def ray_address() -> str | None:
    return os.environ.get("RAY_ADDRESS") or None


def mlflow_server() -> str | None:
    """The server or store to which runs are copied."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def reachable(address: str) -> bool:
    """Whether a server listens at `host:port` or at a URL's host."""
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    try:
        port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return False
    if not parts.hostname or port is None:
        return False
    try:
        with socket.create_connection((parts.hostname, port), timeout=SECONDS):
            return True
    except OSError:
        return False


def without_passwords(text: str) -> str:
    """A text with the passwords of its URLs removed."""
    return re.sub(r"//[^/\s]*@", "//***@", text)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
