"""The command line: parse, call a flow, print; no logic of its own."""
