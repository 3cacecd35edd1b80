"""Canary and shadow: two models on live requests."""
