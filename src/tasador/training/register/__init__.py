"""Register: fit, evaluate once on the held-out test set, bundle, register."""
