"""Where a loop is, while it runs: one live line on a terminal, a line a round in a log."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from ..report.terminal import live_line
from ..report.text import dollars, plural, points
from ..statistics import mean_interval
from .report import outcome_of
from .state import Search


def status(state: Search, *, rivals: int = 2) -> str:
    """Round, best so far with its interval, spent, and what is left at most; ``rivals`` are compared at the end."""
    plan = state.plan
    done = len(state.trials)
    parts = [f"round {min(done + 1, plan.rounds)}/{plan.rounds}" if done < plan.rounds else plural(done, "round")]
    scores = state.scores.get(state.best, {})
    if state.mean(state.best) is not None:
        values = list(scores.values())
        parts.append(f"best {state.best} {points(sum(values) / len(values), mean_interval(values))}")
    else:
        parts.append(f"measuring {state.best}, {len(scores)}/{len(plan.train)} scenarios")
    limit = "" if plan.max_cost_usd is None else f" of {dollars(plan.max_cost_usd)}"
    if state.spent_usd or limit:  # else nothing, or of unknown price
        parts.append(f"spent {dollars(state.spent_usd)}{limit}")
    left = (plan.rounds - done) * len(plan.train) * len(plan.models) + rivals * len(plan.test) * len(plan.models)
    parts.append(f"at most {plural(left, 'candidate')} left")
    return "promptbench: " + ", ".join(parts)


@contextlib.contextmanager
def shown(say: Callable[[str], None], *, terminal: bool, rivals: int = 2) -> Iterator[Callable[[Search], None]]:
    """Gives a ``watch`` for the loop. ``say`` prints a line."""
    told = 0
    with contextlib.ExitStack() as stack:
        update = stack.enter_context(live_line()) if terminal else None

        def watch(state: Search) -> None:
            nonlocal told
            if update is not None:
                update(status(state, rivals=rivals))
                return
            for trial in state.trials[told:]:
                who = trial.prompt.version if trial.prompt else trial.parent
                say(f"round {trial.number}/{state.plan.rounds}: {who}: {outcome_of(trial, state.best)}")
                say(status(state, rivals=rivals))
            told = len(state.trials)

        yield watch
