"""The cascade of sources, the refresher and the model in use."""
