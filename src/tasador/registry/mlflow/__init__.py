"""What needs the MLflow package."""
