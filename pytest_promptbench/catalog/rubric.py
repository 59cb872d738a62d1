"""A rubric: YAML front matter with the criteria, then Markdown anchors."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

from ..checks import validate_check
from ..errors import CatalogError
from ..records import Criterion, Rubric, Source, sha256
from ..scorers import compiled, file_of
from .schema import CriterionFile, RubricFile, validate
from .yamlfile import parse, read_text

RESERVED = frozenset(
    {
        "composite", "latency_s", "prompt_tokens", "completion_tokens", "cost_usd", "rank", "model", "prompt",
        "scenario", "tier", "candidates", "judged", "pending", "failed", "ci95", "auto_composite",
        "item", "output", "rationale",
    }
)  # fmt: skip
LARGEST, SMALLEST = 1e6, 1e-6
"""What a rubric's numbers may be, and its composites: figures have six decimals, and their cubes have to be floats."""
MOST_SCORES = 6000
"""Characters of a verdict's scores. MLflow keeps 8,000 of a tag, which holds the judge and a rationale, too, and cuts
off the rest without a word: nothing could read such a verdict back."""


def load_rubric(file: Path) -> Rubric:
    """Read ``rubrics/<id>.md`` and look at the files of its scorers. CatalogError where it cannot be scored against."""
    rubric = read_rubric(read_text(file), file)
    sources: dict[str, Source] = {}
    for c in rubric.criteria:
        if c.scorer is not None and (name := file_of(c)) not in sources:
            path = file.parent / name
            try:
                sources[name] = Source(path=str(path), text=read_text(path))
                compiled(sources[name])
            except CatalogError as error:
                raise CatalogError(f"{file}: criterion {c.name}: check: python: {error}") from None
    if not sources:
        return rubric
    end = rubric.text.index("\n---", 3)
    lines = [f"# {name} sha256:{sha256(source.text)}\n" for name, source in sorted(sources.items())]
    text = rubric.text[: end + 1] + "".join(lines) + rubric.text[end + 1 :]
    return replace(rubric, text=text, sha256=sha256(text), sources=sources)


def read_rubric(text: str, file: Path) -> Rubric:
    """The rubric of a text that a file has, or had. Likewise, but nobody looks for its scorers."""
    if not text.startswith("---\n") or "\n---" not in text[3:]:
        raise CatalogError(f"{file}:1: a rubric begins with its criteria between two lines '---'")
    end = text.index("\n---", 3)
    closing, _, _ = text[end + 1 :].partition("\n")
    if closing != "---":
        line = text.count("\n", 0, end + 1) + 1
        raise CatalogError(f"{file}:{line}: the line {closing!r} ends the criteria; write '---' and nothing else in it")
    document = parse(text[4 : end + 1], file, first_line=2)
    shape = validate(RubricFile, document)
    if shape.id != file.stem:
        raise CatalogError(f"{file}:{document.line(('id',))}: id is {shape.id!r}; the file's name says {file.stem!r}")
    names: set[str] = set()
    criteria = []
    for i, given in enumerate(shape.criteria):
        where = f"{file}:{document.line(('criteria', i))}: criterion {given.name}"
        if given.name in names:
            raise CatalogError(f"{where}: there are two of this name")
        if given.name in RESERVED:
            raise CatalogError(f"{where}: the name is taken by promptbench itself; choose another")
        names.add(given.name)
        criteria.append(_criterion(given, where))
    rubric = Rubric(id=shape.id, text=text, criteria=tuple(criteria), sha256=sha256(text))
    if not any(c.weight or c.penalty for c in rubric.judged or rubric.criteria):
        who = " that a judge fills" if rubric.judged else ""
        raise CatalogError(
            f"{file}:{document.line(('criteria',))}: at least one criterion{who} must count: a scale with a weight, or "
            "a flag with a penalty, above 0"
        )
    if not max(abs(rubric.top), abs(rubric.bottom)) <= LARGEST:
        raise CatalogError(
            f"{file}:{document.line(('criteria',))}: composites reach from {rubric.bottom:g} to {rubric.top:g} points; "
            f"keep them within {LARGEST:,.0f} by smaller weights and penalties"
        )
    size = len(json.dumps(dict.fromkeys(names, -LARGEST / 3)))
    if size > MOST_SCORES:
        raise CatalogError(
            f"{file}:{document.line(('criteria',))}: the scores of {len(names)} criteria take {size:,} characters, and "
            f"MLflow has room for {MOST_SCORES:,}; take fewer criteria or shorter names, or score in several suites"
        )
    if not rubric.body.strip():
        raise CatalogError(
            f"{file}: nothing follows the criteria; describe what each score means, or judges cannot agree"
        )
    return rubric


def _criterion(given: CriterionFile, where: str) -> Criterion:
    belongs = {"scale": {"min", "max", "weight", "check"}, "flag": {"bad", "penalty", "check"}}[given.type]
    for key in ("min", "max", "weight", "bad", "penalty", "check"):
        if getattr(given, key) is not None and key not in belongs:
            raise CatalogError(f"{where}: a {given.type} has no {key!r}; it takes {', '.join(sorted(belongs))}")
        number = getattr(given, key)
        if isinstance(number, float) and number and not SMALLEST <= abs(number) <= LARGEST:
            raise CatalogError(
                f"{where}: {key} is {number:g}; expected 0, or a number from {SMALLEST:.6f} to {LARGEST:,.0f}"
            )
    problem = validate_check(given.check, scale=given.type == "scale") if given.check is not None else None
    if problem:
        raise CatalogError(f"{where}: check: {problem}")
    if given.type == "scale":
        if given.min is None or given.max is None:
            raise CatalogError(f"{where}: a scale needs min and max")
        weight = 1.0 if given.weight is None else float(given.weight)
        if not given.min < given.max:
            raise CatalogError(f"{where}: min is {given.min:g} and max is {given.max:g}; min must be below max")
        if not (math.isfinite(weight) and weight >= 0):
            raise CatalogError(f"{where}: weight is {weight:g}; it must not be below 0")
        low, high = float(given.min), float(given.max)
        return Criterion(name=given.name, type="scale", min=low, max=high, weight=weight, check=given.check)
    if given.bad is None or given.penalty is None:
        raise CatalogError(f"{where}: a flag needs bad (true or false) and penalty (points)")
    if given.penalty < 0:
        raise CatalogError(f"{where}: penalty is {given.penalty:g}; it is taken off, so it must not be below 0")
    return Criterion(name=given.name, type="flag", bad=given.bad, penalty=float(given.penalty), check=given.check)
