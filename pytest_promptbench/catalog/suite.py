"""A suite with all that it names: models, prompts, rubric, scenarios."""

from __future__ import annotations

import difflib
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from ..errors import CatalogError
from ..records import Message, Model, Prompt, Rubric, Scenario, Suite, sha256
from .rubric import load_rubric
from .scenarios import load_scenarios
from .schema import ModelsFile, PromptFile, SuiteFile, validate
from .template import placeholders
from .yamlfile import Located, parse, read_text

T = TypeVar("T")


def server_answers(address: str) -> bool:
    """Whether something listens at the host and port of an address."""
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=0.3):
            return True
    except OSError:
        return False


def load_suite(
    file: Path, *, root: Path, environ: Mapping[str, str], reachable: Callable[[str], bool] = server_answers
) -> Suite:
    """Read ``evals/<suite>.yaml`` and the files that it names.

    ``models.yaml`` is looked for beside the suite and in the folders above it, up to ``root``. ``prompts/`` and
    ``rubrics/`` are looked for beside the suite's folder, in it, and in ``root``. ``environ`` says which keys are set,
    ``reachable`` whether an optional model's server is there. CatalogError names file, line or key of any mistake.
    """
    document = parse(read_text(file), file)
    shape = validate(SuiteFile, document)
    scenarios = load_scenarios(shape.scenarios, document)
    rubric = _load_rubric(shape.rubric, document, root)
    prompts = _load_prompts(shape, document, root)
    _check_placeholders(prompts, scenarios)
    models_file = _find_models(file, root)
    everyone = load_models(models_file)
    wanted = _choose(everyone, shape.models, "model", document, ("models",), models_file)
    models, skipped = _available(wanted, environ, reachable)
    if not models:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise CatalogError(f"{file}: no model is left: {reasons}")
    judge = None
    if shape.judge is not None:
        (named,) = _choose(everyone, [shape.judge.model], "model", document, ("judge", "model"), models_file)
        there, missing = _available([named], environ, reachable)
        skipped |= {f"judge {name}": reason for name, reason in missing.items()}
        if there:
            judge = _with_params(there[0], shape.judge.params)
    return Suite(
        name=file.stem,
        path=str(file),
        task=shape.task,
        rubric=rubric,
        prompts=tuple(prompts),
        models=tuple(models),
        scenarios=scenarios,
        samples=shape.samples,
        judge=judge,
        skipped=skipped,
    )


def _with_params(model: Model, params: Mapping[str, object]) -> Model:
    import dataclasses

    return dataclasses.replace(model, params={**model.params, **params})


# -- models


def _find_models(suite: Path, root: Path) -> Path:
    folders = [suite.parent, *suite.parent.parents]
    if root in folders:
        folders = folders[: folders.index(root) + 1]
    for folder in folders:
        if (folder / "models.yaml").is_file():
            return folder / "models.yaml"
    raise CatalogError(f"{suite}: there is no models.yaml beside it, nor in a folder above it up to {folders[-1]}")


def load_models(file: Path) -> tuple[Model, ...]:
    """Every model of a ``models.yaml``."""
    shape = validate(ModelsFile, parse(read_text(file), file))
    return tuple(
        Model(
            name=name,
            model=m.model,
            params=m.params,
            api_base=m.api_base,
            api_key_env=m.api_key_env,
            timeout=float(m.timeout) if m.timeout is not None else None,
            optional=m.optional,
        )
        for name, m in shape.models.items()
    )


def _available(
    models: Sequence[Model], environ: Mapping[str, str], reachable: Callable[[str], bool]
) -> tuple[list[Model], dict[str, str]]:
    """The models that can be asked, and why each other one cannot. CatalogError for one that is not optional."""
    there: list[Model] = []
    missing: dict[str, str] = {}
    for model in models:
        reason = None
        if model.api_key_env is not None and not environ.get(model.api_key_env):
            reason = f"the environment variable {model.api_key_env} is not set"
        elif model.optional and model.api_key_env is None and model.api_base and not reachable(model.api_base):
            reason = f"nothing answers at {model.api_base}"
        if reason is None:
            there.append(model)
        elif model.optional:
            missing[model.name] = reason
        else:
            raise CatalogError(f"model {model.name}: {reason}; set it, or say 'optional: true' in models.yaml")
    return there, missing


# -- prompts


def load_prompt(file: Path, task: str) -> Prompt:
    """Read one version of a prompt."""
    shape = validate(PromptFile, parse(read_text(file), file))
    messages = tuple(Message(role=m.role, content=m.content) for m in shape.messages)
    content = {"messages": [m.to_json() for m in messages], "params": shape.params}
    return Prompt(task=task, version=file.stem, messages=messages, params=shape.params, sha256=sha256(content))


def _folders(suite: Path, root: Path, kind: str) -> list[Path]:
    return list(dict.fromkeys([suite.parent.parent / kind, suite.parent / kind, root / kind]))


def _load_prompts(shape: SuiteFile, document: Located, root: Path) -> list[Prompt]:
    folders = [f / shape.task for f in _folders(document.file, root, "prompts")]
    folder = next((f for f in folders if f.is_dir()), None)
    if folder is None:
        looked = ", ".join(str(f) for f in folders)
        raise CatalogError(f"{document.file}:{document.line(('task',))}: no prompts for task {shape.task!r}: {looked}")
    files = {f.stem: f for f in sorted(folder.glob("*.yaml"))}
    if not files:
        raise CatalogError(f"{folder}: there is no prompt in it; write one as <version>.yaml")
    for version, path in files.items():
        if any(c in version for c in "[]"):
            raise CatalogError(f"{path}: the version {version!r} must not hold [ or ]")
    names = _unique(shape.prompts or list(files), "prompt", document, ("prompts",))
    return [
        load_prompt(_named(files, name, "prompt", document, ("prompts", i), str(folder)), shape.task)
        for i, name in enumerate(names)
    ]


def _check_placeholders(prompts: Sequence[Prompt], scenarios: Sequence[Scenario]) -> None:
    for prompt in prompts:
        for name in placeholders(prompt.messages):
            for scenario in scenarios:
                if name not in scenario.vars:
                    have = ", ".join(scenario.vars) or "none"
                    raise CatalogError(
                        f"prompt {prompt.task}/{prompt.version}: the placeholder {{{{ {name} }}}} has no value in "
                        f"scenario {scenario.id!r}{_hint(name, list(scenario.vars))}; its vars are: {have}"
                    )


# -- rubric and names


def _load_rubric(name: str, document: Located, root: Path) -> Rubric:
    files = [f / f"{name}.md" for f in _folders(document.file, root, "rubrics")]
    for file in files:
        if file.is_file():
            return load_rubric(file)
    known = sorted({f.stem for file in files for f in file.parent.glob("*.md")})
    looked = ", ".join(str(f) for f in files)
    line = document.line(("rubric",))
    raise CatalogError(f"{document.file}:{line}: there is no rubric {name!r}{_hint(name, known)}; looked for {looked}")


def _choose(
    everyone: Sequence[Model],
    names: Sequence[str] | None,
    kind: str,
    document: Located,
    where: tuple[str | int, ...],
    source: Path,
) -> list[Model]:
    if names is None:
        return list(everyone)
    known = {m.name: m for m in everyone}
    chosen = _unique(names, kind, document, where)
    return [_named(known, name, kind, document, (*where, i), str(source)) for i, name in enumerate(chosen)]


def _unique(names: Sequence[str], kind: str, document: Located, where: tuple[str | int, ...]) -> Sequence[str]:
    for i, name in enumerate(names):
        if name in names[:i]:
            raise CatalogError(f"{document.file}:{document.line((*where, i))}: the {kind} {name!r} stands twice")
    return names


def _named(
    known: Mapping[str, T], name: str, kind: str, document: Located, where: tuple[str | int, ...], source: str
) -> T:
    if name in known:
        return known[name]
    raise CatalogError(
        f"{document.file}:{document.line(where)}: there is no {kind} {name!r}{_hint(name, list(known))}; "
        f"{source} has: {', '.join(known)}"
    )


def _hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
