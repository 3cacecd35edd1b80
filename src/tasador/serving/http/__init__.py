"""Requests, keys, limits, compression, the server process."""
