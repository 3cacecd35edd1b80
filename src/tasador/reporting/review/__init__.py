"""Workbooks for a desk review: written for a person to fill in, and read back."""
