"""The experiment: one file a command, `python -m pipeline.<command>`, and rooms for what the commands are made of.

`pipeline.sweep` and `pipeline.cluster` are commands as well, with rooms of their own. Ray, MLflow and DVC are used here
alone; the library, `tsdsr`, knows nothing of them.
"""
