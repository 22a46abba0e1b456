"""Ray, on one machine and on several: the command `pipeline.cluster`, how a stage starts Ray, where a job's data is.

The code that runs on Ray's workers is in the stage or the sweep that starts them.
"""
