"""The real laboratory: cells through LiteLLM, candidates and verdicts in MLflow, proposals from a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..autojudge import Ask, judge_and_write, unscored
from ..checks import fill_checks
from ..errors import PromptbenchError, TrackingError
from ..grid import make_cell
from ..ledger import Ledger
from ..packet import build_packet, write_packet
from ..records import (
    Candidate,
    Cell,
    LoggedCandidate,
    Message,
    Prompt,
    Scenario,
    Suite,
    Verdict,
    composite,
)
from ..settings import Settings
from ..tracking.entry import Logged
from ..tracking.rounds import COST, Rounds
from ..tracking.store import TrackingStore
from .plan import JudgedBy, Plan, Trial
from .proposing import TRIES, Example, ProposalError, ask_again, parse_proposal, question
from .search import Measured


class WaitingError(PromptbenchError):
    """The loop waits: ``count`` candidates in the packet at ``path`` want a judge."""

    def __init__(self, count: int, path: Path) -> None:
        super().__init__(f"{count} candidates wait for a judge")
        self.count, self.path = count, path


class UnreachableError(PromptbenchError):
    """A provider or the judge could not be asked; what was paid for is kept, so the loop can be resumed."""


class Bench:
    """Measures and proposes. What MLflow has is read from there, an answer in the ledger is not paid for again."""

    def __init__(
        self,
        plan: Plan,
        suite: Suite,
        settings: Settings,
        *,
        ask: Ask,
        store: TrackingStore,
        rounds: Rounds,
        ledger: Ledger,
        packet: Path,
    ) -> None:
        self._plan, self._suite, self._settings = plan, suite, settings
        self._ask, self._store, self._rounds, self._ledger, self._packet = ask, store, rounds, ledger, packet
        self._scenarios = {s.id: s for s in suite.scenarios}
        self._texts: dict[str, LoggedCandidate] = {}
        self._elsewhere = max(0.0, rounds.spent() - ledger.cost(settings.identity.session))
        self._known: dict[tuple[str, ...], LoggedCandidate] | None = None

    @property
    def spent_usd(self) -> float:
        return self._elsewhere + self._ledger.cost(self._settings.identity.session)

    # -- measuring

    def measure(self, prompt: Prompt, scenarios: Sequence[str]) -> Mapping[str, Measured]:
        """Generate, log and judge. WaitingError in sit-down mode, UnreachableError, TrackingError."""
        chosen = [self._scenarios[s] for s in scenarios]
        found = self.generate(prompt, scenarios)
        found = self._judge(found)
        self._rounds.note(metrics={COST: self.spent_usd})
        return {s.id: self._measured(s, [c for c in found if c.scenario == s.id]) for s in chosen}

    def generate(self, prompt: Prompt, scenarios: Sequence[str]) -> list[LoggedCandidate]:
        """The candidates of these cells, all of them in MLflow, with texts. UnreachableError, TrackingError."""
        cells = self._cells([prompt], scenarios)
        self._generate([c for c in cells if self._find(c) is None])
        return self._with_texts([self._logged(c) for c in cells])

    def _cells(self, prompts: Sequence[Prompt], scenarios: Sequence[str]) -> list[Cell]:
        return [
            make_cell(self._suite, m, p, self._scenarios[s])
            for p in prompts
            for s in scenarios
            for m in self._suite.models
        ]

    def _find(self, cell: Cell) -> LoggedCandidate | None:
        if self._known is None:
            everyone = self._store.read(self._plan.experiment)
            self._known = {(c.model, c.prompt, c.scenario, c.cell): c for c in everyone}
        return self._known.get((*cell.names, cell.id))

    def _logged(self, cell: Cell) -> LoggedCandidate:
        found = self._find(cell)
        if found is None:
            raise TrackingError(f"MLflow has lost the candidate {' · '.join(cell.names)}; resume the loop")
        return found

    def _generate(self, cells: Sequence[Cell]) -> None:
        """New candidates, all of them in MLflow on return. Where most of a block fails, none is logged."""
        if not cells:
            return
        candidates = [future.result() for future in [self._ask(cell) for cell in cells]]
        failed = [c for c in candidates if c.failed]
        unasked = next((c.error for c in failed if (c.error or "").startswith("not generated")), None)
        if unasked is not None or 2 * len(failed) > len(candidates):
            raise UnreachableError(
                f"{len(failed)} of {len(candidates)} candidates could not be generated: {unasked or failed[0].error}"
            )
        entries = [self._entry(c).entry(self._plan.experiment) for c in candidates]
        self._store.log(entries)
        self._known = None
        for c in candidates:
            logged = self._logged(c.cell)
            if not c.failed:
                self._texts[logged.run_id] = _filled(logged, c)

    def _entry(self, candidate: Candidate) -> Logged:
        rubric = self._suite.rubric
        checks = {} if candidate.failed else fill_checks(rubric, candidate.outputs)
        session = self._settings.identity.session
        return Logged(candidate=candidate, rubric=rubric, session=session, checks=checks)

    def _with_texts(self, candidates: Sequence[LoggedCandidate]) -> list[LoggedCandidate]:
        missing = [c for c in candidates if c.run_id not in self._texts]
        self._texts.update({c.run_id: c for c in self._store.texts(missing)} if missing else {})
        return [_texts_of(c, self._texts[c.run_id]) for c in candidates]

    def _judge(self, candidates: list[LoggedCandidate]) -> list[LoggedCandidate]:
        rubric, judge = self._suite.rubric, self._suite.judge
        if self._plan.judged_by is JudgedBy.SIT_DOWN:
            if any(c.pending and c.sit_down() is None for c in candidates):
                everyone = self._store.read(self._plan.experiment)
                raise WaitingError(*self.export([c for c in everyone if c.pending]))
            return candidates
        assert judge is not None
        todo = [c for c in unscored(candidates, rubric, judge) if judge.name not in c.failed_verdicts]
        if not todo:
            return candidates
        after, came_to = judge_and_write(
            todo, rubric, judge, self._ask, lambda judgements: [j.write(self._store) for j in judgements]
        )
        self._known = None
        if came_to.unavailable:
            raise UnreachableError(came_to.unavailable)
        changed = {c.run_id: c for c in after}
        return [changed.get(c.run_id, c) for c in candidates]

    def export(self, candidates: Sequence[LoggedCandidate]) -> tuple[int, Path]:
        """A blind packet of these candidates, in an order that the loop's seed decides."""
        packet = build_packet(
            self._with_texts(candidates),
            self._suite.rubric,
            experiment=self._plan.experiment,
            seed=int(self._plan.id, 16) + self._plan.seed,
        )
        self._packet.parent.mkdir(parents=True, exist_ok=True)
        write_packet(self._packet, packet)
        return len(packet["items"]), self._packet

    def candidates(self, prompts: Sequence[Prompt], scenarios: Sequence[str]) -> list[LoggedCandidate]:
        """What MLflow has of these cells now."""
        self._known = None
        return [c for c in map(self._find, self._cells(prompts, scenarios)) if c is not None]

    def verdict(self, candidate: LoggedCandidate) -> Verdict | None:
        """The one that the loop goes by."""
        return candidate.automatic() if self._plan.judged_by is JudgedBy.AUTO else candidate.sit_down()

    def composite(self, candidate: LoggedCandidate) -> float | None:
        """Points; the rubric's worst for a generation that failed, None where nobody could judge."""
        if candidate.error is not None:
            return self._suite.rubric.bottom
        verdict = self.verdict(candidate)
        return None if verdict is None else composite({**verdict.scores, **candidate.checks}, self._suite.rubric)

    def _measured(self, scenario: Scenario, candidates: Sequence[LoggedCandidate]) -> Measured:
        scores = [s for c in candidates if (s := self.composite(c)) is not None]
        examples = tuple(self._example(scenario, c) for c in candidates)
        return Measured(score=sum(scores) / len(scores) if scores else None, examples=examples)

    def _example(self, scenario: Scenario, candidate: LoggedCandidate) -> Example:
        verdict = self.verdict(candidate)
        return Example(
            scenario=scenario.id,
            model=candidate.model,
            inputs=dict(scenario.vars),
            output="\n---\n".join(candidate.outputs or ()) or (candidate.error or ""),
            score=self.composite(candidate),
            criteria={**(verdict.scores if verdict else {}), **candidate.checks},
            rationale=verdict.rationale if verdict else candidate.error,
        )

    # -- proposing

    def propose(
        self, number: int, prompt: Prompt, component: int, examples: Sequence[Example], tried: Sequence[str]
    ) -> str:
        """A new text for one message of ``prompt``. ProposalError after ``TRIES`` replies that cannot be used.

        A proposer that refuses the question, as for being too long for it, is asked again with fewer examples.
        """
        messages = question(prompt, component, examples, self._suite.rubric, tried)
        problem = ""
        for _ in range(TRIES):
            reply = self._ask(self._cell(number, messages)).result()
            if reply.error is not None and len(examples) > 1 and not reply.error.startswith("not generated"):
                return self.propose(number, prompt, component, examples[: len(examples) // 2], tried[-1:])
            if reply.error is not None:
                raise UnreachableError(f"the proposer {self._plan.proposer.name} could not be asked: {reply.error}")
            try:
                return parse_proposal(reply.outputs[0], prompt.messages[component])
            except ProposalError as error:
                problem = str(error)
                messages = ask_again(messages, reply.outputs[0], problem)
        raise ProposalError(f"no usable proposal in {TRIES} tries: {problem}")

    def _cell(self, number: int, messages: tuple[Message, ...]) -> Cell:
        proposer = self._plan.proposer
        asked = Prompt(task=self._plan.task, version=f"round {number}", messages=messages)
        return Cell(
            task=self._plan.task,
            model=proposer,
            prompt=asked,
            scenario=Scenario(id="promptbench optimize"),
            messages=messages,
            params=dict(proposer.params),
        )


class MLflowJournal:
    """Rounds as nested runs."""

    def __init__(self, plan: Plan, rounds: Rounds) -> None:
        self._plan, self._rounds = plan, rounds

    def proposal(self, number: int) -> Mapping[str, Any] | None:
        return self._rounds.proposal(number)

    def keep(self, number: int, proposal: Mapping[str, Any]) -> None:
        self._rounds.keep(number, self._plan.version(number), proposal)

    def close(self, trial: Trial) -> None:
        metrics = {"train_composite": trial.mean, "e_value": trial.e_value, "saved_candidates": float(trial.saved)}
        outcome = trial.problem or ("dropped: clearly behind its parent" if trial.dropped else "measured")
        self._rounds.close(
            trial.number,
            metrics={k: v for k, v in metrics.items() if v is not None},
            tags={"promptbench.optimize.parent": trial.parent, "promptbench.optimize.outcome": outcome},
        )


def _filled(logged: LoggedCandidate, candidate: Candidate) -> LoggedCandidate:
    return replace(logged, outputs=candidate.outputs, context=dict(candidate.cell.scenario.vars))


def _texts_of(candidate: LoggedCandidate, texts: LoggedCandidate) -> LoggedCandidate:
    return replace(candidate, outputs=texts.outputs, context=texts.context)
