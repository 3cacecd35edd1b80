"""Grid search by cross-validation, with racing and shared work."""
