"""The command `pipeline.sweep`: search spaces, one trial, the study of all trials, the report and its plots.

What a single training does belongs in `pipeline/distill.py`; a trial calls that.
"""
