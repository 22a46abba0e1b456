"""The experiment: one file per command, `python -m pipeline.<command>`, and packages with the code that they share.

`pipeline.sweep` and `pipeline.cluster` are both packages and commands. Only this package uses Ray, MLflow and DVC; the
library, `tsdsr`, does not import them.
"""

import gc
import os

# Switch off the usage reports of the programs that the commands start or import.
for _name, _value in (
    ("DO_NOT_TRACK", "1"),
    ("DVC_NO_ANALYTICS", "1"),
    ("GRADIO_ANALYTICS_ENABLED", "False"),
    ("MLFLOW_DISABLE_TELEMETRY", "true"),
    ("RAY_USAGE_STATS_ENABLED", "0"),
):
    os.environ.setdefault(_name, _value)

# PyTorch's threads sleep while they wait for each other. By default they spin: beside another busy program, a training
# with a thread for each of 2 cores took 12.9 s a step instead of 1.1 s. Alone it is as fast.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# By default every 700 new objects start a garbage collection, and imports make millions: that was a tenth of the time
# in which a stage starts.
gc.set_threshold(20_000)
