"""The table contract: its model and reader, the one definition of a valid row."""
