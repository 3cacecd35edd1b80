"""The grid search and the Bayesian sweep over families and settings."""
