"""Settings of every stage, and the composition that fills them."""
