"""Files that a user writes -> records. A mistake is a CatalogError that names file, line and key."""

from .rubric import load_rubric
from .suite import load_models, load_prompt, load_suite
from .template import placeholders, render

__all__ = ["load_models", "load_prompt", "load_rubric", "load_suite", "placeholders", "render"]
