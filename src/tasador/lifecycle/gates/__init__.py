"""The gates between a new model and the champion's place."""
