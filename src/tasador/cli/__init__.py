"""The command line: parse, call a use case, print; no logic of its own."""
