"""The Bayesian sweep on Optuna."""
