"""The experiment: one file per command, `python -m pipeline.<command>`, and packages with the code that they share.

`pipeline.sweep` and `pipeline.cluster` are both packages and commands. Only this package uses Ray, MLflow and DVC; the
library, `tsdsr`, does not import them.
"""

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
