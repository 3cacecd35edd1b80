"""The only definitions of each metric; everything that reports a figure imports them from here."""
