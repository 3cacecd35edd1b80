"""The seven steps and the run."""
