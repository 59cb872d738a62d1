"""``models.yaml``: the named models, and which of them can be asked here and now."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import CatalogError
from ..records import Model
from .schema import ModelsFile, validate
from .yamlfile import Located, is_file, parse, read_text


def server_answers(address: str) -> bool:
    """Whether something listens at the host and port of an address, within 0.3 seconds."""
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=0.3):
            return True
    except (OSError, UnicodeError):  # UnicodeError: a host name that cannot be one
        return False


def find_models(suite: Path, root: Path) -> Path:
    """``models.yaml`` beside the suite, or in the nearest folder above it, up to and with ``root``.

    For a suite outside ``root``, every folder above it is looked at. Of a link to a suite it is first the link's
    folders, then those of what it leads to.
    """
    looked = []
    for start in dict.fromkeys([suite.parent, suite.resolve().parent]):
        folders = [start, *start.absolute().parents]
        ends = [i for i, folder in enumerate(folders) if folder.resolve() == root.resolve()]
        folders = folders[: ends[0] + 1] if ends else folders
        for folder in folders:
            if is_file(folder / "models.yaml"):
                return folder / "models.yaml"
        looked.append(str(folders[-1]))
    up_to = " and ".join(dict.fromkeys(looked))
    raise CatalogError(
        f"{suite}: there is no models.yaml beside it, nor in a folder above it up to {up_to}; write one, as in  "
        "models: {haiku: {model: anthropic/claude-haiku-4-5, api_key_env: ANTHROPIC_API_KEY}}"
    )


def load_models(file: Path) -> tuple[Model, ...]:
    """Every model of a ``models.yaml``, in the file's order."""
    return _models(validate(ModelsFile, parse(read_text(file), file)))


def read_models(file: Path) -> tuple[tuple[Model, ...], Located]:
    """``load_models``, and the document, which knows the lines."""
    document = parse(read_text(file), file)
    return _models(validate(ModelsFile, document)), document


def model_place(suite: Path, root: Path, name: str) -> str:
    """File and line of a model that a suite has from its ``models.yaml``."""
    document = read_models(find_models(suite, root))[1]
    return f"{document.file}:{document.line(('models', name, 'model'))}"


def _models(shape: ModelsFile) -> tuple[Model, ...]:
    return tuple(Model(name=name, **given.model_dump()) for name, given in shape.models.items())


def available(
    models: Sequence[Model],
    document: Located,
    environ: Mapping[str, str],
    reachable: Callable[[str], bool],
    lacking: Callable[[str], str | None],
) -> tuple[list[Model], dict[str, str], dict[str, str]]:
    """The models that are there, why each other one is left out, and what is wrong with some that are there.

    Left out is an optional one that cannot be asked. One that is not optional is there all the same, and the last says
    of it, by its name, what whoever asks it has to be told.

    An embedded model that is optional must not be ``lacking`` anything. Any other needs the key that it names; an
    optional one that names no key needs a server that answers at its ``api_base``, where it has one.
    """
    there: list[Model] = []
    missing: dict[str, str] = {}
    unready: dict[str, str] = {}
    for model in models:
        reason = None
        if model.embedded:
            reason = lacking(model.model) if model.optional else None
        elif model.api_key_env is not None and not environ.get(model.api_key_env):
            reason = f"the environment variable {model.api_key_env} is not set"
        elif model.optional and model.api_key_env is None and model.api_base and not reachable(model.api_base):
            reason = f"nothing answers at {model.api_base}"
        if reason is not None and model.optional:
            missing[model.name] = reason
            continue
        there.append(model)
        place = f"{document.file}:{document.line(('models', model.name, 'api_key_env'))}: model {model.name}"
        if reason is not None:
            unready[model.name] = f"{place}: {reason}; set it, or add 'optional: true' to the model"
        elif model.api_key_env is not None and not _fits_a_header(environ.get(model.api_key_env, "")):
            unready[model.name] = (
                f"{place}: the environment variable {model.api_key_env} holds a line break or another character that "
                "no request can carry; set it to the key alone"
            )
    return there, missing, unready


def _fits_a_header(key: str) -> bool:
    """Else no request leaves this machine, and the provider's address would be blamed for it."""
    return key.isascii() and key.isprintable()
