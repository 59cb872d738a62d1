"""What a loop's calls may cost and will likely cost, in US dollars, before they are made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import judging
from ..completer import LiteLLMCompleter
from ..grid import make_cell
from ..records import Message, Model, Prompt, Request, Suite, reply_limit
from . import proposing
from .plan import JudgedBy, Plan

ANSWER_TOKENS, VERDICT_TOKENS, PROPOSAL_TOKENS = 200, 150, 400
"""Lengths of replies that an estimate goes by: a paragraph or two, scores with a rationale, a prompt."""
_CHARACTERS = 4
"""Of a token, about."""


def everyone(plan: Plan, suite: Suite) -> list[Model]:
    """The models that a loop asks: the suite's, its automatic judge where that scores, the proposer."""
    judge = [suite.judge] if suite.judge is not None and plan.judged_by is JudgedBy.AUTO else []
    return [*suite.models, *judge, plan.proposer]


@dataclass(frozen=True, kw_only=True)
class Price:
    """``likely`` and ``most`` in US dollars, as far as LiteLLM knows prices."""

    likely: float = 0.0
    most: float = 0.0

    def __add__(self, other: Price) -> Price:
        return Price(likely=self.likely + other.likely, most=self.most + other.most)

    def __mul__(self, times: float) -> Price:
        return Price(likely=times * self.likely, most=times * self.most)


class Prices:
    """Of one loop."""

    def __init__(self, plan: Plan, suite: Suite) -> None:
        self._plan, self._suite = plan, suite
        self._completer = LiteLLMCompleter(everyone(plan, suite))
        self._completer.prepare()

    def unknown(self) -> list[str]:
        """The models that LiteLLM has no price of."""
        return sorted({m.name for m in everyone(self._plan, self._suite) if not self._completer.is_priced(m)})

    def comparison(self, prompts: Iterable[Prompt], scenarios: Sequence[str], *, tries: int = 1) -> Price:
        """Generating these prompts' cells and having each output judged; ``most`` with so many replies of the judge."""
        chosen = [s for s in self._suite.scenarios if s.id in set(scenarios)]
        total = Price()
        for prompt in prompts:
            for model in self._suite.models:
                requests = [r for s in chosen for r in make_cell(self._suite, model, prompt, s).requests]
                total = sum((self._of(r, ANSWER_TOKENS) for r in requests), total)
                if self._plan.judged_by is JudgedBy.AUTO:
                    contexts = [json.dumps(dict(s.vars), ensure_ascii=False, default=str) for s in chosen]
                    verdicts = [self._verdict(model, prompt, len(c), tries) for c in contexts]
                    total = sum((v * self._suite.samples for v in verdicts), total)
        return total

    def _verdict(self, model: Model, prompt: Prompt, context: int, tries: int) -> Price:
        judge = self._suite.judge
        assert judge is not None
        asked = len(judging.SYSTEM) + len(self._suite.rubric.body) + len(judging.QUESTION) + context
        params = judging.judge_params(judge)
        return self._between(
            judge, params, VERDICT_TOKENS, likely=asked + _CHARACTERS * ANSWER_TOKENS,
            most=asked + _CHARACTERS * longest({**model.params, **prompt.params}), tries=tries,
        )  # fmt: skip

    def proposal(self) -> Price:
        """One proposal; ``most`` where every reply but the last cannot be used."""
        plan = self._plan
        text = max(len(m.content) for m in plan.base.messages)
        asked = len(proposing.SYSTEM) + len(proposing.QUESTION) + len(proposing.criteria_text(self._suite.rubric))
        example = max(len(json.dumps(dict(s.vars), ensure_ascii=False, default=str)) for s in self._suite.scenarios)
        shown = proposing.WEAKEST * (example + 2 * proposing.SHOWN)
        likely = asked + text + proposing.WEAKEST * (example + _CHARACTERS * (ANSWER_TOKENS + VERDICT_TOKENS))
        return self._between(
            plan.proposer, plan.proposer.params, PROPOSAL_TOKENS, likely=min(likely, asked + text + shown),
            most=asked + max(proposing.LONGEST, 2 * text) + shown, tries=proposing.TRIES,
        )  # fmt: skip

    def _between(
        self, model: Model, params: Mapping[str, Any], tokens: int, *, likely: int, most: int, tries: int
    ) -> Price:
        """``likely`` and ``most``: characters of the first question; each further one holds the reply before it."""

        def request(characters: int) -> Request:
            return Request(model=model, messages=(Message(role="user", content="x" * characters),), params=params)

        asked = [self._of(request(most + k * _CHARACTERS * longest(params)), tokens) for k in range(tries)]
        return Price(likely=self._of(request(likely), tokens).likely, most=sum(p.most for p in asked))

    def _of(self, request: Request, tokens: int) -> Price:
        return Price(
            likely=self._completer.likely_cost_usd(request, reply_tokens=tokens) or 0.0,
            most=self._completer.worst_cost_usd(request) or 0.0,
        )


def longest(params: Mapping[str, Any]) -> int:
    """Tokens of a reply at most: what the model may write, 1024 where nobody says."""
    return reply_limit(params) or 1024
