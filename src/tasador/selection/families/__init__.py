"""Model families: how each is fitted, searched and exported."""
