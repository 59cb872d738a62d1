"""A suite with all that it names: models, prompts, rubric, scenarios."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from ..checks import lacking_reference
from ..errors import CatalogError
from ..records import Model, Prompt, Rubric, Scenario, Suite, Tier
from .models import available, find_models, read_models, server_answers
from .prompts import check_placeholders, read_prompt, versions
from .rubric import load_rubric
from .scenarios import load_scenarios
from .schema import JudgeFile, SuiteFile, hint, validate
from .yamlfile import Located, Where, check_open, is_file, is_folder, parse, read_text

T = TypeVar("T")
N = TypeVar("N", Model, Prompt)
_Available = tuple[list[Model], dict[str, str], dict[str, str]]
"""The models that are there, why others are left out, and what some that are there lack."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a caller wants of a suite. Names are of models and prompt versions; None leaves the suite's own choice.

    ``models`` and ``prompts`` take the place of what the suite names; all of ``models.yaml`` and ``prompts/<task>/``
    can be named. ``only_models`` and ``only_prompts`` then narrow it; names that the suite does not have are passed
    over, and where none is left, so is the narrowing: the caller has to leave out what it did not ask for.
    ``asks_models`` and ``asks_judge`` say who is going to be asked: nobody else needs a key or a server. ``defers``:
    who of them will be is not known yet, so a key that is missing is no error but stands in ``Suite.unready``.
    """

    models: Sequence[str] | None = None
    prompts: Sequence[str] | None = None
    only_models: Sequence[str] | None = None
    only_prompts: Sequence[str] | None = None
    asks_models: bool = True
    asks_judge: bool = True
    defers: bool = False


def load_suite(
    file: Path,
    *,
    root: Path,
    environ: Mapping[str, str],
    reachable: Callable[[str], bool] = server_answers,
    lacking: Callable[[str], str | None] = lambda _: None,
    choice: Choice | None = None,
) -> Suite:
    """Read ``evals/<suite>.yaml`` and the files that it names.

    ``models.yaml`` is looked for beside the suite and in the folders above it, up to ``root``. ``prompts/<task>/`` and
    ``rubrics/<id>.md`` are looked for beside the suite's folder, in it, and in ``root``; the first that exists is read.
    Of a suite that is a link, what it leads to is looked around in after that.
    ``environ`` says which keys are set, ``reachable`` whether an optional model's server is there; it is asked once an
    address. ``lacking`` says what an embedded model needs to run here, None where it has all. An optional model that
    cannot be asked is named with the reason in ``Suite.skipped``, even where the suite names it, or the judge in
    ``Suite.judge_skipped``. CatalogError names file, line or key of any mistake.
    """
    choice = choice or Choice()
    if file.suffix == ".py" or is_folder(file):
        raise CatalogError(f"{file}: is no suite; name the .yaml file with its task, rubric and scenarios")
    document = parse(read_text(file), file)
    shape = validate(SuiteFile, document)
    scenarios, places = load_scenarios(shape.scenarios, document)
    rubric = _load_rubric(shape.rubric, document, root)
    prompts = _load_prompts(shape, document, root, choice)
    for prompt, prompt_document in prompts:
        check_placeholders(prompt, prompt_document, scenarios, places)
    _check_references(rubric, scenarios, places)
    directory = _Directory.read(file, root, environ, cache(reachable), lacking, choice)
    models, skipped, unready = _load_models(shape, document, directory, choice)
    if shape.judge is not None and not rubric.judged:
        raise CatalogError(
            f"{document.file}:{document.line(('judge',))}: programs fill all of the rubric {rubric.id}, so there is "
            "nothing for a judge; remove it, or add a criterion without a check"
        )
    judge, judge_skipped, judge_unready = _load_judge(shape.judge, document, directory, choice)
    return Suite(
        name=file.stem,
        path=str(file),
        task=shape.task,
        rubric=rubric,
        prompts=tuple(_narrowed([p for p, _ in prompts], choice.only_prompts)[0]),
        models=tuple(models),
        scenarios=scenarios,
        samples=shape.samples,
        judge=judge,
        skipped=skipped,
        unready=unready,
        judge_skipped=judge_skipped,
        judge_unready=judge_unready,
    )


def _check_references(rubric: Rubric, scenarios: Sequence[Scenario], places: Mapping[str, str]) -> None:
    for scenario in scenarios:
        problem = lacking_reference(rubric, scenario)
        if problem:
            raise CatalogError(f"{places[scenario.id]}: scenario {scenario.id!r}: {problem}")


def _narrowed(items: Sequence[N], only: Sequence[str] | None) -> tuple[list[N], bool]:
    """Those of these names, in the order of the names, and whether any is left of what was asked for; else all."""
    if only is None:
        return list(items), True
    by_name = {item.name: item for item in items}
    found = [by_name[name] for name in dict.fromkeys(only) if name in by_name]
    return (found, True) if found else (list(items), False)


def _instead(known: Mapping[str, T], names: Sequence[str], kind: str, file: Path, source: Path) -> list[T]:
    """What a test's own parametrization names in place of the suite's choice."""
    for name in names:
        if name not in known:
            raise CatalogError(
                f"{file} has no {kind} {name!r}{hint(name, list(known))}; {source} has: {', '.join(known)}"
            )
    return [known[name] for name in dict.fromkeys(names)]


@dataclass(frozen=True, kw_only=True)
class _Directory:
    """``models.yaml``: the models by name, and who of them can be asked."""

    known: Mapping[str, Model]
    document: Located
    environ: Mapping[str, str]
    reachable: Callable[[str], bool]
    lacking: Callable[[str], str | None]
    defers: bool

    @classmethod
    def read(
        cls,
        suite: Path,
        root: Path,
        environ: Mapping[str, str],
        reachable: Callable[[str], bool],
        lacking: Callable[[str], str | None],
        choice: Choice,
    ) -> _Directory:
        models, document = read_models(find_models(suite, root))
        known = {m.name: m for m in models}
        return cls(
            known=known,
            document=document,
            environ=environ,
            reachable=reachable,
            lacking=lacking,
            defers=choice.defers,
        )

    def available(self, models: Sequence[Model]) -> _Available:
        """As :func:`.models.available` has it; CatalogError for one without its key, unless that is yet to be seen."""
        found = available(models, self.document, self.environ, self.reachable, self.lacking)
        if found[2] and not self.defers:
            raise CatalogError(next(iter(found[2].values())))
        return found


def _load_models(shape: SuiteFile, document: Located, directory: _Directory, choice: Choice) -> _Available:
    source = directory.document.file
    wanted = _chosen(directory.known, shape.models, "model", document, source)
    if choice.models is not None:
        wanted = _instead(directory.known, choice.models, "model", document.file, source)
    models, narrowed = _narrowed(wanted, choice.only_models)
    if not (choice.asks_models and narrowed):
        return models, {}, {}
    models, skipped, unready = directory.available(models)
    if not models:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise CatalogError(f"{document.file}:{document.line(('models',))}: no model is left: {reasons}")
    return models, skipped, unready


def _load_judge(
    shape: JudgeFile | None, document: Located, directory: _Directory, choice: Choice
) -> tuple[Model | None, dict[str, str], dict[str, str]]:
    """As :func:`_load_models`, of one model, which is None where the suite has none or it is left out."""
    if shape is None:
        return None, {}, {}
    source = directory.document.file
    model = _named(directory.known, shape.model, "model", document, ("judge", "model"), source)
    if model.name in list(Tier):  # judge_kind, of which it is a value, would say so of an automatic verdict
        raise CatalogError(
            f"{document.file}:{document.line(('judge', 'model'))}: a judge cannot be called {model.name!r}, which "
            f"names a tier of judges; give the model another name in {source}"
        )
    there, missing, unready = directory.available([model]) if choice.asks_judge else ([model], {}, {})
    judge = dataclasses.replace(model, params={**model.params, **shape.params}) if there else None
    return judge, missing, unready


def _folders(suite: Path, root: Path, kind: str) -> list[Path]:
    found = [f for file in (suite.absolute(), suite.resolve()) for f in (file.parent.parent / kind, file.parent / kind)]
    return list(dict.fromkeys([*found, root / kind]))


def prompt_folder(suite: Path, root: Path, task: str) -> Path | None:
    """Where a task's prompts are for a suite; None where there is no such folder. CatalogError for a closed one."""
    for folder in _folders(suite, root, "prompts"):
        check_open(folder)
        if is_folder(folder / task):
            return folder / task
    return None


def _load_prompts(shape: SuiteFile, document: Located, root: Path, choice: Choice) -> list[tuple[Prompt, Located]]:
    folder = prompt_folder(document.file, root, shape.task)
    if folder is None:
        folders = _folders(document.file, root, "prompts")
        known = sorted({task.name for f in folders for task in f.glob("*/")})
        looked = ", ".join(str(f / shape.task) for f in folders)
        place = f"{document.file}:{document.line(('task',))}"
        raise CatalogError(
            f"{place}: there are no prompts for task {shape.task!r}{hint(shape.task, known)}; write one as "
            f"<version>.yaml; looked for {looked}"
        )
    files = versions(folder)
    if not files:
        raise CatalogError(f"{folder}: there is no prompt in it; write one as <version>.yaml")
    paths = _chosen(files, shape.prompts, "prompt", document, folder)
    if choice.prompts is not None:
        paths = _instead(files, choice.prompts, "prompt", document.file, folder)
    return [read_prompt(path, shape.task) for path in paths]


def _load_rubric(name: str, document: Located, root: Path) -> Rubric:
    place = f"{document.file}:{document.line(('rubric',))}"
    files = [f / f"{name}.md" for f in _folders(document.file, root, "rubrics")]
    for found in files:
        check_open(found.parent)
        if is_file(found):
            break
    else:
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
