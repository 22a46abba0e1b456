"""Copy to a tracking server the runs that it lacks, because it was unreachable or was configured later.

MLFLOW_TRACKING_URI=https://mlflow.example.org python -m pipeline.tracking
"""

from __future__ import annotations

import argparse
import logging

from pipeline.stages import stage
from pipeline.tracking import provenance, store, sync
from tsdsr import machine
from tsdsr.errors import UserError

logger = logging.getLogger(__name__)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    root, address = provenance.root(), machine.without_passwords(sync.server())
    if not address:
        raise UserError(f"{sync.URI_VARIABLE} names no server to copy the runs to")
    runs = sync.waiting(root)
    for run_id in runs:
        try:
            sync.copy(root, run_id)
        except Exception as error:
            if not store.is_failure(error):
                raise
            raise UserError(
                f"{address} did not accept run {run_id}: {machine.without_passwords(str(error))}"
            ) from error
    logger.info("copied %d runs to %s", len(runs), address)


if __name__ == "__main__":
    stage.run(main)
