"""Where bundles are found: folders, object stores, an MLflow registry."""
