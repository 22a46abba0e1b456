"""MLflow: runs, their store, the student as an MLflow model, and the provenance of a result.

No other package imports mlflow.
"""
