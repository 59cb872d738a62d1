"""``promptbench optimize``: from arguments to a plan, and from a plan to its end."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..autojudge import asking
from ..catalog import load_suite, placeholders
from ..catalog.models import find_models, load_models
from ..catalog.suite import prompt_folder
from ..completer import LiteLLMCompleter, spare_loopback_from_proxies
from ..errors import TrackingError, UsageError
from ..grid import cells, select
from ..judging import question as judge_question
from ..ledger import Ledger
from ..localmodels import LocalServer, installed
from ..locks import LockFile
from ..promotion import Policy, parse_bound
from ..records import LoggedCandidate, Model, Prompt, Request, Suite
from ..report.text import dollars, plural
from ..session import where
from ..settings import Identity, Settings, resolve
from ..tracking.registry import PromptRegistry
from ..tracking.rounds import Rounds
from ..tracking.store import TrackingStore, utc_now
from . import plan as plans
from .ending import Gate, Outcome, Result, conclude, save, waiting
from .laboratory import Bench, MLflowJournal, UnreachableError, WaitingError
from .plan import JudgedBy, Plan
from .progress import shown
from .report import lines, write_reports
from .search import Search, search

WAITS = 3
"""Exit code of a loop that stopped for a judge."""

Say = Callable[[str], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``promptbench optimize``."""
    parser.add_argument("suite", nargs="?", type=Path, help="evals/<suite>.yaml; not with --resume")
    parser.add_argument("--from", dest="base", metavar="VERSION", help="prompt to start from (the task's champion)")
    parser.add_argument("--rounds", type=_count, default=8, help="proposals at most (%(default)s)")
    parser.add_argument(
        "--patience", type=_count, metavar="N", help="stop after N rounds without a gain (half of --rounds, at least 3)"
    )
    parser.add_argument("--max-cost", type=_money, metavar="USD", help="spend at most so much, the end included")
    parser.add_argument("--allow-unpriced", action="store_true", help="accept --max-cost with models of unknown price")
    parser.add_argument("--proposer", metavar="NAME", help="model of models.yaml that proposes (the suite's judge)")
    parser.add_argument("--models", metavar="A,B", help="only these models of the suite")
    parser.add_argument(
        "--judge", choices=[j.value for j in JudgedBy], default="auto", help="who scores (%(default)s); see docs"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the search (%(default)s)")
    parser.add_argument("--concurrency", type=_count, default=16, metavar="N", help="requests in flight (%(default)s)")
    parser.add_argument("--no-early-stopping", action="store_true", help="try every proposal on all train scenarios")
    parser.add_argument("--no-promote", action="store_true", help="end with the comparison; leave the registry alone")
    parser.add_argument(
        "--promote-policy", choices=[p.value for p in Policy], help="tiers that decide, as --bench-promote-policy"
    )
    parser.add_argument("--promote-within", action="append", default=[], metavar="NAME:FACTOR", help="e.g. cost:1.5x")
    parser.add_argument("--report", type=Path, metavar="DIR", help="where reports go (.promptbench/optimize/<id>)")
    parser.add_argument("--resume", metavar="ID", help="go on with a loop")
    parser.add_argument("--dry-run", action="store_true", help="print the plan, calls and cost; spend nothing")
    parser.add_argument("--root", type=Path, default=Path(), metavar="DIR", help="the project's root (%(default)s)")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1000):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 1000")
    return int(text)


def _money(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount above 0, in US dollars")
    return value


def run(args: argparse.Namespace, say: Say) -> int:
    """0: it ended, whatever the finding; ``WAITS``: a judge is needed; PromptbenchError for what it could not do."""
    root = args.root.absolute()
    job = _resumed(args, root) if args.resume else _new(args, root)
    if args.dry_run:
        for line in _dry(job):
            say(line)
        return 0
    policy = _policy(args, job.plan)
    bounds = dict(parse_bound(text) for text in args.promote_within)
    rounds = job.rounds or Rounds.create(job.store, job.plan.experiment, job.plan.id, job.plan.to_json())
    say(f"loop {job.plan.id} in MLflow experiment {job.plan.experiment}; promptbench optimize --resume {job.plan.id}")
    gate = Gate(
        registry=PromptRegistry(job.store),
        policy=policy,
        bounds=bounds,
        folder=job.folder,
        prompts=_prompt_folder(job.suite, root),
        now=utc_now(),
    )
    result = _go(job, rounds, gate, say)
    for line in lines(result):
        say(line)
    save(result, job.folder)
    files = [*write_reports(result, job.folder, generated_at=utc_now()), job.folder / "result.json"]
    receipt = job.folder / "promotion.json"
    say(f"  report: {files[1]}")
    rounds.attach([*files, *([receipt] if receipt.exists() else [])])
    done = result.outcome is not Outcome.WAITING
    rounds.note(state=result.outcome.value if done else "waiting")
    if done:
        rounds.end()
    return 0 if done else WAITS


@dataclass(frozen=True, kw_only=True)
class _Job:
    plan: Plan
    suite: Suite
    settings: Settings
    store: TrackingStore
    folder: Path
    rounds: Rounds | None = None


# -- planning


def _new(args: argparse.Namespace, root: Path) -> _Job:
    if args.suite is None:
        raise UsageError("optimize: name a suite, as in  promptbench optimize evals/tips.yaml")
    path = args.suite.absolute()
    if not path.is_relative_to(root):
        raise UsageError(f"optimize: {args.suite} is not below the project's root {root}; name that with --root")
    suite = load_suite(path, root=root, environ=os.environ)
    if args.models:
        suite = select(suite, [n.strip() for n in args.models.split(",")], None)
    judged_by = JudgedBy(args.judge)
    if judged_by is JudgedBy.AUTO and suite.judge is None:
        left_out = next(
            (w for n, w in suite.skipped.items() if n.startswith("judge:")), "name one: judge: {model: haiku}"
        )
        raise UsageError(
            f"{args.suite}: --judge auto needs the suite's automatic judge: {left_out}; or --judge sit-down"
        )
    loop = plans.new_id()
    settings = _settings(args, root, loop)
    store = where(settings).store()
    base = _base(args, suite, store)
    train, test = plans.split([s.id for s in suite.scenarios], seed=args.seed)
    in_a_block = 4 if judged_by is JudgedBy.AUTO else 2
    plan = Plan(
        id=loop,
        task=suite.task,
        suite=path.relative_to(root).as_posix(),
        experiment=f"{suite.task}-optimize-{loop}",
        base=base,
        models=tuple(m.name for m in suite.models),
        train=train,
        test=test,
        components=plans.components(base),
        proposer=_proposer(args, suite, path, root),
        judged_by=judged_by,
        rounds=args.rounds,
        patience=args.patience or max(3, args.rounds // 2),
        block=max(2, -(-len(train) // in_a_block)),
        seed=args.seed,
        max_cost_usd=args.max_cost,
        early_stopping=not args.no_early_stopping,
        suite_sha256=plans.fingerprint(suite),
        created_at=utc_now(),
    )
    _check(args, plan, suite)
    folder = args.report.absolute() if args.report else root / ".promptbench" / "optimize" / loop
    return _Job(plan=plan, suite=suite, settings=settings, store=store, folder=folder)


def _resumed(args: argparse.Namespace, root: Path) -> _Job:
    loop = args.resume
    if not (loop.isascii() and loop.isalnum()):
        raise UsageError(f"--resume {loop!r}: expected a loop's id, as it was printed at its start")
    if args.suite is not None:
        raise UsageError("--resume goes on with the suite that the loop began with: leave the suite out")
    settings = _settings(args, root, loop)
    store = where(settings).store()
    rounds = Rounds.find(store, loop)
    plan = Plan.from_json(rounds.plan())
    plan = replace(plan, max_cost_usd=args.max_cost or plan.max_cost_usd)
    settings = replace(settings, max_cost_usd=plan.max_cost_usd)
    suite = load_suite(root / plan.suite, root=root, environ=os.environ)
    suite = select(suite, plan.models, None)
    if plans.fingerprint(suite) != plan.suite_sha256:
        raise UsageError(
            f"--resume {loop}: {plan.suite}, its models, its judge or its rubric have changed since the loop began, so "
            "old and new scores would not be of the same thing; begin a new loop"
        )
    folder = args.report.absolute() if args.report else root / ".promptbench" / "optimize" / loop
    return _Job(plan=plan, suite=suite, settings=settings, store=store, folder=folder, rounds=rounds)


def _settings(args: argparse.Namespace, root: Path, loop: str) -> Settings:
    """The loop is its own session, the same one each time it is resumed, so that its costs add up."""
    given = {"bench_concurrency": args.concurrency, "bench_max_cost": args.max_cost}
    identity = replace(Identity.new(), session=f"optimize-{loop}")
    return resolve(given.get, root=root, cwd=Path.cwd(), identity=identity)


def _base(args: argparse.Namespace, suite: Suite, store: TrackingStore) -> Prompt:
    by_version = {p.version: p for p in suite.prompts}
    if args.base is not None:
        if args.base not in by_version:
            raise UsageError(f"--from {args.base}: {suite.path} has no such prompt; there are: {', '.join(by_version)}")
        return by_version[args.base]
    champion = PromptRegistry(store).champion(suite.task)
    if champion is not None:
        found = next((p for p in suite.prompts if p.sha256 == champion.sha256), None)
        if found is not None:
            return found
        raise UsageError(
            f"the champion of {suite.task}, {champion.version}, is not among the suite's prompts as it was promoted; "
            f"name a start with --from: {', '.join(by_version)}"
        )
    if len(by_version) == 1:
        return suite.prompts[0]
    raise UsageError(f"{suite.task} has no champion yet; name a start with --from: {', '.join(by_version)}")


def _proposer(args: argparse.Namespace, suite: Suite, path: Path, root: Path) -> Model:
    if args.proposer is None:
        return suite.judge or suite.models[0]
    known = {m.name: m for m in load_models(find_models(path, root))}
    if args.proposer not in known:
        raise UsageError(f"--proposer {args.proposer}: models.yaml has no such model; it has: {', '.join(known)}")
    model = known[args.proposer]
    if not model.embedded and model.api_key_env and not os.environ.get(model.api_key_env):
        raise UsageError(f"--proposer {args.proposer}: the environment variable {model.api_key_env} is not set")
    return model


def _everyone(plan: Plan, suite: Suite) -> list[Model]:
    judge = [suite.judge] if suite.judge is not None and plan.judged_by is JudgedBy.AUTO else []
    return [*suite.models, *judge, plan.proposer]


def _check(args: argparse.Namespace, plan: Plan, suite: Suite) -> None:
    missing = next((why for m in _everyone(plan, suite) if m.embedded and (why := installed(m.model))), None)
    if missing:
        raise UsageError(missing)
    if plan.max_cost_usd is not None and not args.allow_unpriced:
        completer = LiteLLMCompleter(_everyone(plan, suite))
        unknown = {m.name for m in _everyone(plan, suite) if not completer.is_priced(m)}
        if unknown:
            raise UsageError(
                f"--max-cost needs to know prices, and LiteLLM has none for {', '.join(sorted(unknown))}; leave them "
                "out with --models, or accept it with --allow-unpriced"
            )


def _policy(args: argparse.Namespace, plan: Plan) -> Policy | None:
    if args.no_promote:
        return None
    if args.promote_policy:
        return Policy(args.promote_policy)
    return Policy.BOTH if plan.judged_by is JudgedBy.AUTO else Policy.SIT_DOWN


def _prompt_folder(suite: Suite, root: Path) -> Path:
    folder = prompt_folder(Path(suite.path), root, suite.task)
    assert folder is not None  # the suite was loaded from it
    return folder


# -- before anything is spent


def _dry(job: _Job) -> list[str]:
    """The plan, the number of calls, and what they may cost."""
    plan, suite = job.plan, job.suite
    base = replace(suite, prompts=(plan.base,))
    grid = cells(base)
    each = len(suite.models) * suite.samples
    train, test = len(plan.train) * each, len(plan.test) * each
    generated = train * (1 + plan.rounds) + 2 * test
    judged = generated if plan.judged_by is JudgedBy.AUTO else 0
    completer = LiteLLMCompleter(_everyone(plan, suite))
    completer.prepare()
    known: list[float | None] = [completer.worst_cost_usd(r) for c in grid for r in c.requests]
    share = generated / max(1, len(known))
    if suite.judge is not None and judged:
        judge = suite.judge
        about = [_stand_in(c.scenario.id, c.scenario.vars) for c in grid[: len(suite.scenarios)]]
        asked = [judge_question(c, "word " * 150, suite.rubric, judge, structured=True) for c in about]
        prices = [0.0 if judge.embedded else completer.worst_cost_usd(r) for q in asked for r in q.requests]
        known += [p if p is None else p * len(suite.models) for p in prices]
    shown_examples = sum(len(m.content) for m in plan.base.messages) + len(suite.rubric.body) + 4 * 3000
    proposal = completer.worst_cost_usd(
        Request(model=plan.proposer, messages=plan.base.messages, params=plan.proposer.params)
    )
    priced = [m for m in _everyone(plan, suite) if not m.embedded and not completer.is_priced(m)]
    most = sum(k or 0.0 for k in known) * share + (proposal or 0.0) * plan.rounds * (1 + shown_examples / 4000)
    names = placeholders(plan.base.messages)
    out = [
        f"task {plan.task}: from {plan.base.version}, messages "
        + ", ".join(f"{i + 1} ({plan.base.messages[i].role})" for i in plan.components)
        + f" may be rewritten; placeholders: {', '.join(names) or 'none'}",
        f"scenarios: {len(plan.train)} train, {len(plan.test)} locked for the final comparison (seed {plan.seed})",
        f"  test: {', '.join(plan.test)}",
        f"models: {', '.join(plan.models)}; judge: {_judge_name(plan, suite)}; proposer: {plan.proposer.name}",
        f"stops after {plural(plan.rounds, 'round')}, or {plan.patience} without a gain"
        + (f", or before ${plan.max_cost_usd:g} is passed" if plan.max_cost_usd else ""),
        f"calls at most: {generated} generations, {judged} judgements, {plural(plan.rounds, 'proposal')}"
        + (f"; a proposal is looked at every {plan.block} scenarios" if plan.early_stopping else ""),
    ]
    if priced:
        out.append(f"cost: unknown, for LiteLLM has no price of {', '.join(sorted({m.name for m in priced}))}")
    elif all(m.embedded for m in _everyone(plan, suite)):
        out.append("cost: none, every model is embedded")
    else:
        history = _history(job)
        expected = f"about {dollars(history * generated)} for the answers, as earlier ones cost; " if history else ""
        out.append(f"cost: {expected}at most {dollars(most)} by LiteLLM's prices, every round and reply at its longest")
    out.append("nothing was spent (--dry-run)")
    return out


def _judge_name(plan: Plan, suite: Suite) -> str:
    return suite.judge.name if plan.judged_by is JudgedBy.AUTO and suite.judge else plan.judged_by.value


def _stand_in(scenario: str, variables: object) -> LoggedCandidate:
    return LoggedCandidate(
        run_id="", experiment="", task="", model="", prompt="", scenario=scenario, cell="", candidate="", rubric="",
        rubric_sha256="", pending=True, context=variables,  # type: ignore[arg-type]
    )  # fmt: skip


def _history(job: _Job) -> float | None:
    """What a candidate of the task's newest bench experiment cost on average, in US dollars; None without any."""
    with contextlib.suppress(TrackingError):
        earlier = [n for n in job.store.experiments() if n.startswith(f"{job.plan.task}-bench-")]
        costs = [c.cost_usd for c in job.store.read(max(earlier)) if c.cost_usd is not None] if earlier else []
        return sum(costs) / len(costs) if costs else None
    return None


# -- the loop


@contextlib.contextmanager
def _bench(job: _Job, rounds: Rounds) -> Iterator[Bench]:
    settings, plan = job.settings, job.plan
    models = _everyone(plan, job.suite)
    locks = LockFile(settings.home / "locks")
    if not locks.try_acquire(f"optimize:{plan.id}"):
        raise UsageError(f"loop {plan.id} is running already in {settings.home}")
    with contextlib.ExitStack() as stack:
        stack.callback(locks.release, f"optimize:{plan.id}")
        embedded = None
        names = sorted({m.model for m in models if m.embedded})
        if names:
            embedded = stack.enter_context(LocalServer()).start(names).api_base
            spare_loopback_from_proxies()
        ask = stack.enter_context(asking(settings, LiteLLMCompleter(models, embedded=embedded)))
        ledger = Ledger(settings.home / "ledger.sqlite3")
        stack.callback(ledger.close)
        yield Bench(
            plan, job.suite, settings, ask=ask, store=job.store, rounds=rounds, ledger=ledger,
            packet=job.folder / "packet.json",
        )  # fmt: skip


def _go(job: _Job, rounds: Rounds, gate: Gate, say: Say) -> Result:
    latest: list[Search] = []
    rounds.note(state="running")
    with _bench(job, rounds) as bench, shown(say, terminal=sys.stdout.isatty()) as show:

        def watch(state: Search) -> None:
            latest[:] = [state]
            show(state)

        try:
            state = search(job.plan, job.suite.rubric, bench, MLflowJournal(job.plan, rounds), watch=watch)
            for number, best in _best_by_round(state):
                rounds.note(metrics={"train_best": best}, step=number)
            return conclude(state, bench, job.suite, gate)
        except WaitingError as error:
            return waiting(latest[0] if latest else None, job.plan, error)
        except UnreachableError as error:
            text = str(error).replace("--bench-max-cost", "--max-cost")
            raise UnreachableError(
                f"{text}; what is paid for is kept: promptbench optimize --resume {job.plan.id}"
            ) from None


def _best_by_round(state: Search) -> list[tuple[int, float]]:
    best = state.mean(state.plan.base.version) or 0.0
    found = [(0, best)]
    for t in state.trials:
        best = max(best, t.mean or best)
        found.append((t.number, best))
    return found
