"""Parts of the stages of dvc.yaml: options and errors, workers, captions, variants.

A stage itself is `pipeline/<stage>.py`: its inputs, its outputs and its order of work. Code that needs neither Ray nor
MLflow belongs in `tsdsr`.
"""
