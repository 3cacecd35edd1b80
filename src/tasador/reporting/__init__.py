"""Cards, plots and reports for people."""
