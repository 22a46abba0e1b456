"""The command `pipeline.sweep`: search spaces, one trial, the study of all trials, the report and its plots.

The training itself is in `tsdsr.training.distillation`, which a trial calls.
"""
