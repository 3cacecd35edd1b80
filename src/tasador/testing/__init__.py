"""Room: testing."""
