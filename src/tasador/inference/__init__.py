"""A bundle in use: which one answers, where it comes from, batches of rows."""
