"""The experiment: one file a command, `python -m pipeline.<command>`, and rooms for what the commands are made of.

`pipeline.sweep` and `pipeline.cluster` are commands as well, with rooms of their own. Ray, MLflow and DVC are used here
alone; the library, `tsdsr`, knows nothing of them.
"""

import os

# No program that the commands start or import reports its use to whoever makes it.
for _name, _value in (
    ("DO_NOT_TRACK", "1"),
    ("DVC_NO_ANALYTICS", "1"),
    ("GRADIO_ANALYTICS_ENABLED", "False"),
    ("MLFLOW_DISABLE_TELEMETRY", "true"),
    ("RAY_USAGE_STATS_ENABLED", "0"),
):
    os.environ.setdefault(_name, _value)
