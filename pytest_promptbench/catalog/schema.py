"""The shape of the files that a user writes, and validation errors that name file, line and key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, ValidationError
from pydantic_core import ErrorDetails

from ..errors import CatalogError
from .yamlfile import Located


def _id(text: str) -> str:
    """A name that becomes part of a test id."""
    if not text.strip() or text != text.strip():
        raise ValueError("must not be empty nor begin or end with a space")
    bad = re.search(r"[\[\]\x00-\x1f\x7f]", text)
    if bad:
        raise ValueError(f"must not hold {bad[0]!r}: it becomes part of test ids")
    return text


Name = Annotated[str, AfterValidator(_id)]
Number = StrictInt | StrictFloat
_SECRETS = ("api_key", "apikey", "authorization", "extra_headers", "headers", "default_headers", "token", "password")


def _no_secrets(params: dict[str, Any]) -> dict[str, Any]:
    for key in params:
        if key.lower() in _SECRETS:
            raise ValueError(f"must not hold {key!r}: keys come from the environment only; name it with api_key_env")
        if key in ("model", "messages", "api_base", "base_url", "stream", "n", "timeout", "max_retries", "num_retries"):
            raise ValueError(f"must not hold {key!r}: promptbench sets it itself")
    return params


Params = Annotated[dict[str, Any], AfterValidator(_no_secrets)]


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("is not an address") from None
    if "@" in parts.netloc:
        raise ValueError("must not hold a user or password: keys come from the environment, by api_key_env")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not an address such as http://127.0.0.1:8080/v1")
    return url


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class ModelFile(_Strict):
    model: Annotated[str, Field(min_length=1)]
    params: Params = {}
    api_base: Annotated[str, AfterValidator(_address)] | None = None
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    timeout: Annotated[Number, Field(gt=0)] | None = None
    optional: StrictBool = False


class ModelsFile(_Strict):
    models: Annotated[dict[Name, ModelFile], Field(min_length=1)]


class MessageFile(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: str


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
    tags: list[str] = []


class SuiteFile(_Strict):
    task: Annotated[Name, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]*$")]
    rubric: Name
    scenarios: list[ScenarioFile] | str
    prompts: Annotated[list[Name], Field(min_length=1)] | None = None
    models: Annotated[list[Name], Field(min_length=1)] | None = None
    samples: Annotated[StrictInt, Field(ge=1, le=1000)] = 1
    judge: JudgeFile | None = None


class CriterionFile(_Strict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    type: Literal["scale", "flag"]
    min: Number | None = None
    max: Number | None = None
    weight: Number | None = None
    bad: StrictBool | None = None
    penalty: Number | None = None
    check: dict[str, Any] | None = None


class RubricFile(_Strict):
    id: Name
    criteria: Annotated[list[CriterionFile], Field(min_length=1)]


Shape = TypeVar("Shape", bound=BaseModel)


def validate(shape: type[Shape], document: Located) -> Shape:
    """The document as ``shape``. CatalogError lists what is wrong, a line each: file, line, key, value, expectation."""
    try:
        return shape.model_validate(document.data)
    except ValidationError as error:
        messages = list(dict.fromkeys(_message(e, shape, document) for e in error.errors()))
    raise CatalogError("\n".join(messages[:10]))


def _message(error: ErrorDetails, shape: type[BaseModel], document: Located) -> str:
    where = _real(error["loc"], document.data)
    key = ".".join(str(x) for x in where) or "the file"
    line = document.line(where)
    kind, context = error["type"], error.get("ctx", {})
    value = _short(_at(document.data, where))
    if kind == "missing":
        return f"{document.file}:{document.line(where[:-1])}: the key {key!r} is missing"
    if kind == "extra_forbidden":
        known = _keys(shape, where[:-1])
        close = difflib.get_close_matches(str(where[-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        return f"{document.file}:{line}: unknown key {key!r}; {hint}"
    expected = {
        "string_type": "a text",
        "dict_type": "keys with values",
        "model_type": "keys with values",
        "list_type": "a list",
        "bool_type": "true or false",
        "int_type": "a whole number",
        "float_type": "a number",
        "too_short": "at least one entry",
        "string_too_short": "a text that is not empty",
        "string_pattern_mismatch": f"a text that matches {context.get('pattern')}",
        "literal_error": f"one of {context.get('expected')}",
        "greater_than": f"more than {context.get('gt')}",
        "greater_than_equal": f"at least {context.get('ge')}",
        "less_than_equal": f"at most {context.get('le')}",
    }.get(kind)
    if kind == "value_error":
        secret = "api_base" in where and "@" in str(_at(document.data, where))
        shown = "" if secret or isinstance(_at(document.data, where), Mapping) else f" is {value}; it"
        return f"{document.file}:{line}: {key}{shown} {context.get('error')}"
    return f"{document.file}:{line}: {key} is {value}; expected {expected or error['msg'].lower()}"


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
        elif last and isinstance(data, Mapping) and part not in ("[key]", "str", "int", "float"):
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
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _keys(shape: type[BaseModel], where: tuple[str | int, ...]) -> list[str]:
    """The keys that are allowed at ``where``."""
    names: dict[str, type[BaseModel]] = {
        "models": ModelFile, "messages": MessageFile, "scenarios": ScenarioFile, "criteria": CriterionFile,
        "judge": JudgeFile,
    }  # fmt: skip
    inner = names.get(str(where[0]), shape) if where else shape
    return list(inner.model_fields)
