"""How candidates are measured: folds, metrics, tests, averages."""
