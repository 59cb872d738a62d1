"""MLflow as the record of candidates and verdicts."""
