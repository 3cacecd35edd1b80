"""Registry: bundles as verified folders and archives, and the MLflow registry that keeps them."""
