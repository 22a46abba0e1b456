"""MLflow's pages for the local store, on loopback: `make ui`."""

from __future__ import annotations

import argparse
import os
import sys

from pipeline import provenance, stage, tracking


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--port", type=int, default=5000, help="the port on 127.0.0.1")
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(arguments.port)]
    command += ["--workers", "1", *store_options()]
    # The job runner would add three processes for features that nothing here uses.
    os.execve(sys.executable, command, {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})


def store_options() -> list[str]:
    """Where the server finds runs and files."""
    root = provenance.root()
    uri = tracking.environment()[tracking.URI_VARIABLE]
    return ["--backend-store-uri", uri, "--default-artifact-root", (root / "mlruns").as_uri()]


if __name__ == "__main__":
    stage.run(main)
