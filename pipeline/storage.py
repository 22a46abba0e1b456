"""Where the stages of a Ray job keep their data: the folder that the cluster was started with (pipeline/cluster.py)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tsdsr.errors import UserError

VARIABLE = "TSDSR_STORAGE"
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for what `ray job submit` runs
SHARED = ("data", "reports", ".tsdsr", "captions")


def link(environment: Mapping[str, str] = os.environ) -> None:
    """In a job of such a head: make `data`, `reports` and `.tsdsr` of the working copy those of the storage folder.

    Elsewhere it does nothing.
    """
    storage = environment.get(VARIABLE)
    if not storage or JOB_VARIABLE not in environment:
        return
    if not Path(storage).is_dir():
        raise UserError(f"{VARIABLE}={storage}: no such folder on this host; every host must see it")
    if Path(storage).resolve() == Path.cwd():
        return
    for name in SHARED:
        shared, here = Path(storage, name), Path(name)
        shared.mkdir(parents=True, exist_ok=True)
        if not here.exists():
            here.symlink_to(shared.resolve(), target_is_directory=True)
