"""The shape of the files that a user writes, and validation errors that name file, line and key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails

from ..errors import CatalogError
from ..records import CONVERSATION, REPLY_LIMITS, Role, is_number
from .credentials import secret_in, secret_in_address
from .template import PLACEHOLDER
from .yamlfile import Located

LONGEST_NAME = 1000
"""Characters of a model's, prompt's or scenario's name: MLflow takes 4,096 of the three together. Of a tag, too."""
_NOT_IN_TEST_IDS = re.compile("[\\[\\]\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _label_problem(text: str) -> str | None:
    """What keeps a text from being told from others in a table; None for a good one."""
    if not text.strip() or text != text.strip():
        return "must not be empty nor begin or end with a space"
    if len(text) > LONGEST_NAME:
        return f"must not have more than {LONGEST_NAME:,} characters, and has {len(text):,}"
    return None


def name_problem(text: str) -> str | None:
    """What keeps a text from being part of a test id; None for a good name."""
    problem = _label_problem(text)
    if problem:
        return problem
    bad = _NOT_IN_TEST_IDS.search(text)
    return f"must not hold {bad[0]!r}: it becomes part of test ids" if bad else None


def hint(name: str, known: Sequence[str]) -> str:
    """`` (did you mean 'x'?)`` where a known name is close, else nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


# -- shapes


def _name(text: str) -> str:
    problem = name_problem(text)
    if problem:
        raise ValueError(problem)
    return text


def _label(text: str) -> str:
    problem = _label_problem(text)
    if problem:
        raise ValueError(problem)
    return text


_OF_THE_MODEL = "; it is a key of the model in models.yaml, beside its params"
_SET_BY_US = {
    "model": _OF_THE_MODEL,
    "messages": "",
    "api_base": _OF_THE_MODEL,
    "base_url": "; write it as api_base into models.yaml, beside the model's params",
    "stream": "",
    "n": "; for several outputs a cell, write samples into the suite",
    "timeout": _OF_THE_MODEL,
    "max_retries": "",
    "num_retries": "",
}
"""What no params hold, and where it belongs."""


def _params(params: dict[str, Any]) -> dict[str, Any]:
    secret = secret_in(params)
    if secret is not None:
        raise ValueError(f"must not hold {secret!r}: keys come from the environment only; name it with api_key_env")
    ours = next((key for key in params if key in _SET_BY_US), None)
    if ours is not None:
        raise ValueError(f"must not hold {ours!r}: promptbench sets it itself{_SET_BY_US[ours]}")
    for key in REPLY_LIMITS:
        most = params.get(key)
        if most is not None and not (is_number(most) and most == int(most)):
            raise ValueError(f"{key} is {most!r:.80}; expected a whole number, without quotes")
    return params


def _address(url: str) -> str:
    try:
        secret, parts = secret_in_address(url), urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        valid = valid and not any(c.isspace() for c in url)
    except ValueError:
        secret = valid = False
    if secret:
        raise ValueError(
            "must not hold a user or password, nor a key in its query: keys come from the environment, by api_key_env"
        )
    if not valid:
        raise ValueError("is not an address such as http://127.0.0.1:8080/v1")
    return url


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("must be the name of an environment variable, such as OPENAI_API_KEY; not the key itself")
    return name


def _task(name: str) -> str:
    if not re.fullmatch(r"\w[\w .-]*", name):
        raise ValueError("must be the name of a folder of prompts/: letters, digits, '_', '-', '.' and spaces")
    return name


def _criterion(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("must be letters, digits and '_', not beginning with a digit")
    return name


def _list_or_text(value: object) -> str | None:
    return "list" if isinstance(value, list) else "text" if isinstance(value, str) else None


Name = Annotated[str, AfterValidator(_name)]
Label = Annotated[str, AfterValidator(_label)]
Params = Annotated[dict[str, Any], AfterValidator(_params)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _written(cls, value: object, info: ValidationInfo) -> object:
        """What may be left out is not left out by a key without a value.

        ``models:`` whose last entry became a comment is no wish for all of them.
        """
        if value is None and info.field_name and cls.model_fields[info.field_name].default is None:
            raise ValueError("must have a value; write one, or take the key away")
        return value


class ModelFile(_Strict):
    model: Annotated[str, Field(min_length=1)]
    params: Params = {}
    api_base: Annotated[str, AfterValidator(_address)] | None = None
    api_key_env: Annotated[str, AfterValidator(_variable)] | None = None
    timeout: Annotated[float, Field(gt=0)] | None = None
    optional: bool = False

    @field_validator("api_base")
    @classmethod
    def _asked_there(cls, address: str | None, info: ValidationInfo) -> str | None:
        model = str(info.data.get("model"))
        if model.startswith("embedded/"):
            there = "openai/" + model.removeprefix("embedded/")
            raise ValueError(f"would not be asked: the session serves {model} itself; for a server there write {there}")
        return address


class ModelsFile(_Strict):
    models: Annotated[dict[Name, ModelFile], Field(min_length=1)]


class MessageFile(_Strict):
    role: Literal[Role, "placeholder"]
    content: str

    @field_validator("content")
    @classmethod
    def _one_name(cls, content: str, info: ValidationInfo) -> str:
        if info.data.get("role") == CONVERSATION and not PLACEHOLDER.fullmatch(content.strip()):
            raise ValueError("must be one {{ name }} and nothing else: a scenario's conversation takes its place")
        return content


class PromptFile(_Strict):
    messages: Annotated[list[MessageFile], Field(min_length=1)]
    params: Params = {}
    description: str | None = None
    lineage: dict[str, Any] | None = None


class JudgeFile(_Strict):
    model: Name
    params: Params = {}


class ScenarioFile(_Strict):
    id: Name
    vars: dict[str, Any] = {}
    tags: list[Label] = []


class ScenariosFile(_Strict):
    scenarios: list[ScenarioFile]


class SuiteFile(_Strict):
    task: Annotated[Name, AfterValidator(_task)]
    rubric: Name
    scenarios: Annotated[
        Annotated[list[ScenarioFile], Tag("list")] | Annotated[str, Tag("text")],
        Discriminator(
            _list_or_text,
            custom_error_type="scenarios",
            custom_error_message="a list, or the path of a .yaml, .jsonl or .csv file",
        ),
    ]
    prompts: Annotated[list[Name], Field(min_length=1)] | None = None
    models: Annotated[list[Name], Field(min_length=1)] | None = None
    samples: Annotated[int, Field(ge=1, le=1000)] = 1
    judge: JudgeFile | None = None


class CriterionFile(_Strict):
    name: Annotated[str, AfterValidator(_criterion)]
    type: Literal["scale", "flag"]
    min: float | None = None
    max: float | None = None
    weight: float | None = None
    bad: bool | None = None
    penalty: float | None = None
    check: dict[str, Any] | None = None


class RubricFile(_Strict):
    id: Name
    criteria: Annotated[list[CriterionFile], Field(min_length=1)]


# -- errors

Shape = TypeVar("Shape", bound=BaseModel)


def validate(shape: type[Shape], document: Located) -> Shape:
    """The document as ``shape``. CatalogError lists what is wrong, a line each: file, line, key, value, expectation."""
    try:
        return shape.model_validate(document.data)
    except ValidationError as error:
        messages = list(dict.fromkeys(_message(e, shape, document) for e in error.errors()))
    more = f"\n... and {len(messages) - 10} more" if len(messages) > 10 else ""
    raise CatalogError("\n".join(messages[:10]) + more)


_EXAMPLES = {
    "check": ", as in {is_json: true}",
    "params": ", as in {temperature: 0.7}",
    "vars": ', as in {situation: "Slept 4 hours"}',
}
"""What a key takes whose keys are the user's own."""


def _message(error: ErrorDetails, shape: type[BaseModel], document: Located) -> str:
    where = _real(error["loc"], document.data)
    key = ".".join(str(x) for x in where) or document.name
    place = f"{document.file}:{document.line(where)}"
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        return f"{document.file}:{document.line(where[:-1])}: the key {key!r} is missing"
    if kind == "extra_forbidden":
        known = _keys(shape, where[:-1])
        close = difflib.get_close_matches(str(where[-1]), known, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        if not close and "params" in known:
            remedy += "; what the provider is to be sent, such as max_tokens, stands below params"
        return f"{place}: unknown key {key!r}; {remedy}"
    value = _at(document.data, where)
    shown = "" if _private(where, value) else f" is {_short(value)};"
    if kind == "value_error":
        # The rule's own sentence begins with a verb, so that it reads well with and without the value before it.
        bare = not shown or isinstance(value, Mapping)
        return f"{place}: {key} {context.get('error')}" if bare else f"{place}: {key}{shown} it {context.get('error')}"
    quotes = " (put it in quotes)" if isinstance(value, int | float) else ""
    expected = {
        "string_type": f"a text{quotes}",
        "dict_type": f"keys with values{_EXAMPLES.get(key.rpartition('.')[2], '')}",
        "model_type": f"keys with values: {', '.join(_keys(shape, where))}",
        "list_type": "a list",
        "bool_type": "true or false",
        "int_type": "a whole number",
        "float_type": "a number",
        "too_short": "at least one entry",
        "string_too_short": "a text that is not empty",
        "literal_error": f"one of {context.get('expected')}",
        "greater_than": f"more than {context.get('gt'):g}" if "gt" in context else "",
        "greater_than_equal": f"at least {context.get('ge')}",
        "less_than_equal": f"at most {context.get('le')}",
    }.get(kind, error["msg"])
    return f"{place}: {key}{shown or ':'} expected {expected}"


def _private(where: Sequence[str | int], value: object) -> bool:
    """Whether a value may be a key, or hold one, and is therefore not shown."""
    key = next((str(part) for part in where if part in ("api_key_env", "api_base", "params")), None)
    return key in ("api_key_env", "params") or (key == "api_base" and any(c in repr(value) for c in "@?"))


def _real(where: tuple[str | int, ...], data: Any) -> tuple[str | int, ...]:
    """Pydantic's location without the names that it adds for unions and for keys of mappings."""
    path: list[str | int] = []
    for i, part in enumerate(where):
        last = i == len(where) - 1
        inside = part in data if isinstance(data, Mapping) else False
        if isinstance(data, list) and isinstance(part, int):
            inside = part < len(data)
        if inside:
            path.append(part)
            data = data[part]
        elif last and isinstance(data, Mapping) and part != "[key]":
            path.append(part)
    return tuple(path)


def _at(data: Any, where: tuple[str | int, ...]) -> Any:
    for part in where:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _short(value: object) -> str:
    if value is None:
        return "empty"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _keys(shape: type[BaseModel], where: tuple[str | int, ...]) -> list[str]:
    """The keys that are allowed at ``where``."""
    names: dict[str, type[BaseModel]] = {
        "models": ModelFile, "messages": MessageFile, "scenarios": ScenarioFile, "criteria": CriterionFile,
        "judge": JudgeFile,
    }  # fmt: skip
    inner = names.get(str(where[0]), shape) if where else shape
    return list(inner.model_fields)
