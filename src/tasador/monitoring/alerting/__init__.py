"""Alerts and where they are sent."""
