"""The loop itself: GEPA proposes and chooses parents, we measure, drop what is clearly behind, and say when to stop.

A round that is over was decided once: its scores, its outcome and its proposal are in the journal, and a resumed loop
takes them from there, whatever has become of verdicts since. GEPA is deterministic for a seed and for the same scores,
so it chooses the same parents again, which is checked. What is not decided yet is computed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from ..errors import UsageError
from ..records import Prompt, Rubric
from .plan import FEWEST_TRAIN, Plan, Trial, with_texts
from .proposing import Example, ProposalError, weakest
from .state import Journal, Laboratory, Measured, OutOfMoneyError, Search, UnreachableError
from .trying import OnTrial

P = ParamSpec("P")
T = TypeVar("T")


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


def check_installed() -> None:
    """UsageError without the package gepa."""
    try:
        import gepa  # noqa: F401
    except ImportError:
        raise UsageError("promptbench optimize needs gepa: pip install 'pytest-promptbench[optimize]'") from None


def search(
    plan: Plan,
    rubric: Rubric,
    laboratory: Laboratory,
    journal: Journal,
    *,
    watch: Callable[[Search], None] = lambda _: None,
) -> Search:
    """Run the loop to its end, or until the laboratory raises; ``watch`` sees every step.

    UsageError where the journal's rounds are not those that the search would make.
    """
    import gepa

    state = Search.begin(plan)
    adapter = _Adapter(state, rubric, laboratory, journal, watch)
    try:
        gepa.optimize(
            seed_candidate=adapter.candidate(plan.base),
            trainset=list(plan.train),
            valset=list(plan.train),
            adapter=adapter,
            reflection_minibatch_size=1,  # what is measured, and in which order, is decided here
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
        if not isinstance(pause.cause, OutOfMoneyError):
            raise pause.cause from None
        state.broke, state.stopped = True, adapter.limit
    state.spent_usd = laboratory.spent_usd
    return state


class _Silent:
    def log(self, message: str) -> None:
        """GEPA's running commentary: ours is ``watch``."""


class _Adapter:
    """GEPA's view of the laboratory: candidates are {message number: text}, inputs are scenario names."""

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
        self._open: OnTrial | None = None

    @property
    def limit(self) -> str:
        return f"the cost reached its limit of ${self._state.plan.max_cost_usd or 0:g}"

    # -- what GEPA asks for

    @_through
    def evaluate(self, batch: list[str], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        from gepa.core.adapter import EvaluationBatch

        version = self._prompt(candidate).version
        if self._open is not None:
            self._try(self._open)
        elif version not in self._state.whole and version == self._state.plan.base.version:
            self._start()
        scores = [self._share(version, s) for s in batch]
        traces = [[version, s] for s in batch] if capture_traces else None
        return EvaluationBatch(outputs=[None] * len(batch), scores=scores, trajectories=traces)

    @_through
    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Any, components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """The weakest of all that is known of the candidate, not only of GEPA's batch."""
        chosen: list[Example] = []
        number = len(self._state.trials) + 1
        if self._journal.proposal(number) is None:
            known = self._seen(self._prompt(candidate))
            chosen = weakest([e for m in known.values() for e in m.examples], turn=number)
        return {name: [e.to_json() for e in chosen] for name in components_to_update}

    @_through
    def propose_new_texts(
        self,
        candidate: dict[str, str],
        reflective_dataset: Mapping[str, Sequence[Mapping[str, Any]]],
        components_to_update: list[str],
    ) -> dict[str, str]:
        """One round begins: the journal's proposal, or a new one. The same text where there is none to try."""
        parent = self._prompt(candidate)
        number = len(self._state.trials) + 1
        name = components_to_update[0]
        kept = self._journal.proposal(number)
        if kept is None:
            examples = [Example.from_json(e) for e in reflective_dataset[name]]
            kept = self._ask(number, parent, int(name), examples)
            self._journal.keep(number, kept)
        self._check(number, kept, parent, int(name))
        problem = kept.get("problem")
        if problem is None:
            prompt = with_texts(parent, {int(name): kept["text"]}, self._state.plan.version(number))
            twin = next((v for v, p in self._state.prompts.items() if p.sha256 == prompt.sha256), None)
            if twin is None:
                self._state.prompts[prompt.version] = prompt
                self._begin(number, parent, prompt, int(name))
                return {name: kept["text"]}
            problem = f"it is the text of {twin} again"
        decided = self._journal.decision(number)
        self._close(decided or Trial(number=number, parent=parent.version, component=int(name), problem=problem))
        return {name: candidate[name]}

    @_through
    def should_accept(self, proposal: Any, state: Any) -> bool:
        """Whether a proposal may become a parent: unless it was dropped."""
        last = self._state.trials[-1]
        return last.prompt is not None and bool(last.scores) and not last.dropped

    @_through
    def stop(self, _: Any) -> bool:
        """Asked before every round. Money is no reason where the journal has that round already."""
        state, plan = self._state, self._state.plan
        state.spent_usd = self._lab.spent_usd
        best, done = state.mean(state.best), len(state.trials)
        since = done - next((t.number for t in state.trials if t.prompt and t.prompt.version == state.best), 0)
        if done >= plan.rounds:
            state.stopped = "as many as --rounds allows"
        elif since >= plan.patience:
            state.stopped = f"{plan.patience} in a row without a gain"
        elif best is not None and best >= self._rubric.top - 1e-9:
            state.stopped = "nothing left to gain"
        elif self._journal.proposal(done + 1) is None and not self._lab.affords_round(state.prompts[state.best]):
            state.stopped, state.broke = self.limit, True
        return bool(state.stopped)

    # -- what we do for it

    def candidate(self, prompt: Prompt) -> dict[str, str]:
        return {str(i): prompt.messages[i].content for i in self._state.plan.components}

    def _prompt(self, candidate: Mapping[str, str]) -> Prompt:
        for prompt in self._state.prompts.values():
            if all(prompt.messages[int(i)].content == text for i, text in candidate.items()):
                return prompt
        raise AssertionError("GEPA made up a candidate")

    def _check(self, number: int, kept: Mapping[str, Any], parent: Prompt, component: int) -> None:
        if (kept["parent"], kept["component"]) != (parent.version, component):
            raise UsageError(
                f"round {number} of loop {self._state.plan.id} rewrote message {kept['component'] + 1} of "
                f"{kept['parent']}, and the search would now rewrite message {component + 1} of {parent.version}: gepa "
                "or pytest-promptbench is of another version than it began with; resume it with that, or begin a new "
                "loop"
            )

    def _ask(self, number: int, parent: Prompt, component: int, examples: Sequence[Example]) -> dict[str, Any]:
        about = {"parent": parent.version, "component": component}
        try:
            return {**about, "text": self._lab.propose(number, parent, component, examples, self._tried(parent))}
        except ProposalError as error:
            return {**about, "problem": str(error)}

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
            mean = "no score" if t.mean is None else f"{t.mean:.2f} points on average"
            lines.append(f"round {t.number}: {'clearly worse' if t.dropped else mean}: {text[:300]}")
        return lines[-6:]

    def _seen(self, prompt: Prompt) -> Mapping[str, Measured]:
        """A parent's candidates, read again where an earlier process has measured them."""
        if prompt.version not in self._measured:
            scenarios = [s for s in self._state.plan.train if s in self._state.scores[prompt.version]]
            self._measured[prompt.version] = dict(self._lab.measure(prompt, scenarios))
        return self._measured[prompt.version]

    def _measure(self, prompt: Prompt, scenarios: Sequence[str]) -> Mapping[str, Measured]:
        found = self._lab.measure(prompt, scenarios)
        self._measured.setdefault(prompt.version, {}).update(found)
        scores = self._state.scores.setdefault(prompt.version, {})
        scores.update({s: m.score for s, m in found.items() if m.score is not None})
        self._state.spent_usd = self._lab.spent_usd
        self._watch(self._state)
        return found

    def _share(self, version: str, scenario: str) -> float:
        """A composite as GEPA takes it, 0 to 1. A scenario without a score says nothing: the mean of the others."""
        low, high = self._rubric.bottom, self._rubric.top
        score = self._state.scores.get(version, {}).get(scenario)
        score = self._state.mean(version) if score is None else score
        return 0.0 if score is None else (score - low) / (high - low)

    def _start(self) -> None:
        """Round 0: the start on all train scenarios."""
        state, base = self._state, self._state.plan.base
        decided = self._journal.decision(0)
        if decided is None:
            found = self._measure(base, state.plan.train)
            scores = state.scores[base.version]
            if len(scores) < min(FEWEST_TRAIN, len(state.plan.train)):
                raise UnreachableError(
                    f"only {len(scores)} of {len(state.plan.train)} train scenarios were answered by every model and "
                    f"judged, and {FEWEST_TRAIN} are the least: see the failed runs of experiment "
                    f"{state.plan.experiment}"
                )
            tiers = {s: m.tier for s, m in found.items() if s in scores and m.tier is not None}
            decided = Trial(number=0, prompt=base, scores=dict(scores), tiers=tiers, spent_usd=self._lab.spent_usd)
        state.scores[base.version] = dict(decided.scores)
        state.whole.add(base.version)
        self._journal.close(decided)
        self._watch(state)

    def _begin(self, number: int, parent: Prompt, prompt: Prompt, component: int) -> None:
        decided = self._journal.decision(number)
        if decided is not None:
            self._state.scores[prompt.version] = dict(decided.scores)
            if not decided.dropped:
                self._state.whole.add(prompt.version)
            self._close(decided)
            return
        before = self._state.scores[parent.version]
        self._open = OnTrial(
            self._state.plan, self._rubric, number, parent=parent.version, prompt=prompt, component=component,
            before=before,
        )  # fmt: skip

    def _try(self, trial: OnTrial) -> None:
        """Measure block by block, until it is clearly behind or whole."""
        version = trial.prompt.version
        while trial.goes_on:
            block = trial.block()
            self._measure(trial.prompt, block)
            trial.take(block, self._state.scores[version])
        if trial.whole:
            self._state.whole.add(version)
        self._close(trial.decision(self._state.scores[version], spent_usd=self._lab.spent_usd))

    def _close(self, trial: Trial) -> None:
        self._open = None
        state = self._state
        gain = state.gain(trial.prompt.version) if trial.prompt is not None else None
        state.trials.append(trial)
        if trial.prompt is not None and gain is not None and gain > 1e-9:
            state.best = trial.prompt.version
        self._journal.close(trial)
        self._watch(state)
