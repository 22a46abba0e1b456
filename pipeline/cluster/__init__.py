"""Ray, on one machine and on several: the command `pipeline.cluster`, how a stage starts Ray, where a job's data lie.

What runs on Ray's workers belongs to the stage or the sweep that starts them.
"""
