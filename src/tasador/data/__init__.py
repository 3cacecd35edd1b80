"""The table: where it comes from, whether it meets its contract, how it is split."""
