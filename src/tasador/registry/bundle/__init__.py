"""A bundle: read, checked, written, packed, trusted."""
