"""Where a project's root is, by pytest's rules: there ``mlflow.db`` and ``.promptbench/`` are."""

from __future__ import annotations

import configparser
import os
import tomllib
from pathlib import Path

_ALWAYS = ("pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini")
"""Files that make their folder the root, even empty ones."""


def project_root(start: Path, *, cwd: Path) -> Path:
    """The root that ``pytest <start>`` would have, called in ``cwd``. Both are folders, absolute.

    The nearest folder upwards with a pytest configuration; else the nearest with a ``pyproject.toml``; else with a
    ``setup.py``; else what ``start`` and ``cwd`` have in common.
    """
    upwards = (start, *start.parents)
    configured = next((f for f in upwards if _configures(f)), None)
    for name in ("pyproject.toml", "setup.py"):
        configured = configured or next((f for f in upwards if (f / name).is_file()), None)
    if configured is not None:
        return configured
    common = Path(os.path.commonpath([start, cwd]))
    return start if common == Path(common.anchor) else common


def _configures(folder: Path) -> bool:
    if any((folder / name).is_file() for name in _ALWAYS):
        return True
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        if project.get("tool", {}).get("pytest"):
            return True
    except (OSError, ValueError, AttributeError):
        pass
    for name, section in (("tox.ini", "pytest"), ("setup.cfg", "tool:pytest")):
        parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
        try:
            parser.read(folder / name, encoding="utf-8")
        except (configparser.Error, ValueError):
            continue
        if parser.has_section(section):
            return True
    return False
