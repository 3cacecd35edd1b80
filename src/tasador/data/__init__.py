"""The table: its contract, where it comes from, whether it meets the contract, how it is split."""
