"""From arguments to a loop that can be run: its plan, new or as it was kept, its suite, its store, its folder."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..catalog import Choice, load_suite, model_place
from ..catalog.models import find_models, load_models
from ..catalog.suite import prompt_folder
from ..clock import utc_now
from ..completer import LiteLLMCompleter, Redactor, no_provider, without_provider
from ..errors import ScorerError, UsageError
from ..files import try_folder
from ..grid import select
from ..localmodels import installed, lacking
from ..promotion import Policy, parse_bound
from ..records import Model, Prompt, Suite
from ..scorers import load_scorers
from ..session import where
from ..settings import Identity, Settings, as_names, file_above, names_in, resolve
from ..tracking.address import check_takes_candidates
from ..tracking.registry import PromptRegistry, Registered
from ..tracking.rounds import Rounds
from ..tracking.store import TrackingStore
from . import plan as plans
from . import splits
from .plan import NO_PROMOTION, JudgedBy, Plan
from .prices import everyone
from .prompts import origin
from .root import project_root

ROUNDS = 8
CONCURRENCY = 16


@dataclass(frozen=True, kw_only=True)
class Job:
    """A loop about to run. ``champion``: the reigning one, where the loop is to promote; ``warnings``: to be said.

    ``earlier``: the task's loops that a new one's split goes by; ``rounds``: None as long as it is not in MLflow.
    """

    plan: Plan
    suite: Suite
    settings: Settings
    store: TrackingStore
    folder: Path
    prompts: Path
    champion: Registered | None = None
    rounds: Rounds | None = None
    earlier: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def rivals(self) -> int:
        """How many prompts the final comparison has: start, winner, and a champion that is another."""
        return 2 if self.champion is None or self.champion.sha256 == self.plan.base.sha256 else 3

    @property
    def policy(self) -> Policy | None:
        return None if self.plan.promote_policy == NO_PROMOTION else Policy(self.plan.promote_policy)

    @property
    def resume(self) -> str:
        """The command that goes on with the loop from here."""
        found = project_root(Path.cwd(), cwd=Path.cwd())
        elsewhere = "" if found == self.settings.root else f" --root {shlex.quote(str(self.settings.root))}"
        return f"promptbench optimize --resume {self.plan.id}{elsewhere}"


def make_job(args: argparse.Namespace) -> Job:
    """UsageError, CatalogError."""
    start = _absolute(args.suite).parent if args.suite is not None and not args.resume else Path.cwd()
    root = _absolute(args.root) if args.root else project_root(start, cwd=Path.cwd())
    job = _resumed(args, root) if args.resume else _new(args, root)
    missing = next((why for m in everyone(job.plan, job.suite) if m.embedded and (why := installed(m.model))), None)
    if missing:
        raise UsageError(missing)
    stranger = without_provider(everyone(job.plan, job.suite))
    if stranger is not None:
        place = model_place(Path(job.suite.path), root, stranger.name)
        raise UsageError(f"{place}: {no_provider(stranger)}")
    try:
        load_scorers(job.suite.rubric)
    except ScorerError as error:
        raise UsageError(Redactor(job.suite.models, os.environ)(str(error))) from None
    _check_prices(job.plan, job.suite)
    _check_folder(job)
    return job


# -- a new loop


def _new(args: argparse.Namespace, root: Path) -> Job:
    if args.suite is None:
        raise UsageError("optimize: name a suite, as in  promptbench optimize evals/tips.yaml")
    path = _below(root, _absolute(args.suite))
    if path is None:
        raise UsageError(f"optimize: {args.suite} is not below the project's root {root}; name that with --root")
    suite = _suite(path, root, names_in(args.models) if args.models else None)
    judged_by = _judged_by(args, suite)
    policy = _policy(args, judged_by)
    for text in args.promote_within or ():
        parse_bound(text, option="--promote-within")
    loop = plans.new_id()
    settings = _settings(args, root, loop, args.max_cost)
    store = where(settings).store()
    folder = _prompts(suite, root)
    champion = PromptRegistry(store).champion(suite.task)
    base = _base(args, suite, store, champion)
    if not plans.components(base):
        raise UsageError(
            f"{suite.path}: {base.version} has no text of its own to improve, only the scenarios' messages"
        )
    read = {p.sha256 for p in (base, *suite.prompts)}
    if champion is not None and policy != NO_PROMOTION and champion.sha256 not in read:
        opponent = PromptRegistry(store).text(suite.task, champion)
        plans.check_filled(opponent, suite, remedy="give it to them, or promote none: --no-promote")
    earlier = Rounds.begun(store, suite.task)
    split = splits.choose(
        [s.id for s in suite.scenarios], earlier, seed=args.seed, anew=bool(args.new_split), task=suite.task
    )
    warnings = splits.check_start(base, split, earlier, lambda version: origin(folder, version))
    plan = plans.make_plan(
        loop=loop,
        base=base,
        split=split,
        judged_by=judged_by,
        rounds=args.rounds or ROUNDS,
        patience=args.patience,
        suite=path.relative_to(root).as_posix(),
        models=tuple(m.name for m in suite.models),
        proposer=_proposer(args, suite, path, root),
        max_cost_usd=args.max_cost,
        allow_unpriced=bool(args.allow_unpriced),
        early_stopping=not args.no_early_stopping,
        promote_policy=policy,
        promote_within=tuple(args.promote_within or ()),
        report=_kept_folder(args.report, root),
        suite_sha256=plans.fingerprint(suite),
        created_at=utc_now(),
    )
    return Job(
        plan=plan, suite=suite, settings=settings, store=store, folder=_report_folder(plan, root), prompts=folder,
        champion=None if policy == NO_PROMOTION else champion, earlier=tuple(b.loop for b in earlier),
        warnings=tuple(warnings),
    )  # fmt: skip


def _suite(path: Path, root: Path, models: Sequence[str] | None) -> Suite:
    suite = load_suite(path, root=root, environ=os.environ, lacking=lacking, choice=Choice(only_models=models))
    try:
        return select(suite, models, None)
    except UsageError as error:
        raise UsageError(str(error).replace("--bench-models", "--models")) from None


def _judged_by(args: argparse.Namespace, suite: Suite) -> JudgedBy:
    """Who scores: programs where they fill all of the rubric. UsageError where nobody is there to."""
    asked = JudgedBy(args.judge or JudgedBy.AUTO)
    if not suite.rubric.judged:
        if asked is JudgedBy.AUTO:
            return JudgedBy.CHECKS
        raise UsageError(
            f"--judge {asked.value}: programs fill all of the rubric {suite.rubric.id}, so there is nothing for a "
            "judge: leave it out"
        )
    if asked is not JudgedBy.AUTO or suite.judge is not None:
        return asked
    left_out = next(iter(suite.judge_skipped.values()), "name one: judge: {model: haiku}")
    raise UsageError(f"{args.suite}: --judge auto needs the suite's automatic judge: {left_out}; or --judge sit-down")


_POLICIES: Mapping[JudgedBy, tuple[Sequence[Policy], str]] = {
    JudgedBy.AUTO: (list(Policy), ""),
    JudgedBy.SIT_DOWN: (
        [Policy.SIT_DOWN],
        "the automatic judge's scores, and with --judge sit-down there are none: leave it out, or --judge auto",
    ),
    JudgedBy.CHECKS: (
        [Policy.AUTO],
        "a sit-down judge's scores, and programs alone score by this rubric: leave it out",
    ),
}
"""The gates that are possible by who judges, the default first, and what another one asks for in vain."""


def _policy(args: argparse.Namespace, judged_by: JudgedBy) -> str:
    if args.no_promote and args.promote_policy:
        raise UsageError("--no-promote and --promote-policy exclude each other: give one of them")
    if args.no_promote:
        return NO_PROMOTION
    possible, why_not = _POLICIES[judged_by]
    policy = Policy(args.promote_policy or possible[0])
    if policy not in possible:
        raise UsageError(f"--promote-policy {policy.value} asks for {why_not}")
    return policy.value


def _base(args: argparse.Namespace, suite: Suite, store: TrackingStore, champion: Registered | None) -> Prompt:
    by_version = {p.version: p for p in suite.prompts}
    if args.base is not None:
        if args.base not in by_version:
            raise UsageError(f"--from {args.base}: {suite.path} has no such prompt; there are: {', '.join(by_version)}")
        return by_version[args.base]
    if champion is not None:
        found = next((p for p in suite.prompts if p.sha256 == champion.sha256), None)
        return found or _registered(suite, store, champion)
    if len(by_version) == 1:
        return suite.prompts[0]
    raise UsageError(f"{suite.task} has no champion yet; name a start with --from: {', '.join(by_version)}")


def _registered(suite: Suite, store: TrackingStore, champion: Registered) -> Prompt:
    """The champion's text from the registry, where no file of the suite has it."""
    prompt = PromptRegistry(store).text(suite.task, champion)
    plans.check_filled(prompt, suite, remedy="name another start with --from")
    return prompt


def _proposer(args: argparse.Namespace, suite: Suite, path: Path, root: Path) -> Model:
    if args.proposer is None:
        return suite.judge or suite.models[0]
    known = {m.name: m for m in load_models(find_models(path, root))}
    if args.proposer not in known:
        raise UsageError(f"--proposer {args.proposer}: models.yaml has no such model; it has: {', '.join(known)}")
    return _with_key(known[args.proposer])


def _with_key(model: Model) -> Model:
    if not model.embedded and model.api_key_env and not os.environ.get(model.api_key_env):
        raise UsageError(f"--proposer {model.name}: the environment variable {model.api_key_env} is not set")
    return model


# -- a loop that goes on


def _resumed(args: argparse.Namespace, root: Path) -> Job:
    loop = args.resume
    if not (loop.isascii() and loop.isalnum()):
        raise UsageError(f"--resume {loop!r}: expected a loop's id, as it was printed at its start")
    if args.suite is not None:
        raise UsageError("--resume goes on with the suite that the loop began with: leave the suite out")
    store = where(_settings(args, root, loop, None)).store()
    if not store.exists:
        raise UsageError(f"--resume {loop}: there is no {store.uri.removeprefix('sqlite:///')}; name the root, --root")
    rounds = Rounds.find(store, loop)
    plan = Plan.from_json(rounds.plan())
    _check_options(args, plan)
    plan = replace(
        plan,
        max_cost_usd=args.max_cost or plan.max_cost_usd,
        allow_unpriced=bool(args.allow_unpriced) or plan.allow_unpriced,
        report=_kept_folder(args.report, root) or plan.report,
    )
    suite = _suite(root / plan.suite, root, plan.models)
    if plans.fingerprint(suite) != plan.suite_sha256:
        raise UsageError(
            f"--resume {loop}: {plan.suite}, its models, its judge or its rubric have changed since the loop began, so "
            "old and new scores would not be of the same thing; begin a new loop"
        )
    _with_key(plan.proposer)
    champion = None if plan.promote_policy == NO_PROMOTION else PromptRegistry(store).champion(plan.task)
    return Job(
        plan=plan, suite=suite, settings=_settings(args, root, loop, plan.max_cost_usd), store=store,
        folder=_report_folder(plan, root), prompts=_prompts(suite, root), champion=champion, rounds=rounds,
    )  # fmt: skip


def _check_options(args: argparse.Namespace, plan: Plan) -> None:
    """A loop keeps to what it began with. UsageError for an option that says something else."""
    promotes = plan.promote_policy != NO_PROMOTION
    given_and_kept: Mapping[str, tuple[Any, Any]] = {
        "--from": (args.base, plan.base.version),
        "--rounds": (args.rounds, plan.rounds),
        "--patience": (args.patience, plan.patience),
        "--proposer": (args.proposer, plan.proposer.name),
        "--models": (args.models, as_names(plan.models)),
        "--judge": (args.judge, plan.judged_by.option),
        "--seed": (args.seed, plan.seed),
        "--new-split": (args.new_split, None),
        "--no-early-stopping": (args.no_early_stopping, not plan.early_stopping),
        "--no-promote": (args.no_promote, not promotes),
        "--promote-policy": (args.promote_policy, plan.promote_policy),
        "--promote-within": (args.promote_within, list(plan.promote_within)),
    }
    for option, (given, kept) in given_and_kept.items():
        if given is not None and given != kept:
            shown = "" if given is True else f" {','.join(given) if isinstance(given, list) else given}"
            nothing = kept is None or kept is False or kept == []  # 0, which equals False, is something
            before = "" if nothing else f"; it began with {kept}"
            raise UsageError(
                f"--resume {plan.id}: {option}{shown} is not what the loop began with{before}: leave it out, or begin "
                "a new loop"
            )


# -- both


def _settings(args: argparse.Namespace, root: Path, loop: str, max_cost: float | None) -> Settings:
    """The loop is its own session, the same one each time it is resumed, so that its costs add up."""
    given = {"bench_concurrency": args.concurrency or CONCURRENCY, "bench_max_cost": max_cost}
    identity = replace(Identity.new(), session=f"optimize-{loop}")
    settings = resolve(given.get, root=root, cwd=Path.cwd(), identity=identity)
    check_takes_candidates(settings.tracking_uri)
    return settings


def _check_prices(plan: Plan, suite: Suite) -> None:
    if plan.max_cost_usd is None or plan.allow_unpriced:
        return
    models = everyone(plan, suite)
    completer = LiteLLMCompleter(models)
    unknown = sorted({m.name for m in models if not completer.is_priced(m)})
    if unknown:
        raise UsageError(
            f"--max-cost needs to know prices, and LiteLLM has none for {', '.join(unknown)}; leave them out with "
            "--models, or accept it with --allow-unpriced"
        )


def _absolute(path: Path) -> Path:
    """Without ``..``, so that what is below the root is known to be."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links out of the root


def _below(root: Path, path: Path) -> Path | None:
    """A file by its name below the root, also where the one is named by way of a link and the other is not.

    A shell's ``$PWD`` names a link that it came by, and what is relative is found from where that leads.
    """
    if path.is_relative_to(root):
        return path
    file, real = path.parent.resolve() / path.name, root.resolve()
    return root / file.relative_to(real) if file.is_relative_to(real) else None


def _prompts(suite: Suite, root: Path) -> Path:
    folder = prompt_folder(Path(suite.path), root, suite.task)
    assert folder is not None  # the suite was loaded from it
    return folder


def _kept_folder(report: Path | None, root: Path) -> str:
    if report is None:
        return ""
    path = _absolute(report)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _report_folder(plan: Plan, root: Path) -> Path:
    return root / plan.report if plan.report else root / ".promptbench" / "optimize" / plan.id


def check_places(job: Job) -> None:
    """Try the folders that reports and a winner are written to, which is when all is paid for. OSError names one."""
    for folder in (job.folder, job.prompts):
        try:
            try_folder(folder)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(folder)) from None


def _check_folder(job: Job) -> None:
    """Reports of two loops in one folder would pass for one another's."""
    file = job.folder if job.folder.is_file() else file_above(job.folder)
    if file is not None:
        raise UsageError(f"--report {job.folder}: {file} is a file, not a folder")
    try:
        there = json.loads((job.folder / "result.json").read_text(encoding="utf-8"))["plan"]["id"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if there != job.plan.id:
        raise UsageError(f"--report {job.folder}: the reports of loop {there} are there; name another folder")
