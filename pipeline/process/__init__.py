"""What any of the commands needs as a process of an operating system: signals and exit statuses, and locks.

Nothing here knows of params, stages, Ray or MLflow, and nothing here imports another room.
"""
