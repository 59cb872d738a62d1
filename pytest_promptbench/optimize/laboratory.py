"""The real laboratory: cells through LiteLLM, candidates and verdicts in MLflow, proposals from a model."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from ..autojudge import Ask, judge_unscored, unscored, updated, writing_to
from ..completer import Redactor
from ..errors import PacketError, PromptbenchError, TrackingError
from ..generation import OVER_BUDGET
from ..grid import make_cell
from ..ledger import Ledger
from ..packet import build_packet, read_packet, write_packet
from ..records import (
    Candidate,
    Cell,
    LoggedCandidate,
    Message,
    Prompt,
    Scenario,
    Suite,
    Tier,
    Verdict,
)
from ..report.text import waiting
from ..scores import SIT_DOWN, verdict_composite
from ..settings import Settings
from ..tracking.entry import Logged
from ..tracking.rounds import Rounds
from ..tracking.store import TrackingStore
from .budget import Budget
from .journal import MLflowJournal
from .plan import JudgedBy, Plan
from .proposing import TRIES, Example, ProposalError, ask_again, parse_proposal, question
from .state import Measured, OutOfMoneyError, UnreachableError


class WaitingError(PromptbenchError):
    """The loop waits: ``count`` candidates in the packet at ``path`` want a judge. ``scored``: it holds scores.

    ``why``: what is the matter with them, where they have been judged and that is not enough.
    """

    def __init__(self, count: int, path: Path, *, scored: bool = False, why: str = "") -> None:
        super().__init__(waiting(count))
        self.count, self.path, self.scored, self.why = count, path, scored, why


class MLflowLaboratory:
    """Measures and proposes. What MLflow has is read from there, an answer in the ledger is not paid for again.

    A cell whose generation failed in an earlier process is asked for once more.
    """

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
        packets: Path,
        rivals: int = 2,
    ) -> None:
        """``packets``: the folder where they go. ``rivals``: how many prompts the final comparison has."""
        self._plan, self._suite, self._settings = plan, suite, settings
        self._store, self._packets = store, packets
        self._scenarios = {s.id: s for s in suite.scenarios}
        self._redact = Redactor(suite.models, os.environ)
        self._texts: dict[str, LoggedCandidate] = {}
        self._known: dict[tuple[str, ...], LoggedCandidate] | None = None
        self._asked: set[tuple[str, ...]] = set()
        self._journal = MLflowJournal(plan, rounds)
        self._budget = Budget(plan, suite, rounds, ledger, session=settings.identity.session, rivals=rivals)
        self._ask = self._budget.counting(ask)

    # -- money

    @property
    def spent_usd(self) -> float:
        return self._budget.spent_usd

    @property
    def end_usd(self) -> float:
        """What is set aside for the final comparison."""
        return self._budget.end_usd

    def affords_round(self, best: Prompt) -> bool:
        """Whether a round at the mean price so far leaves what the final comparison of ``best`` may cost."""
        return self._budget.affords_round(best, candidates=len(self._everyone()))

    def open_test(self) -> None:
        """The search is over: the test split is used from now on, and the money set aside may be spent."""
        self._budget.open_test()

    # -- measuring

    def measure(self, prompt: Prompt, scenarios: Sequence[str]) -> Mapping[str, Measured]:
        """Generate, log and judge. WaitingError in sit-down mode, OutOfMoneyError, UnreachableError, TrackingError."""
        return self.measure_all([prompt], scenarios)[prompt.version]

    def measure_all(self, prompts: Sequence[Prompt], scenarios: Sequence[str]) -> dict[str, Mapping[str, Measured]]:
        """As ``measure``, by version: at each scenario on one tier of judges, and on that of the start in its rounds.

        All are generated before any is judged: one packet, one sitting.
        """
        generated = {p.version: self.generate(p, scenarios) for p in prompts}
        found = {version: self._judge(candidates) for version, candidates in generated.items()}
        tiers = self._tiers([c for candidates in found.values() for c in candidates])
        return {
            version: {
                s: self._measured(self._scenarios[s], [c for c in candidates if c.scenario == s], tiers.get(s))
                for s in scenarios
            }
            for version, candidates in found.items()
        }

    def generate(self, prompt: Prompt, scenarios: Sequence[str]) -> list[LoggedCandidate]:
        """The candidates of these cells, all of them in MLflow, with texts. As ``measure``, but nobody judges."""
        cells = self._cells([prompt], scenarios)
        self._generate([c for c in cells if self._wanted(c)])
        return self._with_texts([self._logged(c) for c in cells])

    def _wanted(self, cell: Cell) -> bool:
        found = self._find(cell)
        return found is None or (found.error is not None and (*cell.names, cell.content) not in self._asked)

    def _cells(self, prompts: Sequence[Prompt], scenarios: Sequence[str]) -> list[Cell]:
        return [
            make_cell(self._suite, m, p, self._scenarios[s])
            for p in prompts
            for s in scenarios
            for m in self._suite.models
        ]

    def _find(self, cell: Cell) -> LoggedCandidate | None:
        return self._everyone().get((*cell.names, cell.content))

    def _everyone(self) -> dict[tuple[str, ...], LoggedCandidate]:
        if self._known is None:
            everyone = self._store.read(self._plan.experiment)
            self._known = {(*c.names, c.content): c for c in everyone}
        return self._known

    def _logged(self, cell: Cell) -> LoggedCandidate:
        found = self._find(cell)
        if found is None:
            raise TrackingError(f"MLflow has lost the candidate {' · '.join(cell.names)}; resume the loop")
        return found

    def _generate(self, cells: Sequence[Cell]) -> None:
        """New candidates, all of them in MLflow on return. Where some were not asked for or most failed: the rest."""
        if not cells:
            return
        self._asked.update((*c.names, c.content) for c in cells)
        candidates = [future.result() for future in [self._ask(cell) for cell in cells]]
        failed = [c for c in candidates if c.failed]
        unasked = next((c.error for c in failed if c.unasked), None)
        unreachable = unasked is not None or 2 * len(failed) > len(candidates)
        session = self._settings.identity.session
        logged = [
            Logged.of(c, self._suite.rubric, session=session, redact=self._redact)
            for c in candidates
            if not (c.failed and unreachable)
        ]
        self._store.log([one.entry(self._plan.experiment) for one in logged])
        self._known = None
        for c in (one.candidate for one in logged):
            if not c.failed:
                found = self._logged(c.cell)
                self._texts[found.run_id] = _filled(found, c)
        self._budget.note()
        if unreachable:
            why = unasked or failed[0].error or ""
            self._refuse(why, f"{len(failed)} of {len(candidates)} candidates could not be generated: {why}")

    def _refuse(self, why: str, text: str) -> NoReturn:
        if OVER_BUDGET in why:
            raise OutOfMoneyError(f"one more request might pass --max-cost {self._plan.max_cost_usd or 0:g}")
        raise UnreachableError(text)

    def _with_texts(self, candidates: Sequence[LoggedCandidate]) -> list[LoggedCandidate]:
        missing = [c for c in candidates if c.run_id not in self._texts]
        self._texts.update({c.run_id: c for c in self._store.texts(missing)} if missing else {})
        return [_texts_of(c, self._texts[c.run_id]) for c in candidates]

    def _judge(self, candidates: list[LoggedCandidate]) -> list[LoggedCandidate]:
        rubric, judge = self._suite.rubric, self._suite.judge
        if self._plan.judged_by is JudgedBy.CHECKS:
            return candidates  # scored as they were logged
        if self._plan.judged_by is JudgedBy.SIT_DOWN:
            if any(c.pending and c.sit_down() is None for c in candidates):
                raise self.export([c for c in self._everyone().values() if c.pending])
            return candidates
        assert judge is not None
        judgeable = [c for c in candidates if judge.name not in c.failed_verdicts]
        if not unscored(judgeable, rubric, judge):
            return candidates
        after, came_to = judge_unscored(judgeable, rubric, judge, self._ask, writing_to(self._store))
        self._everyone().update({(*c.names, c.content): c for c in after})  # as a read of all of them would
        self._budget.note()
        if came_to.interrupted:
            raise KeyboardInterrupt
        if came_to.unavailable:
            self._refuse(came_to.unavailable, came_to.unavailable)
        return updated(candidates, after)

    def _tiers(self, candidates: Sequence[LoggedCandidate]) -> Mapping[str, Tier]:
        """The tier to go by at each scenario. WaitingError where some lack it: two tiers' scores are not compared.

        It is the one that the start was decided by; before that, and on the test split, the highest that has judged
        all of these, or where none has, any of them.
        """
        if self._plan.judged_by is not JudgedBy.SIT_DOWN:
            return dict.fromkeys((c.scenario for c in candidates), Tier.AUTO)
        start = self._journal.decision(0)
        found: dict[str, Tier] = dict(start.tiers) if start else {}
        groups = defaultdict(list)
        for c in candidates:
            if c.error is None:
                groups[c.scenario].append({t for t in SIT_DOWN if c.latest(t)})
        for scenario, judged in groups.items():
            tiers = set.intersection(*judged) or set.union(*judged)
            if scenario not in found and tiers:
                found[scenario] = min(tiers, key=SIT_DOWN.index)
        for tier in SIT_DOWN:
            lacking = [c for c in candidates if c.error is None and found.get(c.scenario) is tier]
            lacking = [c for c in lacking if c.latest(tier) is None]
            if lacking:
                raise self.export(lacking, tier)
        return found

    def export(self, candidates: Sequence[LoggedCandidate], tier: Tier | None = None) -> WaitingError:
        """A blind packet of these candidates, in an order that the loop's seed decides.

        A packet of the very same candidates that is there stays as it is, and so does one that holds a score.
        ``tier``: whose scores are wanted, of candidates that another has judged; a packet with that one's is no use.
        """
        why = "" if tier is None else _asking_for(tier, candidates)
        packet = build_packet(
            self._with_texts(candidates),
            self._suite.rubric,
            experiment=self._plan.experiment,
            seed=int(self._plan.id, 16) + self._plan.seed,
        )
        items = {i["item"] for i in packet["items"]}
        self._packets.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            path = self._packets / ("packet.json" if number == 1 else f"packet-{number}.json")
            there = _packet_at(path)
            scored = there is not None and self._holds_scores(there)
            usable = there is not None and (tier is None or not scored or there.get("judge_kind") == tier.value)
            if there is not None and usable and {i.get("item") for i in there["items"]} == items:
                return WaitingError(len(items), path, scored=scored, why=why)
            if not path.exists() or (there is not None and not scored):
                write_packet(path, packet)
                return WaitingError(len(items), path, why=why)
        raise AssertionError("unreachable")

    def _holds_scores(self, packet: Mapping[str, Any]) -> bool:
        judged = {c.name for c in self._suite.rubric.judged}
        entries = [e for i in packet["items"] for e in i.get("candidates", ())]
        return any(v is not None for e in entries for k, v in dict(e.get("scores") or {}).items() if k in judged)

    def candidates(self, prompts: Sequence[Prompt], scenarios: Sequence[str]) -> list[LoggedCandidate]:
        """What MLflow has of these cells now."""
        self._known = None
        return [c for c in map(self._find, self._cells(prompts, scenarios)) if c is not None]

    def _measured(self, scenario: Scenario, candidates: Sequence[LoggedCandidate], tier: Tier | None) -> Measured:
        verdicts = [None if tier is None else c.latest(tier) for c in candidates]
        examples = tuple(self._example(scenario, c, v) for c, v in zip(candidates, verdicts, strict=True))
        scores = [e.score for e in examples if e.score is not None]
        whole = bool(scores) and len(scores) == len(candidates)
        return Measured(score=sum(scores) / len(scores) if whole else None, tier=tier, examples=examples)

    def _example(self, scenario: Scenario, candidate: LoggedCandidate, verdict: Verdict | None) -> Example:
        score = None
        if verdict is not None and candidate.error is None:
            score = verdict_composite(verdict, candidate, self._suite.rubric)
        return Example(
            scenario=scenario.id,
            model=candidate.model,
            inputs=dict(scenario.vars),
            output="\n---\n".join(candidate.outputs or ()) or (candidate.error or ""),
            score=score,
            criteria={**(verdict.scores if verdict else {}), **candidate.checks},
            rationale=verdict.rationale if verdict else candidate.error,
        )

    # -- proposing

    def propose(
        self, number: int, prompt: Prompt, component: int, examples: Sequence[Example], tried: Sequence[str]
    ) -> str:
        """A new text for one message of ``prompt``. ProposalError after ``TRIES`` replies that cannot be used.

        A proposer that refuses the question, as for being too long for it, is asked again with fewer examples; one that
        is out of order, which each question has its retries for already, is not.
        """
        messages = question(prompt, component, examples, self._suite.rubric, tried, loop=self._plan.id)
        problem = ""
        for _ in range(TRIES):
            reply = self._ask(self._cell(number, messages)).result()
            self._budget.note()
            if reply.error is not None and not reply.empty:
                if reply.refused and len(examples) > 1:
                    return self.propose(number, prompt, component, examples[: len(examples) // 2], tried[-1:])
                self._refuse(reply.error, f"the proposer {self._plan.proposer.name} could not be asked: {reply.error}")
            text = "" if reply.empty else reply.outputs[0]
            cut_off = not reply.empty and reply.answers[0].finish_reason == "length"
            try:
                return parse_proposal(text, prompt.messages[component], cut_off=cut_off)
            except ProposalError as error:
                problem = (reply.error or "").rpartition("; ")[0] or str(error)  # without what a user could do next
                messages = ask_again(messages, text, str(error), prompt.messages[component])
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


def _filled(logged: LoggedCandidate, candidate: Candidate) -> LoggedCandidate:
    return replace(logged, outputs=candidate.outputs, context=dict(candidate.cell.scenario.vars))


def _texts_of(candidate: LoggedCandidate, texts: LoggedCandidate) -> LoggedCandidate:
    return replace(candidate, outputs=texts.outputs, context=texts.context)


def _asking_for(tier: Tier, candidates: Sequence[LoggedCandidate]) -> str:
    judges = sorted({t.value for c in candidates for t in SIT_DOWN if c.latest(t)})
    return (
        f"{' and '.join(judges) or 'nobody'} judged these, and {tier.value} what they are compared with. Tiers differ "
        f'in how strict they are: score the packet with "judge_kind": "{tier.value}"'
    )


def _packet_at(path: Path) -> Mapping[str, Any] | None:
    """A packet that is there; None where there is none, or nothing that reads as one."""
    try:
        found = read_packet(path)
    except PacketError:
        return None
    return found if isinstance(found.get("items"), list) else None
