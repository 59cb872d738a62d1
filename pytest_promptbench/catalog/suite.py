"""A suite with all that it names: models, prompts, rubric, scenarios."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

from ..errors import CatalogError
from ..records import Model, Prompt, Rubric, Scenario, Suite
from .models import available, find_models, read_models, server_answers
from .prompts import check_placeholders, read_prompt, versions
from .rubric import load_rubric
from .scenarios import load_scenarios
from .schema import JudgeFile, SuiteFile, hint, validate
from .yamlfile import Located, Where, is_file, parse, read_text

T = TypeVar("T")


def load_suite(
    file: Path, *, root: Path, environ: Mapping[str, str], reachable: Callable[[str], bool] = server_answers
) -> Suite:
    """Read ``evals/<suite>.yaml`` and the files that it names.

    ``models.yaml`` is looked for beside the suite and in the folders above it, up to ``root``. ``prompts/<task>/`` and
    ``rubrics/<id>.md`` are looked for beside the suite's folder, in it, and in ``root``; the first that exists is read.
    ``environ`` says which keys are set, ``reachable`` whether an optional model's server is there; it is asked once an
    address. An optional model that cannot be asked is named with the reason in ``Suite.skipped``, even where the suite
    names it; the judge stands there as ``judge:<name>``. CatalogError names file, line or key of any mistake.
    """
    document = parse(read_text(file), file)
    shape = validate(SuiteFile, document)
    scenarios = load_scenarios(shape.scenarios, document)
    rubric = _load_rubric(shape.rubric, document, root)
    prompts = _load_prompts(shape, document, root, scenarios)
    everyone, models_document = read_models(find_models(file, root))
    known = {m.name: m for m in everyone}
    asked = cache(reachable)
    wanted = _chosen(known, shape.models, "model", document, models_document.file)
    models, skipped = available(wanted, models_document, environ, asked)
    if not models:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise CatalogError(f"{file}:{document.line(('models',))}: no model is left: {reasons}")
    judge = None
    if shape.judge is not None:
        named = _named(known, shape.judge.model, "model", document, ("judge", "model"), models_document.file)
        there, missing = available([named], models_document, environ, asked)
        judge = _judge(there[0], shape.judge) if there else None
        skipped |= {f"judge:{name}": reason for name, reason in missing.items()}
    return Suite(
        name=file.stem,
        path=str(file),
        task=shape.task,
        rubric=rubric,
        prompts=prompts,
        models=tuple(models),
        scenarios=scenarios,
        samples=shape.samples,
        judge=judge,
        skipped=skipped,
    )


def _judge(model: Model, given: JudgeFile) -> Model:
    return dataclasses.replace(model, params={**model.params, **given.params})


def _folders(suite: Path, root: Path, kind: str) -> list[Path]:
    return list(dict.fromkeys([suite.absolute().parent.parent / kind, suite.parent / kind, root / kind]))


def prompt_folder(suite: Path, root: Path, task: str) -> Path | None:
    """Where a task's prompts are for a suite; None where there is no such folder."""
    return next((f / task for f in _folders(suite, root, "prompts") if (f / task).is_dir()), None)


def _load_prompts(shape: SuiteFile, document: Located, root: Path, scenarios: Sequence[Scenario]) -> tuple[Prompt, ...]:
    folder = prompt_folder(document.file, root, shape.task)
    if folder is None:
        looked = ", ".join(str(f / shape.task) for f in _folders(document.file, root, "prompts"))
        place = f"{document.file}:{document.line(('task',))}"
        raise CatalogError(f"{place}: there are no prompts for task {shape.task!r}; looked for {looked}")
    files = versions(folder)
    if not files:
        raise CatalogError(f"{folder}: there is no prompt in it; write one as <version>.yaml")
    prompts = []
    for path in _chosen(files, shape.prompts, "prompt", document, folder):
        prompt, prompt_document = read_prompt(path, shape.task)
        check_placeholders(prompt, prompt_document, scenarios)
        prompts.append(prompt)
    return tuple(prompts)


def _load_rubric(name: str, document: Located, root: Path) -> Rubric:
    place = f"{document.file}:{document.line(('rubric',))}"
    files = [f / f"{name}.md" for f in _folders(document.file, root, "rubrics")]
    found = next((file for file in files if is_file(file)), None)
    if found is None:
        known = sorted({f.stem for file in files for f in file.parent.glob("*.md")})
        looked = ", ".join(str(f) for f in files)
        raise CatalogError(f"{place}: there is no rubric {name!r}{hint(name, known)}; looked for {looked}")
    rubric = load_rubric(found)
    if rubric.id != name:
        raise CatalogError(f"{place}: rubric is {name!r}; write its id, {rubric.id!r}, without a folder")
    return rubric


# -- names


def _chosen(known: Mapping[str, T], names: Sequence[str] | None, kind: str, document: Located, source: Path) -> list[T]:
    """What the suite's ``<kind>s:`` names, all that is known where it does not say."""
    if names is None:
        return list(known.values())
    for i, name in enumerate(names):
        if name in names[:i]:
            place = f"{document.file}:{document.line((f'{kind}s', i))}"
            raise CatalogError(f"{place}: the {kind} {name!r} stands twice; remove one")
    return [_named(known, name, kind, document, (f"{kind}s", i), source) for i, name in enumerate(names)]


def _named(known: Mapping[str, T], name: str, kind: str, document: Located, where: Where, source: Path) -> T:
    if name in known:
        return known[name]
    raise CatalogError(
        f"{document.file}:{document.line(where)}: there is no {kind} {name!r}{hint(name, list(known))}; "
        f"{source} has: {', '.join(known)}"
    )
