"""LLM evals as pytest tests: every model x prompt x scenario, logged to MLflow, judged when you have time.

Users meet this package through pytest: the ``promptbench`` marker, the ``candidate`` fixture, and the options that
``pytest --help`` lists. What a test gets is :class:`pytest_promptbench.candidate.GeneratedCandidate`; what can go wrong
is in :mod:`pytest_promptbench.errors`.
"""
