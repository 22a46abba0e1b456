"""Operating-system matters of every command: signals, exit statuses and locks.

Nothing here uses params, stages, Ray or MLflow, or imports another package of the pipeline.
"""
