"""What the commands of dvc.yaml's stages share or are made of: options and errors, workers, captions, variants.

A stage itself is the file of its command, `pipeline/<stage>.py`: there stand its inputs, its outputs and its order of
work. What only one stage uses, and what needs no Ray or MLflow, belongs in `tsdsr`.
"""
