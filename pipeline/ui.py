"""MLflow's pages for the repository's runs, on loopback: `make ui`. Opens a browser if there is a display."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import webbrowser
from typing import TYPE_CHECKING

from pipeline.cluster import runtime
from pipeline.process import interruption
from pipeline.stages import stage
from pipeline.tracking import provenance, store
from tsdsr.config import Params
from tsdsr.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
VIEW = "scores"
COLUMNS = ["metrics.`test/psnr`", "metrics.`test/ssim`", "metrics.`test/niqe`"]
COLUMNS += ["attributes.`Description`", "attributes.`Source`"]


def link(client: MlflowClient, port: int, experiment_id: str) -> str:
    """The address of the experiment's runs in MLflow's training view.

    The columns and the expanded parents are saved as a shared view.
    """
    parents = client.search_runs([experiment_id], f"tags.`{store.NAME_TAG}` = '{store.PARENT}'")
    view = {"selectedColumns": COLUMNS, "runsExpanded": {run.info.run_id: True for run in parents}}
    client.set_experiment_tag(experiment_id, *store.KIND)
    client.set_experiment_tag(experiment_id, f"mlflow.sharedViewState.{VIEW}", json.dumps(view))
    query = f"workflowType=machine_learning&viewStateShareKey={VIEW}"
    return f"http://{HOST}:{port}/#/experiments/{experiment_id}/runs?{query}"


def main() -> None:
    parser = stage.parser(__doc__)
    parser.add_argument("--port", type=int, default=5000, help=f"the port on {HOST}")
    given = parser.parse_args()
    if runtime.is_taken(HOST, given.port):
        raise UserError(
            f"--port {given.port}: taken on {HOST}, perhaps by an earlier `make ui`; end that one, or give another port"
        )
    root = provenance.root()
    name = Params.load(given.params).tracking.experiment
    client = store.client(root)
    page = link(client, given.port, store.experiment(client, name, root / "mlruns"))
    options = ["--host", HOST, "--port", str(given.port), "--workers", "1"]
    options += ["--backend-store-uri", store.uri(root), "--default-artifact-root", (root / "mlruns").as_uri()]
    command = [sys.executable, "-m", "mlflow", "server", *options]
    # These would start three processes for features that are not used here.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with interruption.in_foreground(command, environment) as server:
        while server.poll() is None and not runtime.is_taken(HOST, given.port):
            time.sleep(0.2)
        if server.poll() is None:
            logger.info("the runs are on %s", page)
            if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform == "darwin":
                webbrowser.open(page)


if __name__ == "__main__":
    stage.run(main)
