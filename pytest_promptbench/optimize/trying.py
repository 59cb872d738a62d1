"""One proposal on trial against its parent, a block of scenarios at a time."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from ..records import Prompt, Rubric
from ..statistics import BehindTest
from .plan import ALPHA_DROP, Plan, Trial


class OnTrial:
    """``before``: the parent's scores by train scenario, in points."""

    def __init__(
        self,
        plan: Plan,
        rubric: Rubric,
        number: int,
        *,
        parent: str,
        prompt: Prompt,
        component: int,
        before: Mapping[str, float],
    ) -> None:
        self.prompt = prompt
        self._plan, self._number, self._parent, self._component, self._before = plan, number, parent, component, before
        self._rooms = {s: rubric.top - score for s, score in before.items()}
        self._test = BehindTest(list(self._rooms.values()), alpha=ALPHA_DROP)
        self._rest = list(plan.train)
        random.Random(f"{plan.seed}:{number}").shuffle(self._rest)  # what the test rests on: no score decides the order

    @property
    def goes_on(self) -> bool:
        return bool(self._rest) and not (self._plan.early_stopping and self._test.behind)

    @property
    def whole(self) -> bool:
        return not self._rest

    def block(self) -> list[str]:
        """The next scenarios to measure."""
        block, self._rest = self._rest[: self._plan.block], self._rest[self._plan.block :]
        return block

    def take(self, block: Sequence[str], scores: Mapping[str, float]) -> None:
        """Weigh what was measured. Where one side has no score, there is nothing to compare."""
        for s in block:
            if s in self._before and s in scores:
                self._test.update(scores[s] - self._before[s], room=self._rooms[s])
            elif s in self._before:
                self._test.skip(room=self._rooms[s])

    def decision(self, scores: Mapping[str, float], *, spent_usd: float) -> Trial:
        return Trial(
            number=self._number,
            parent=self._parent,
            prompt=self.prompt,
            component=self._component,
            scores=dict(scores),
            dropped=bool(self._rest),
            e_value=min(self._test.e_value, 1e12) if self._plan.early_stopping else None,
            saved=len(self._rest) * len(self._plan.models),
            spent_usd=spent_usd,
        )
