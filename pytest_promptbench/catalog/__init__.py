"""Files that a user writes -> records. A mistake is a CatalogError that names file, line and key."""

from .models import load_models, model_place, server_answers
from .prompts import load_prompt
from .rubric import load_rubric
from .suite import Choice, load_suite
from .template import placeholders, render

__all__ = [
    "Choice",
    "load_models",
    "load_prompt",
    "load_rubric",
    "load_suite",
    "model_place",
    "placeholders",
    "render",
    "server_answers",
]
