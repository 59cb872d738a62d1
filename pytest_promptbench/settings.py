"""What a session was asked to do, resolved once: command line over marker over ini over default."""

from __future__ import annotations

import datetime
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import UsageError
from .grid import parse_shard
from .records import Record

HOME = ".promptbench"
DEFAULT_BASELINE = "evals/baseline.json"


@dataclass(frozen=True, kw_only=True)
class Identity(Record):
    """What all processes of one session share, decided by the first of them."""

    session: str
    today: str
    workers: int = 1

    @classmethod
    def new(cls, *, workers: int = 1) -> Identity:
        now = datetime.datetime.now().astimezone()
        return cls(
            session=f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}", today=now.date().isoformat(), workers=max(1, workers)
        )


_INSTEAD_OF_TESTS = {
    "judge_export": "--judge-export",
    "judge_apply": "--judge-apply",
    "judge_queue": "--judge-queue",
    "judge_collect": "--judge-collect",
    "read": "--bench-read",
    "promote": "--bench-promote",
    "rollback": "--bench-rollback",
    "self_test": "--bench-self-test",
}
"""Settings that have a session do something else than run tests, and their options."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One session's choices. Paths are absolute; None means "not asked for"."""

    root: Path
    identity: Identity
    worker: int = 0
    experiment: str | None = None
    models: tuple[str, ...] | None = None
    prompts: tuple[str, ...] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    concurrency: int = 16
    use_cache: bool = True
    report: Path = Path()
    save: Path | None = None
    compare: Path | None = None
    compare_fail: tuple[str, ...] = ()
    strict: bool = False
    shard: tuple[int, int] | None = None
    max_cost_usd: float | None = None
    allow_unpriced: bool = False
    judge_export: Path | None = None
    judge_apply: Path | None = None
    judge_queue: str | None = None
    judge_collect: str | None = None
    judge_auto: bool = False
    read: bool | None = None
    promote: str | None = None
    promote_policy: str = "both"
    promote_within: tuple[str, ...] = ()
    rollback: str | None = None
    audit: int | None = None
    duplicates: int = 0
    self_test: int | None = None
    reveal: bool = False
    tracking_uri: str = ""

    @property
    def home(self) -> Path:
        return self.root / HOME

    @property
    def folder(self) -> Path:
        """What this session's processes share on disk while it runs."""
        return self.home / "sessions" / self.identity.session

    @property
    def runs_tests(self) -> bool:
        """Whether this session runs tests; else it works on what earlier ones have left."""
        return all(getattr(self, name) is None for name in _INSTEAD_OF_TESTS)

    @property
    def artifact_root(self) -> Path | None:
        """Where MLflow artifacts go; None where a tracking server decides."""
        return None if self.tracking_uri.startswith(("http:", "https:", "databricks")) else self.root / "mlartifacts"

    def experiment_of(self, task: str, marker: str | None = None) -> str:
        """The MLflow experiment of a task: as named on the command line, else by the marker, else by the day."""
        return self.experiment or marker or f"{task}-bench-{self.identity.today}"


def resolve(
    option: Callable[[str], Any],
    *,
    root: Path,
    cwd: Path,
    identity: Identity,
    worker: int = 0,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Settings from ``option(name)``, which gives the command line's value, else the ini's, else None.

    Raises UsageError for values that cannot be used.
    """

    def path(name: str, default: str = "") -> Path | None:
        value = option(name)
        if value == "":
            return root / default
        return None if value is None else (cwd / value).absolute()

    def names(name: str) -> tuple[str, ...] | None:
        value = option(name)
        return None if not value else tuple(n.strip() for n in value.split(",") if n.strip())

    shard = option("bench_shard")
    audit = option("judge_audit")
    export, applied = path("judge_export"), path("judge_apply")
    promote = option("bench_promote")
    if promote is None and (option("bench_promote_policy") or option("bench_promote_within")):
        raise UsageError(
            "--bench-promote-policy and --bench-promote-within say how to promote: give --bench-promote TASK"
        )
    duplicates = option("judge_duplicates")
    if option("judge_reveal") and export is None and option("judge_queue") is None:
        raise UsageError(
            "--judge-reveal says what a judge sees: give it together with --judge-export PATH or --judge-queue NAME"
        )
    for name, value in (("--judge-audit", audit), ("--judge-duplicates", duplicates)):
        if value and export is None:
            raise UsageError(f"{name} says what goes into a packet: give it together with --judge-export PATH")
    settings = Settings(
        root=root,
        identity=identity,
        worker=worker,
        experiment=option("bench_experiment"),
        models=names("bench_models"),
        prompts=names("bench_prompts"),
        tags=dict(_tag(t) for t in option("bench_tag") or ()),
        concurrency=option("bench_concurrency") or 16,
        use_cache=not option("bench_no_cache"),
        report=path("bench_report") or root / HOME / "report",
        save=path("bench_save", DEFAULT_BASELINE),
        compare=path("bench_compare", DEFAULT_BASELINE),
        compare_fail=tuple(option("bench_compare_fail") or ()),
        strict=bool(option("bench_strict")),
        shard=parse_shard(shard) if shard else None,
        max_cost_usd=option("bench_max_cost"),
        allow_unpriced=bool(option("bench_allow_unpriced")),
        judge_export=export,
        judge_apply=applied,
        judge_queue=option("judge_queue"),
        judge_collect=option("judge_collect"),
        judge_auto=bool(option("judge_auto")),
        read=option("bench_read") or None,
        audit=audit,
        duplicates=duplicates or 0,
        self_test=option("bench_self_test"),
        reveal=bool(option("judge_reveal")),
        promote=promote,
        promote_policy=option("bench_promote_policy") or "both",
        promote_within=tuple(option("bench_promote_within") or ()),
        rollback=option("bench_rollback"),
        tracking_uri=_tracking_uri(environ, root=root, cwd=cwd),
    )
    steps = [flag for name, flag in _INSTEAD_OF_TESTS.items() if getattr(settings, name) is not None]
    if len(steps) > 1:
        raise UsageError(f"{' and '.join(steps)} are two steps: give one of them")
    if steps and settings.judge_auto and settings.read is None:
        raise UsageError(
            f"--judge-auto belongs to a session that runs tests, or to --bench-read; {steps[0]} is neither: "
            "give one of them"
        )
    return settings


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--bench-tag {text!r}: expected KEY=VALUE")
    if key.startswith(("promptbench.", "judge", "rubric", "mlflow.")):
        raise UsageError(
            f"--bench-tag {text!r}: the key {key!r} is one that promptbench or MLflow writes; take another"
        )
    return key.strip(), value


def _tracking_uri(environ: Mapping[str, str], *, root: Path, cwd: Path) -> str:
    """MLflow's own choice, with a relative SQLite path made absolute so that all processes mean the same file."""
    uri = environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        return f"sqlite:///{(cwd / uri.removeprefix('sqlite:///')).absolute()}"
    return uri
