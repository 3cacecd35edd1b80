"""Configuration: Hydra composes the settings dataclasses that the stages own."""
