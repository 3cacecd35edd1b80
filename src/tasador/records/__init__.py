"""What was asked and answered, outcomes, verdicts and the audit trail, in one database."""
