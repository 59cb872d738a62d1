"""LLM evals as pytest tests."""
