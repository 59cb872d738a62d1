"""What a session was asked to do, resolved once: command line over marker over ini over default."""

from __future__ import annotations

import argparse
import csv
import datetime
import io
import os
import posixpath
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import UsageError
from .records import Record

HOME = ".promptbench"
DEFAULT_BASELINE = "evals/baseline.json"
LONGEST_EXPERIMENT = 500
LONGEST_TAG_KEY = 250
TAG_LIMIT = 8000
"""So many characters fit into a tag's value in MLflow."""


@dataclass(frozen=True, kw_only=True)
class Identity(Record):
    """What all processes of one session share, decided by the first of them."""

    session: str
    today: str
    workers: int = 1

    def folder(self, root: Path) -> Path:
        """What they share on disk while the session runs; made when the first eval is about to run."""
        return root / HOME / "sessions" / self.session

    @classmethod
    def new(cls, *, workers: int = 1) -> Identity:
        """Sessions sort by when they began, wherever: which candidates and rubrics are the newest hangs on that."""
        now = datetime.datetime.now().astimezone()
        begun = now.astimezone(datetime.UTC)
        session = f"{begun:%Y%m%dT%H%M%S}{begun.microsecond // 1000:03d}-{secrets.token_hex(3)}"
        return cls(session=session, today=now.date().isoformat(), workers=workers)


ACCOUNT = "PROMPTBENCH_ACCOUNT"
"""Environment variable of who starts a session again: what all sessions of one value spend counts as one's."""

STEPS = {
    "judge_export": "judge_export",
    "judge_apply": "judge_apply",
    "judge_queue": "judge_queue",
    "judge_collect": "judge_collect",
    "bench_read": "read",
    "bench_promote": "promote",
    "bench_rollback": "rollback",
    "bench_self_test": "self_test",
}
"""Options that have a session do something else than run tests -> what :class:`Settings` calls them."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One session's choices. Paths are absolute; None means "not asked for"."""

    root: Path
    identity: Identity
    cwd: Path = Path("/")
    found_by: tuple[str, ...] = ()
    """pytest's own options that say which project this is: who goes on with another command has to give them too."""
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
    account: str | None = None
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
        return self.identity.folder(self.root)

    @property
    def runs_tests(self) -> bool:
        """Whether this session runs tests; else it works on what earlier ones have left."""
        return all(getattr(self, name) is None for name in STEPS.values())

    @property
    def artifact_root(self) -> Path | None:
        return artifact_root(self.tracking_uri, self.root)

    def experiment_of(self, task: str, marker: str | None = None) -> str:
        """The MLflow experiment of a task: as named on the command line, else by the marker, else by the day.

        UsageError for a name that MLflow would not take.
        """
        name = self.experiment or marker or f"{task}-bench-{self.identity.today}"
        if len(name) > LONGEST_EXPERIMENT:
            raise UsageError(
                f"the experiment's name {name[:40]!r}... has {len(name)} characters; MLflow takes {LONGEST_EXPERIMENT}"
            )
        return name


def resolve(
    option: Callable[[str], Any],
    *,
    root: Path,
    cwd: Path,
    identity: Identity,
    given: Callable[[str], bool] = lambda _: True,
    found_by: Sequence[str] = (),
    worker: int = 0,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Settings from ``option(name)``, which gives the command line's value, else the ini's, else None.

    ``given(name)`` says whether it is the command line's. What the ini says waits until it is of use: a step on the
    command line goes over another in the ini, and an option that only modifies a step is ignored without that step. On
    the command line each of these is a mistake. Raises UsageError for values that cannot be used.
    """

    def path(name: str, default: str = "") -> Path | None:
        value = option(name)
        if value == "":
            return root / default
        return None if value is None else (cwd / value).absolute()

    def names(name: str) -> tuple[str, ...] | None:
        value = option(name)
        found = names_in(value or "")
        if value and not found:
            raise UsageError(f"{_flag(name)} {value!r} names nothing; expected names with commas between them")
        return found or None

    chosen = _step(option, given)
    exports, judges = chosen == "judge_export", chosen in (None, "bench_read")

    def step(name: str) -> Any:
        return option(name) if name == chosen else None

    report = path("bench_report", f"{HOME}/report") or root / HOME / "report"  # empty, as of an unset variable: default
    if option("bench_report") and (file := report if report.is_file() else file_above(report)) is not None:
        raise UsageError(f"--bench-report {report}: {file} is a file, not a folder")
    shard = option("bench_shard")
    return Settings(
        root=root,
        identity=identity,
        cwd=cwd,
        found_by=tuple(found_by),
        worker=worker,
        experiment=option("bench_experiment"),
        models=names("bench_models"),
        prompts=names("bench_prompts"),
        tags=dict(_tag(t) for t in option("bench_tag") or ()),
        concurrency=option("bench_concurrency") or 16,
        use_cache=not option("bench_no_cache"),
        report=report,
        save=path("bench_save", DEFAULT_BASELINE),
        compare=path("bench_compare", DEFAULT_BASELINE),
        compare_fail=tuple(option("bench_compare_fail") or ()),
        strict=bool(option("bench_strict")),
        shard=parse_shard(shard) if shard else None,
        max_cost_usd=option("bench_max_cost"),
        account=environ.get(ACCOUNT) or None,
        allow_unpriced=bool(option("bench_allow_unpriced")),
        judge_export=path("judge_export") if exports else None,
        judge_apply=path("judge_apply") if chosen == "judge_apply" else None,
        judge_queue=step("judge_queue"),
        judge_collect=step("judge_collect"),
        judge_auto=bool(option("judge_auto")) and judges,
        read=step("bench_read"),
        audit=option("judge_audit") if exports else None,
        duplicates=option("judge_duplicates") or 0 if exports else 0,
        self_test=step("bench_self_test"),
        reveal=bool(option("judge_reveal")),
        promote=step("bench_promote"),
        promote_policy=option("bench_promote_policy") or "both",
        promote_within=tuple(option("bench_promote_within") or ()),
        rollback=step("bench_rollback"),
        tracking_uri=_tracking_uri(environ, root=root, cwd=cwd),
    )


_MODIFIERS = {
    "judge_audit": ("judge_export",),
    "judge_duplicates": ("judge_export",),
    "judge_reveal": ("judge_export", "judge_queue"),
    "bench_promote_policy": ("bench_promote",),
    "bench_promote_within": ("bench_promote",),
    "bench_compare_fail": ("bench_compare", "bench_self_test"),
    "bench_strict": ("bench_compare", "bench_self_test"),
}
"""Options that say how a step is done, and the steps that they may belong to."""


def _step(option: Callable[[str], Any], given: Callable[[str], bool]) -> str | None:
    """The step that is asked for, None where tests are to run. UsageError for two, and for options of another."""
    _check_modifiers(option, given)
    steps = [name for name in STEPS if option(name) is not None]
    steps = [name for name in steps if given(name)] or steps
    if len(steps) > 1:
        raise UsageError(f"{' and '.join(map(_flag, steps))} are two steps: give one of them")
    chosen = steps[0] if steps else None
    if given("judge_auto") and option("judge_auto") and chosen not in (None, "bench_read"):
        raise UsageError(
            f"--judge-auto belongs to a session that runs tests, or to --bench-read; {_flag(steps[0])} is neither: "
            "give one of them"
        )
    return chosen


def _check_modifiers(option: Callable[[str], Any], given: Callable[[str], bool]) -> None:
    for name, steps in _MODIFIERS.items():
        if option(name) and given(name) and all(option(step) is None for step in steps):
            wanted = " or ".join(map(_flag, steps))
            raise UsageError(f"{_flag(name)} says how {wanted} is done: give it together with {wanted}")


def file_above(path: Path) -> Path | None:
    """What is no folder among the folders that a path is in; None where it could be written."""
    return next((p for p in path.parents if p.exists() and not p.is_dir()), None)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def names_in(text: str) -> tuple[str, ...]:
    """Names with commas between them; one that holds a comma stands in double quotes, as in a row of CSV."""
    in_a_line = re.sub("[\\r\\n]+", " ", text)  # a configuration file may have a line for each
    return tuple(n.strip() for row in csv.reader([in_a_line], skipinitialspace=True) for n in row if n.strip())


def as_names(names: Iterable[str]) -> str:
    """The text that ``names_in`` reads as these names."""
    row = io.StringIO()
    csv.writer(row, lineterminator="").writerow(names)
    return row.getvalue()


def parse_shard(text: str) -> tuple[int, int]:
    """``I/N`` as numbers, 1-based. UsageError for anything else."""
    index, slash, count = text.partition("/")
    if slash and index.strip().isdecimal() and count.strip().isdecimal() and 1 <= int(index) <= int(count):
        return int(index), int(count)
    raise UsageError(f"--bench-shard {text!r}: expected I/N with 1 <= I <= N, as in 2/4")


def _tag(text: str) -> tuple[str, str]:
    """Key and value. UsageError for what MLflow would refuse, with every run and in every later session, or would cut.

    By the rules of MLflow, whose import takes seconds.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    shown = repr(text) if len(text) <= 100 else f"{text[:40]!r}..."
    if not equals or not key:
        raise UsageError(f"--bench-tag {shown}: expected KEY=VALUE")
    for what, given, most in (("key", key, LONGEST_TAG_KEY), ("value", value, TAG_LIMIT)):
        if len(given) > most:
            raise UsageError(
                f"--bench-tag {shown}: the {what} has {len(given)} characters; MLflow takes {most}: shorten it"
            )
    if key.startswith(("promptbench.", "judge", "rubric", "mlflow.")):
        raise UsageError(f"--bench-tag {shown}: the key {key!r} is one that promptbench or MLflow writes; take another")
    if (
        not re.fullmatch(r"[\w.\- :/]+", key)
        or posixpath.normpath(key) != key
        or key.startswith(("/", ".."))
        or key == "."
    ):
        raise UsageError(
            f"--bench-tag {shown}: MLflow takes no such key; take letters, digits, spaces and _ - . : only, and / as "
            "in a relative path"
        )
    return key, value


def _tracking_uri(environ: Mapping[str, str], *, root: Path, cwd: Path) -> str:
    """MLflow's own choice."""
    uri = environ.get("MLFLOW_TRACKING_URI")
    return absolute_uri(uri, cwd.absolute()) if uri else f"sqlite:///{_in_sqlite_uri(root / 'mlflow.db')}"


def port(text: str) -> int:
    """A TCP port of the command line; 0 for any free one. ArgumentTypeError."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is no port; expected 0 to 65535")
    return int(text)


def artifact_root(tracking_uri: str, root: Path) -> Path | None:
    """Where the MLflow artifacts of a project go; None where a tracking server decides."""
    return None if tracking_uri.startswith(("http:", "https:", "databricks")) else root / "mlartifacts"


def absolute_uri(uri: str, folder: Path) -> str:
    """An MLflow address with a relative SQLite path put below ``folder``, so that all processes mean the same file."""
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        return f"sqlite:///{_in_sqlite_uri(folder) / uri.removeprefix('sqlite:///')}"
    return uri


def _in_sqlite_uri(path: Path) -> Path:
    """A path as it stands in an SQLite address: one like Jenkins' ``feature%2Fx`` would be read as another."""
    text = str(path)
    if not re.search("%[0-9A-Fa-f]{2}|[?]", text) or not sqlite_uris_have_escapes():
        return path
    return Path(text.replace("%", "%25").replace("?", "%3F"))


def sqlite_uris_have_escapes() -> bool:
    """Whether SQLAlchemy, on which MLflow stands, takes ``%20`` for a space in the path of an address: from 2.1 on."""
    from importlib.metadata import version

    return tuple(int(part) for part in version("sqlalchemy").split(".")[:2]) >= (2, 1)
