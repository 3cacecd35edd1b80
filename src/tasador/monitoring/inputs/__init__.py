"""Tables of a window and of the reference, read for monitoring."""
