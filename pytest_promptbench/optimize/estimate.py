"""What ``--dry-run`` says: the plan, the calls and their price, of a new loop or of what is left of one."""

from __future__ import annotations

from dataclasses import dataclass

from ..catalog import placeholders
from ..judging import TRIES as JUDGE_TRIES
from ..report.text import dollars, plural
from ..statistics import earliest_drop
from .job import Job
from .journal import MLflowJournal
from .plan import ALPHA_DROP, JudgedBy, Plan
from .prices import ANSWER_TOKENS, PROPOSAL_TOKENS, VERDICT_TOKENS, Prices, everyone
from .proposing import TRIES


@dataclass(frozen=True, kw_only=True)
class Left:
    """Calls that a loop may still make. ``cells``: candidates; each is ``samples`` answers."""

    rounds: int
    cells: int
    done: int = 0


def left(job: Job) -> Left:
    """Every round to its end, no proposal dropped, and the final comparison of all rivals."""
    plan = job.plan
    models, train, test = len(plan.models), set(plan.train), set(plan.test)
    if job.rounds is None:
        return Left(rounds=plan.rounds, cells=models * (len(train) * (1 + plan.rounds) + len(test) * job.rivals))
    job.rounds.load()
    journal = MLflowJournal(plan, job.rounds)
    done = 0
    while journal.decision(done + 1) is not None:
        done += 1
    there = [c for c in job.store.read(plan.experiment) if c.error is None]
    open_ = plan.version(done + 1) if journal.decision(0) else plan.base.version
    known = sum(c.scenario in test or (c.prompt == open_ and c.scenario in train) for c in there)
    start = 0 if journal.decision(0) else 1
    cells = models * (len(train) * (start + plan.rounds - done) + len(test) * job.rivals)
    return Left(rounds=plan.rounds - done, cells=max(0, cells - known), done=done)


def describe(job: Job) -> list[str]:
    """Lines for the terminal. Asks nobody but the tracking store."""
    plan, suite = job.plan, job.suite
    names = placeholders(plan.base.messages)
    used = f"; {plural(plan.tested, 'loop')} looked at the test split before" if plan.tested else ""
    out = [
        f"task {plan.task}: from {plan.base.version}, messages "
        + ", ".join(f"{i + 1} ({plan.base.messages[i].role})" for i in plan.components)
        + f" may be rewritten; placeholders: {', '.join(names) or 'none'}",
        f"scenarios: {len(plan.train)} train, {len(plan.test)} locked for the final comparison "
        f"(seed {plan.seed}{used})",
        f"  test: {', '.join(plan.test)}",
        f"models: {', '.join(plan.models)}; judge: {_judge(job)}; proposer: {plan.proposer.name}",
        f"stops after {plural(plan.rounds, 'round')}, or {plan.patience} in a row without a gain"
        + (f", or before ${plan.max_cost_usd:g} is passed" if plan.max_cost_usd else ""),
    ]
    if plan.early_stopping:
        out.append(_early(plan, suite.rubric.top - suite.rubric.bottom))
    return [*out, *_calls(job), "nothing was spent (--dry-run)"]


def _judge(job: Job) -> str:
    judge = job.suite.judge
    return judge.name if job.plan.judged_by is JudgedBy.AUTO and judge else job.plan.judged_by.value


def _early(plan: Plan, scale: float) -> str:
    """From when a proposal can be dropped, seen from a parent in the middle of the scale."""
    n = len(plan.train)
    worst, tenth = (earliest_drop(n, behind=b, room=scale / 2, alpha=ALPHA_DROP) for b in (scale / 2, scale / 10))
    look = range(plan.block, n, plan.block)

    def after(scenarios: int | None) -> str:
        found = next((k for k in look if scenarios is not None and k >= scenarios), None)
        return "never" if found is None else f"after {found} of {n}"

    return (
        f"early stopping: a proposal is looked at every {plural(plan.block, 'scenario')}; one as bad as can be, "
        f"under a parent in the middle of the scale, is dropped {after(worst)}, one a tenth of the scale behind "
        f"{after(tenth)}"
    )


def _calls(job: Job) -> list[str]:
    plan, suite, todo = job.plan, job.suite, left(job)
    judged = plan.judged_by is JudgedBy.AUTO
    answers = todo.cells * suite.samples
    verdicts = answers if judged else 0
    so_far = f" left, {plural(todo.done, 'round')} being over" if job.rounds else ""
    out = [
        f"calls{so_far}: {answers} generations, {verdicts} judgements, {plural(todo.rounds, 'proposal')} where every "
        f"round is tried to its end; at most {verdicts * JUDGE_TRIES} judgements and {todo.rounds * TRIES} proposals, "
        "where replies cannot be used"
    ]
    prices = Prices(plan, suite)
    if all(m.embedded for m in everyone(plan, suite)):
        return [*out, "cost: none, every model is embedded"]
    scenarios = [*plan.train, *plan.test]
    share = todo.cells / (len(scenarios) * len(plan.models))
    cost = prices.comparison([plan.base], scenarios, tries=JUDGE_TRIES) * share + prices.proposal() * todo.rounds
    spent = f"; ${job.rounds.spent():.4f} spent so far" if job.rounds else ""
    unknown = prices.unknown()
    figures = (
        f"about {dollars(cost.likely)}, at most {dollars(cost.most)} by LiteLLM's prices (about: replies of "
        f"{ANSWER_TOKENS}, {VERDICT_TOKENS} and {PROPOSAL_TOKENS} tokens; at most: every reply at its longest)"
    )
    if unknown:
        known = f"; the others: {figures}" if cost.most else ""
        return [*out, f"cost: unknown, for LiteLLM has no price of {', '.join(unknown)}{known}{spent}"]
    return [*out, f"cost: {figures}{spent}"]
