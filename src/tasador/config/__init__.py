"""Room: config."""
