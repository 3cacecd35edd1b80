"""Gates, promotion, rollback, canary, retraining, reproduction."""
