"""MLflow's pages for the local store, on loopback: `make ui`."""

from __future__ import annotations

import argparse
import os
import sys

from pipeline.cluster import runtime
from pipeline.stages import stage
from pipeline.tracking import provenance
from pipeline.tracking import runs as tracking
from tsdsr import machine
from tsdsr.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--port", type=int, default=5000, help="the port on 127.0.0.1")
    port = parser.parse_args().port
    store = tracking.environment()[tracking.URI_VARIABLE]
    if store.startswith(("http://", "https://")):
        address = machine.without_passwords(store)
        raise UserError(
            f"{tracking.URI_VARIABLE} is {address}: open that in a browser, or unset it for the local store"
        )
    if runtime.is_taken("127.0.0.1", port):
        raise UserError(f"--port {port}: taken on 127.0.0.1, by these pages already perhaps; or name another")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--default-artifact-root", (provenance.root() / "mlruns").as_uri()]
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": store,  # a command line, with a database's password in it, can be read by everyone
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # three processes for features that nothing here uses
    }
    os.execve(sys.executable, command, environment)


if __name__ == "__main__":
    stage.run(main)
