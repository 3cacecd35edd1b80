"""Room: modeling."""
