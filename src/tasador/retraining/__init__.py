"""What becomes of models: gates, promotion, retraining, canary."""
