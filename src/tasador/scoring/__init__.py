"""Value files, on one machine or on Ray."""
