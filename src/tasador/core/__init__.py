"""Things every room may use: errors, clock, seeds, fingerprints, files, logs, progress."""
