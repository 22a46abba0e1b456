"""MLflow: runs, the store they are written to, the student as an MLflow model, and what made a result (provenance).

No other room imports mlflow.
"""
