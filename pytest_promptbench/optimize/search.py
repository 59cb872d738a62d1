"""The loop itself: GEPA proposes and chooses parents, we measure, drop what is clearly behind, and say when to stop.

GEPA is deterministic for a seed, for the same scores and the same proposals. So there are no checkpoints: a resumed
loop runs from its beginning, with a laboratory and a journal that remember.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec, Protocol, TypeVar

from ..errors import UsageError
from ..records import Prompt, Record, Rubric
from ..statistics import BehindTest
from .plan import ALPHA_DROP, Plan, Trial, with_texts
from .proposing import Example, ProposalError, weakest

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Measured(Record):
    """A prompt on one scenario: the mean composite over the models in points, and the candidates behind it.

    ``score`` is None where nothing of it could be judged; a failed generation counts as the rubric's worst.
    """

    score: float | None
    examples: tuple[Example, ...] = ()


class Laboratory(Protocol):
    """Generates and judges. Whatever it was asked before, it answers from memory."""

    @property
    def spent_usd(self) -> float:
        """What all calls of the loop have cost so far, as far as prices are known."""

    def measure(self, prompt: Prompt, scenarios: Sequence[str]) -> Mapping[str, Measured]:
        """May raise to pause the loop, e.g. for a judge."""

    def propose(
        self, number: int, prompt: Prompt, component: int, examples: Sequence[Example], tried: Sequence[str]
    ) -> str:
        """A better text for one message. Raises ProposalError where the proposer has no usable one."""


class Journal(Protocol):
    """Keeps proposals and results by round."""

    def proposal(self, number: int) -> Mapping[str, Any] | None:
        """What ``keep`` was given for this round; None where the loop has not been there."""

    def keep(self, number: int, proposal: Mapping[str, Any]) -> None: ...

    def close(self, trial: Trial) -> None: ...


@dataclass
class Search:
    """How far a loop is. ``scores`` of a version: train scenario -> composite in points."""

    plan: Plan
    prompts: dict[str, Prompt] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    best: str = ""
    stopped: str = ""
    spent_usd: float = 0.0

    @property
    def saved(self) -> int:
        """Candidates that early stopping did not generate."""
        return sum(t.saved for t in self.trials)

    def mean(self, version: str) -> float | None:
        """Mean composite over all train scenarios; None for a version that has not seen all of them."""
        scores = self.scores.get(version, {})
        return sum(scores.values()) / len(scores) if len(scores) == len(self.plan.train) else None


class _PauseError(BaseException):
    """Carries an exception through GEPA, which takes every Exception for a failed proposal."""

    def __init__(self, cause: BaseException) -> None:
        self.cause = cause


def _through(method: Callable[P, T]) -> Callable[P, T]:
    """Whatever is raised in our part of the loop ends it."""

    @functools.wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except (Exception, KeyboardInterrupt) as error:
            raise _PauseError(error) from None

    return guarded


def search(
    plan: Plan,
    rubric: Rubric,
    laboratory: Laboratory,
    journal: Journal,
    *,
    watch: Callable[[Search], None] = lambda _: None,
) -> Search:
    """Run the loop to its end, or until the laboratory raises; ``watch`` sees every step.

    UsageError without the package gepa.
    """
    try:
        import gepa
    except ImportError:
        raise UsageError("promptbench optimize needs gepa: pip install 'pytest-promptbench[optimize]'") from None

    state = Search(plan=plan, prompts={plan.base.version: plan.base}, best=plan.base.version)
    adapter = _Adapter(state, rubric, laboratory, journal, watch)
    try:
        gepa.optimize(
            seed_candidate=adapter.candidate(plan.base),
            trainset=list(plan.train),
            valset=list(plan.train),
            adapter=adapter,
            reflection_minibatch_size=min(plan.block, len(plan.train)),
            skip_perfect_score=False,
            module_selector="round_robin",
            acceptance_criterion=adapter,
            stop_callbacks=adapter.stop,
            logger=_Silent(),
            seed=plan.seed,
            track_best_outputs=False,
            raise_on_exception=True,
        )
    except _PauseError as pause:
        raise pause.cause from None
    state.spent_usd = laboratory.spent_usd
    return state


class _Silent:
    def log(self, message: str) -> None:
        """GEPA's running commentary: ours is ``watch``."""


class _Adapter:
    """GEPA's view of the bench: candidates are {message number: text}, inputs are scenario names."""

    def __init__(
        self,
        state: Search,
        rubric: Rubric,
        laboratory: Laboratory,
        journal: Journal,
        watch: Callable[[Search], None],
    ) -> None:
        self._state, self._rubric, self._lab, self._journal, self._watch = state, rubric, laboratory, journal, watch
        self._measured: dict[str, dict[str, Measured]] = {}
        self._open: _Open | None = None

    # -- what GEPA asks for

    @_through
    def evaluate(self, batch: list[str], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        from gepa.core.adapter import EvaluationBatch

        prompt = self._prompt(candidate)
        trial = self._open
        if trial is not None and trial.prompt.version == prompt.version:
            self._try(trial, batch)
        else:
            self._measure(prompt, batch)
        known = self._measured[prompt.version]
        scores = [self._share(known[s].score if s in known else None, prompt) for s in batch]
        traces = [[prompt.version, s] for s in batch] if capture_traces else None
        return EvaluationBatch(outputs=[None] * len(batch), scores=scores, trajectories=traces)

    @_through
    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Any, components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """The weakest of all that is known of the candidate, not only of GEPA's batch."""
        known = self._measured[self._prompt(candidate).version]
        chosen = weakest([e for m in known.values() for e in m.examples])
        return {name: [e.to_json() for e in chosen] for name in components_to_update}

    @_through
    def propose_new_texts(
        self,
        candidate: dict[str, str],
        reflective_dataset: Mapping[str, Sequence[Mapping[str, Any]]],
        components_to_update: list[str],
    ) -> dict[str, str]:
        """One round begins: the journal's proposal, or a new one. The same text where there is none."""
        parent = self._prompt(candidate)
        number = len(self._state.trials) + 1
        name = components_to_update[0]
        kept = self._journal.proposal(number)
        if kept is None:
            examples = [Example.from_json(e) for e in reflective_dataset[name]]
            kept = self._ask(number, parent, int(name), examples)
            self._journal.keep(number, kept)
        problem = kept.get("problem")
        if problem is None:
            prompt = with_texts(parent, {int(name): kept["text"]}, self._state.plan.version(number))
            twin = next((v for v, p in self._state.prompts.items() if p.sha256 == prompt.sha256), None)
            if twin is None:
                self._state.prompts[prompt.version] = prompt
                self._begin(number, parent, prompt, int(name))
                return {name: kept["text"]}
            problem = f"it is the text of {twin} again"
        self._close(Trial(number=number, parent=parent.version, component=int(name), problem=problem))
        return {name: candidate[name]}

    @_through
    def should_accept(self, proposal: Any, state: Any) -> bool:
        """Whether a proposal goes on from its first block to the rest: unless it is clearly behind by then."""
        if self._open is not None:
            return True
        last = self._state.trials[-1]
        return last.prompt is not None and not last.dropped

    @_through
    def stop(self, _: Any) -> bool:
        """Asked before every round."""
        state, plan = self._state, self._state.plan
        state.spent_usd = self._lab.spent_usd
        best = state.mean(state.best)
        since = len(state.trials) - next((t.number for t in state.trials if self._version(t) == state.best), 0)
        reasons = {
            f"{plan.rounds} rounds": len(state.trials) >= plan.rounds,
            f"no gain in {plan.patience} rounds": since >= plan.patience,
            "nothing left to gain": best is not None and best >= self._rubric.top - 1e-9,
            f"the cost reached its limit of ${plan.max_cost_usd or 0:g}": self._too_dear(),
        }
        state.stopped = next((reason for reason, holds in reasons.items() if holds), "")
        return bool(state.stopped)

    def _too_dear(self) -> bool:
        """Whether one more round like those before would leave too little for the final comparison."""
        plan, spent = self._state.plan, self._lab.spent_usd
        if plan.max_cost_usd is None or not spent:
            return False
        measured = sum(len(m) for m in self._measured.values())
        each = spent / max(1, measured)
        return spent + each * (len(plan.train) + 2 * len(plan.test)) > plan.max_cost_usd

    # -- what we do for it

    def candidate(self, prompt: Prompt) -> dict[str, str]:
        return {str(i): prompt.messages[i].content for i in self._state.plan.components}

    def _prompt(self, candidate: Mapping[str, str]) -> Prompt:
        for prompt in self._state.prompts.values():
            if all(prompt.messages[int(i)].content == text for i, text in candidate.items()):
                return prompt
        raise AssertionError("GEPA made up a candidate")

    @staticmethod
    def _version(trial: Trial) -> str | None:
        return trial.prompt.version if trial.prompt else None

    def _ask(self, number: int, parent: Prompt, component: int, examples: Sequence[Example]) -> dict[str, Any]:
        try:
            text = self._lab.propose(number, parent, component, examples, self._tried(parent))
        except ProposalError as error:
            return {"parent": parent.version, "component": component, "problem": str(error)}
        return {"parent": parent.version, "component": component, "text": text}

    def _tried(self, parent: Prompt) -> list[str]:
        """What became of the proposals from this parent; it also keeps two rounds' questions from being the same."""
        lines = []
        for t in self._state.trials:
            if t.parent != parent.version:
                continue
            if t.prompt is None:
                lines.append(f"round {t.number}: no usable proposal ({t.problem})")
                continue
            text = " ".join(t.prompt.messages[t.component].content.split())
            outcome = "clearly worse" if t.dropped else f"{t.mean or 0:.2f} points on average"
            lines.append(f"round {t.number}: {outcome}: {text[:300]}")
        return lines[-6:]

    def _measure(self, prompt: Prompt, scenarios: Sequence[str]) -> None:
        known = self._measured.setdefault(prompt.version, {})
        missing = [s for s in scenarios if s not in known]
        if missing:
            known.update(self._lab.measure(prompt, missing))
        scores = self._state.scores.setdefault(prompt.version, {})
        for s in missing:
            # A scenario that nobody could judge says nothing of the prompt: it gets the mean of the others.
            score = known[s].score
            if score is not None:
                scores[s] = score
        if all(s in known for s in self._state.plan.train):
            mean = sum(scores.values()) / len(scores) if scores else self._rubric.bottom
            for s in self._state.plan.train:
                scores.setdefault(s, mean)
        self._state.spent_usd = self._lab.spent_usd
        self._watch(self._state)

    def _share(self, score: float | None, prompt: Prompt) -> float:
        """A composite as GEPA takes it, 0 to 1; what a dropped proposal never saw counts as the worst."""
        if score is None and len(self._measured[prompt.version]) == len(self._state.plan.train):
            score = self._state.mean(prompt.version)
        low, high = self._rubric.bottom, self._rubric.top
        return 0.0 if score is None else (score - low) / (high - low)

    def _begin(self, number: int, parent: Prompt, prompt: Prompt, component: int) -> None:
        complete = self._state.mean(parent.version) is not None
        before = self._state.scores[parent.version if complete else self._state.best]
        self._open = _Open(number, parent, prompt, component, before, BehindTest(alpha=ALPHA_DROP))

    def _try(self, trial: _Open, batch: Sequence[str]) -> None:
        """Measure block by block, in an order that does not depend on scores, until the proposal is clearly behind."""
        plan = self._state.plan
        known = self._measured.setdefault(trial.prompt.version, {})
        rest = [s for s in batch if s not in known]
        random.Random(f"{plan.seed}:{trial.number}").shuffle(rest)
        while rest and not trial.behind:
            block, rest = rest[: plan.block], rest[plan.block :]
            self._measure(trial.prompt, block)
            scores = self._state.scores[trial.prompt.version]
            for s in block:
                if plan.early_stopping and s in scores:
                    trial.test.update(scores[s] - trial.before[s])
        if trial.behind or len(known) == len(plan.train):
            self._end(trial)

    def _end(self, trial: _Open) -> None:
        plan, version = self._state.plan, trial.prompt.version
        seen = self._measured.get(version, {})
        missing = len(plan.train) - len(seen)
        self._close(
            Trial(
                number=trial.number,
                parent=trial.parent.version,
                prompt=trial.prompt,
                component=trial.component,
                scores=dict(self._state.scores.get(version, {})),
                dropped=missing > 0,
                e_value=min(trial.test.e_value, 1e12) if plan.early_stopping else None,
                saved=missing * len(plan.models),
            )
        )

    def _close(self, trial: Trial) -> None:
        self._open = None
        state = self._state
        state.trials.append(trial)
        mean, best = trial.mean, state.mean(state.best)
        if trial.prompt is not None and mean is not None and best is not None and mean > best + 1e-9:
            state.best = trial.prompt.version
        self._journal.close(trial)
        self._watch(state)


@dataclass
class _Open:
    """A proposal on trial. ``before``: what it is held against: its parent's scores, of a dropped one the best's."""

    number: int
    parent: Prompt
    prompt: Prompt
    component: int
    before: Mapping[str, float]
    test: BehindTest

    @property
    def behind(self) -> bool:
        return self.test.behind
