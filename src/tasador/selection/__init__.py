"""Training time only: grids, search, sweep, cross-validation, evaluation."""
