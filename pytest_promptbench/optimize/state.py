"""How far a loop is, and what the search asks of the world: a laboratory that measures, a journal that remembers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import PromptbenchError
from ..records import Prompt, Record, Tier
from .plan import FEWEST_TRAIN, Plan, Trial
from .proposing import Example


class UnreachableError(PromptbenchError):
    """A provider or the judge could not be asked, or the champion is another since; the loop can be resumed.

    What was paid for is kept.
    """


class OutOfMoneyError(PromptbenchError):
    """A call was not made because it might pass ``--max-cost``."""


@dataclass(frozen=True, kw_only=True)
class Measured(Record):
    """A prompt on one scenario: the mean composite over the models in points, and the candidates behind it.

    ``score`` is None where the candidate of any model failed or could not be judged: a mean over the other models
    would be of something else. ``tier``: whose verdicts it is of.
    """

    score: float | None
    tier: Tier | None = None
    examples: tuple[Example, ...] = ()


class Laboratory(Protocol):
    """Generates and judges. Whatever it was asked before, it answers from memory.

    Any method may raise to pause the loop, e.g. for a judge; OutOfMoneyError ends the search.
    """

    @property
    def spent_usd(self) -> float:
        """What all calls of the loop have cost so far, as far as prices are known."""

    def affords_round(self, best: Prompt) -> bool:
        """Whether one more round like those before leaves enough of the money to compare ``best`` at the end."""

    def measure(self, prompt: Prompt, scenarios: Sequence[str]) -> Mapping[str, Measured]: ...

    def propose(
        self, number: int, prompt: Prompt, component: int, examples: Sequence[Example], tried: Sequence[str]
    ) -> str:
        """A better text for one message. Raises ProposalError where the proposer has no usable one."""


class Journal(Protocol):
    """Keeps proposals and decisions by round."""

    def proposal(self, number: int) -> Mapping[str, Any] | None:
        """What ``keep`` was given for this round; None where the loop has not been there."""

    def keep(self, number: int, proposal: Mapping[str, Any]) -> None: ...

    def decision(self, number: int) -> Trial | None:
        """What ``close`` was given for this round, in whatever process."""

    def close(self, trial: Trial) -> None:
        """Keep a round's decision for good. Doing so again changes nothing."""


@dataclass
class Search:
    """How far a loop is. ``scores`` of a version: train scenario -> composite in points, where there is one.

    ``whole``: the versions that were tried on all train scenarios. ``broke``: the money ended the search.
    """

    plan: Plan
    prompts: dict[str, Prompt] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    trials: list[Trial] = field(default_factory=list)
    best: str = ""
    stopped: str = ""
    broke: bool = False
    spent_usd: float = 0.0

    @classmethod
    def begin(cls, plan: Plan) -> Search:
        return cls(plan=plan, prompts={plan.base.version: plan.base}, best=plan.base.version)

    @property
    def saved(self) -> int:
        """Candidates that early stopping did not generate."""
        return sum(t.saved for t in self.trials)

    def mean(self, version: str) -> float | None:
        """Mean composite over the train scenarios; None for a version that was not tried on all of them."""
        scores = self.scores.get(version, {})
        return sum(scores.values()) / len(scores) if scores and version in self.whole else None

    def gain(self, version: str) -> float | None:
        """How far it is ahead of the best, in points over the train scenarios that both have scores of.

        None where these are too few to say, or it has not seen all.
        """
        mine, best = self.scores.get(version, {}), self.scores.get(self.best, {})
        common = mine.keys() & best.keys()
        if version not in self.whole or len(common) < FEWEST_TRAIN:
            return None
        return sum(mine[s] - best[s] for s in common) / len(common)
