"""What a run was asked for, in Airflow or without it, and the pytest command lines that follow from it.

Whatever comes from a trigger form or over the network passes through :data:`PARAMS`, a closed JSON schema by name, and
reaches pytest as one element of an argument list, never a shell and never a path outside the project.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..settings import ACCOUNT, absolute_uri, artifact_root, as_names
from ..tracking.address import check_takes_candidates, redacted
from ..tracking.store import TrackingStore
from .suites import END, PATH, find_evals

DAG_ID = "bench_collect"
RUN_TAG = "airflow.run_id"
"""MLflow tag that says which run of the DAG wrote a candidate."""
MAX_SHARDS = 64
_NOT_FOR_PYTEST = ("AIRFLOW", "_AIRFLOW", "PYTEST_", "PROMPTBENCH_API_", "PROMPTBENCH_AIRFLOW_", ACCOUNT)

_TOLERANCE = rf"^[A-Za-z_][A-Za-z0-9_]{{0,99}}:[0-9]{{1,6}}(\.[0-9]{{1,6}})?%?{END}"
_BASELINE = rf"^({PATH[1 : -len(END)]})?{END}"
_EXPRESSION = rf"^(?!-)[^\x00-\x1f\x7f]{{0,500}}{END}"
_EXPERIMENT = rf"^([A-Za-z0-9][A-Za-z0-9 _.:@+-]{{0,199}})?{END}"
_NAME = rf"^[^\[\],\x00-\x1f\x7f]{{1,100}}{END}"


def _names(what: str) -> dict[str, Any]:
    return {
        "default": [],
        "type": "array",
        "items": {"type": "string", "pattern": _NAME},
        "maxItems": 100,
        "description": f"only these {what}; empty: all of the suite",
    }


PARAMS: Mapping[str, Mapping[str, Any]] = {
    "suite": {
        "default": "evals/",
        "type": "string",
        "pattern": PATH,
        "description": "a suite file, a test file or a folder with evals, relative to the project",
    },
    "models": _names("models"),
    "prompts": _names("prompt versions"),
    "k": {
        "default": None,
        "type": ["string", "null"],
        "pattern": _EXPRESSION,
        "description": "pytest's -k expression over test ids, such as: haiku and not v1",
    },
    "experiment": {
        "default": None,
        "type": ["string", "null"],
        "pattern": _EXPERIMENT,
        "description": "MLflow experiment; empty: bench-<day of the run>",
    },
    "shards": {
        "default": 1,
        "type": "integer",
        "minimum": 1,
        "maximum": MAX_SHARDS,
        "description": "pytest processes that share the cells, each a task of its own",
    },
    "concurrency": {
        "default": 16,
        "type": "integer",
        "minimum": 1,
        "maximum": 1000,
        "description": "requests in flight: of each shard in Airflow, of the whole run without it",
    },
    "judge": {
        "default": "sit-down",
        "type": "string",
        "enum": ["auto", "sit-down", "both"],
        "description": "auto: the suite's judge model; sit-down: a packet for a person or Claude Code; both: in turn",
    },
    "wait": {
        "default": "verdicts",
        "type": "string",
        "enum": ["verdicts", "approval"],
        "description": "what ends the wait for a sit-down judge: the last verdict, or a person's approval in Airflow",
    },
    "timeout": {
        "default": 1440,
        "type": "integer",
        "minimum": 1,
        "maximum": 43200,
        "description": "longest wait for the sit-down judge, in minutes; then the run fails",
    },
    "baseline": {
        "default": None,
        "type": ["string", "null"],
        "pattern": _BASELINE,
        "description": "baseline file, relative to the project, such as evals/baseline.json; empty: no comparison",
    },
    "tolerances": {
        "default": [],
        "type": "array",
        "items": {"type": "string", "pattern": _TOLERANCE},
        "maxItems": 50,
        "description": "how far a mean may fall below the baseline, such as composite:5%; empty: the plugin's default",
    },
    "strict": {
        "default": False,
        "type": "boolean",
        "description": "an inconclusive comparison fails the run too",
    },
    "max_cost": {
        "default": None,
        "type": ["number", "null"],
        "minimum": 0,
        "maximum": 100000,
        "description": "US dollars for collect, all shards together, and again for the judge model; empty: no limit",
    },
    "allow_unpriced": {
        "default": False,
        "type": "boolean",
        "description": "with max_cost: allow models of unknown price, uncounted",
    },
}
"""Name -> JSON schema of a value, with its default. The same names are the only keys of ``dag_run.conf``."""


_PATH_IN_WORDS = (
    "a path below the project as GET /api/bench/suites lists them, with forward slashes and at most 1,000 characters; "
    "it begins with none of - . / @ ~ and holds no .. :: [ backslash, control character or mark of a shell's"
)
IN_WORDS: Mapping[str, str] = {
    PATH: _PATH_IN_WORDS,
    _BASELINE: f"{_PATH_IN_WORDS}; or nothing, for no comparison",
    _NAME: "a name of 1 to 100 characters, without brackets, commas and control characters",
    _EXPRESSION: "at most 500 characters, none of them a control character, and no - at the beginning",
    _EXPERIMENT: "at most 200 of A to Z, a to z, 0 to 9, blank and _.:@+-, a letter or digit first",
    _TOLERANCE: "a criterion, a colon and a number, such as composite:0.5 or composite:5%",
}
"""Pattern of :data:`PARAMS` -> what it allows, for whoever wrote something else."""


def unknown_keys(conf: Mapping[str, Any] | None) -> list[str]:
    """The keys of a configuration that no parameter has; Airflow itself ignores them without a word."""
    return sorted(str(k) for k in conf or {} if k not in PARAMS)


def check_gate(baseline: str | None, tolerances: Iterable[str], *, strict: bool) -> None:
    """UsageError where it is said how to compare, and not with what: the run would pass without a gate."""
    said = [*(["tolerances"] if list(tolerances) else []), *(["strict"] if strict else [])]
    if said and not baseline:
        raise UsageError(
            f"{' and '.join(said)}: no baseline is named, so nothing would be compared; name one, such as "
            "evals/baseline.json"
        )


def default_experiment(day: str) -> str:
    """The MLflow experiment of a run that names none. ``day``: YYYY-MM-DD, in UTC."""
    return f"bench-{day}"


def slug(text: str) -> str:
    """A file name that stands for a text, readable, and different for different texts."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:60]
    return f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One run of the DAG, or of the same without Airflow. Its fields are the parameters of :data:`PARAMS`.

    ``timeout`` is in minutes. ``folder`` is where the run's reports go, relative to the project. ``tests`` are what
    pytest is given for ``suite``: see :meth:`Project.prepared`.
    """

    run_id: str
    folder: str
    experiment: str
    suite: str
    models: tuple[str, ...]
    prompts: tuple[str, ...]
    k: str
    shards: int
    concurrency: int
    judge: str
    wait: str
    timeout: int
    baseline: str
    tolerances: tuple[str, ...]
    strict: bool
    max_cost: float | None
    allow_unpriced: bool
    tests: tuple[str, ...] = ()

    @classmethod
    def of(cls, params: Mapping[str, Any], *, run_id: str, day: str, folder: str | None = None) -> Request:
        """From parameters that the schema has checked. ``day``: YYYY-MM-DD, the same for every task of the run."""
        given = {name: params.get(name, schema["default"]) for name, schema in PARAMS.items()}
        given["experiment"] = given["experiment"] or default_experiment(day)
        for name in ("k", "baseline"):
            given[name] = given[name] or ""
        for name in ("shards", "concurrency", "timeout"):
            given[name] = int(given[name])  # 2.0 is an integer to JSON's schema
        for name in ("models", "prompts", "tolerances"):
            given[name] = tuple(given[name])
        return cls(run_id=run_id, folder=folder or f".promptbench/airflow/{slug(run_id)}", **given)

    @property
    def sits_down(self) -> bool:
        return self.judge in ("sit-down", "both")

    @property
    def automatic(self) -> bool:
        return self.judge in ("auto", "both")

    @property
    def packet(self) -> str:
        """Where this run's judge packet goes, relative to the project; of several, the folder is the same."""
        return f".promptbench/packets/{slug(self.run_id)}/packet.json"

    def shard_names(self) -> list[str]:
        """``1/3``, ``2/3``, ``3/3``."""
        return [f"{i}/{self.shards}" for i in range(1, self.shards + 1)]

    def look(self) -> list[str]:
        """Everything that the run will be asked for, of a session that runs no test: it ends with what is a mistake."""
        judge = ["--judge-auto"] if self.automatic else []
        return [*self._selection(f"{self.folder}/plan"), *self._gate, *judge, "--collect-only", "-qq"]

    def collect(self, shard: str) -> list[str]:
        """Generate one shard. The limit of the cost is divided, as each pytest knows only of itself."""
        report = f"{self.folder}/shard-{shard.partition('/')[0]}"
        share = None if self.max_cost is None else self.max_cost / self.shards
        return [*self._generating(report, share), f"--bench-shard={shard}"]

    def collect_at_once(self) -> list[str]:
        """Generate everything in one session, whose xdist workers the shards are."""
        workers = [f"--numprocesses={self.shards}"] if self.shards > 1 else []
        return [*self._generating(f"{self.folder}/collect", self.max_cost), *workers]

    def judge_automatically(self) -> list[str]:
        """Have the suite's judge score what is logged. No cell is generated, whatever collect has left out."""
        return [*self._reading(f"{self.folder}/judge"), *self._limits(self.max_cost), "--judge-auto"]

    def export(self) -> list[str]:
        """Every pending candidate of the experiment: a packet is not narrowed to some cells."""
        return [*self._targets, f"--bench-experiment={self.experiment}", f"--judge-export={self.packet}"]

    def compare(self) -> list[str]:
        """Leaderboard and gate of what is logged; asks no provider."""
        return [*self._reading(f"{self.folder}/report"), *self._gate]

    @property
    def _gate(self) -> list[str]:
        if not self.baseline:
            return []
        gate = [f"--bench-compare={self.baseline}", *(f"--bench-compare-fail={t}" for t in self.tolerances)]
        return [*gate, "--bench-strict"] if self.strict else gate

    @property
    def _targets(self) -> tuple[str, ...]:
        return self.tests or (self.suite,)

    def _selection(self, report: str) -> list[str]:
        return [
            *self._targets,
            *(["-k", self.k] if self.k.strip() else []),
            *([f"--bench-models={as_names(self.models)}"] if self.models else []),
            *([f"--bench-prompts={as_names(self.prompts)}"] if self.prompts else []),
            f"--bench-experiment={self.experiment}",
            f"--bench-report={report}",
        ]

    def _generating(self, report: str, max_cost: float | None) -> list[str]:
        return [*self._selection(report), f"--bench-tag={RUN_TAG}={self.run_id}", *self._limits(max_cost)]

    def _reading(self, report: str) -> list[str]:
        return [*self._selection(report), "--bench-read"]

    def _limits(self, max_cost: float | None) -> list[str]:
        return [
            f"--bench-concurrency={self.concurrency}",
            *([] if max_cost is None else [f"--bench-max-cost={max_cost:.6f}"]),
            *(["--bench-allow-unpriced"] if self.allow_unpriced and max_cost is not None else []),
        ]


@dataclass(frozen=True, kw_only=True)
class Project:
    """Where evals live on this host, what interpreter runs them, and which MLflow keeps them."""

    root: Path
    python: Path
    tracking_uri: str

    @property
    def artifact_root(self) -> Path | None:
        return artifact_root(self.tracking_uri, self.root)

    @property
    def keepable_uri(self) -> str | None:
        """The address of MLflow for what keeps it as it is, as Airflow's database does; None if it has a password."""
        return self.tracking_uri if redacted(self.tracking_uri) == self.tracking_uri else None

    def store(self) -> TrackingStore:
        """The MLflow of the project, not opened yet."""
        return TrackingStore(self.tracking_uri, artifact_root=self.artifact_root)

    def command(self, arguments: Iterable[str]) -> list[str]:
        return [str(self.python), "-m", "pytest", f"--rootdir={self.root}", *arguments]

    def environment(self, environ: Mapping[str, str], *, account: str | None = None) -> dict[str, str]:
        """An environment without what is Airflow's or the service's own, and what would steer pytest from outside.

        ``account``: processes that have it in common have one limit of the cost together, as the tries of a task do.
        """
        kept = {k: v for k, v in environ.items() if not k.startswith(_NOT_FOR_PYTEST)}
        kept |= {"MLFLOW_TRACKING_URI": self.tracking_uri, "PYTHONUNBUFFERED": "1"}
        return kept if account is None else {**kept, ACCOUNT: account}

    def prepared(self, request: Request) -> Request:
        """The request with its tests: of a suite file, those alone that name it.

        UsageError where this host cannot run it: a file that is not there, a suite whose tests cannot be told; and
        for a gate without a baseline.
        """
        check_gate(request.baseline, request.tolerances, strict=request.strict)
        for name in ("suite", "baseline"):
            value = getattr(request, name)
            if value and not (self.root / value).exists():
                raise UsageError(f"{name}: {value} does not exist below {self.root}")
        is_suite = Path(request.suite).suffix in (".yaml", ".yml")
        return replace(request, tests=find_evals(self.root).tests_of(request.suite) if is_suite else (request.suite,))


def project(setting: Mapping[str, str | None]) -> Project:
    """From the settings PROMPTBENCH_ROOT, PROMPTBENCH_PYTHON and MLFLOW_TRACKING_URI, all needed. UsageError."""
    for name in SETTINGS:
        if not setting.get(name):
            raise UsageError(
                f"{name} is not set on this host: {SETTINGS[name]}. Set it in the environment of the workers, or as an "
                f"Airflow Variable of the same name"
            )
    root, python = Path(str(setting["PROMPTBENCH_ROOT"])), Path(str(setting["PROMPTBENCH_PYTHON"]))
    if not root.is_absolute() or not root.is_dir():
        raise UsageError(f"PROMPTBENCH_ROOT is {root}, which is no absolute path of a folder on this host")
    if not python.is_absolute() or not python.is_file():
        raise UsageError(f"PROMPTBENCH_PYTHON is {python}, which is no absolute path of an interpreter on this host")
    uri = absolute_uri(str(setting["MLFLOW_TRACKING_URI"]), root)
    check_takes_candidates(uri)
    return Project(root=root, python=python, tracking_uri=uri)


SETTINGS: Mapping[str, str] = {
    "PROMPTBENCH_ROOT": "the absolute path of the project with its evals/",
    "PROMPTBENCH_PYTHON": "the absolute path of the project's own interpreter, which has pytest-promptbench",
    "MLFLOW_TRACKING_URI": "the tracking server that all shards log to; on one host, sqlite:///mlflow.db will do",
}
