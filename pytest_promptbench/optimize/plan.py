"""What a loop is to do, decided once and kept in MLflow: the start, the split, the models, when to stop."""

from __future__ import annotations

import random
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from ..catalog.template import PLACEHOLDER
from ..errors import UsageError
from ..records import Message, Model, Prompt, Record, Suite, sha256
from ..statistics import fewest_pairs

TEST_SHARE = 0.4
FEWEST_TRAIN = 4
ALPHA_DROP = 0.1
"""How often a proposal that is in truth as good as its parent may be dropped early."""


class JudgedBy(StrEnum):
    """Who scores what the loop generates."""

    AUTO = "auto"
    SIT_DOWN = "sit-down"


@dataclass(frozen=True, kw_only=True)
class Plan(Record):
    """One loop.

    ``components`` are the places of the messages that may be rewritten; ``block`` is how many scenarios are generated
    and judged before a proposal is looked at again.
    ``suite_sha256`` covers what the scores depend on, so that a loop is not resumed on other scenarios.
    """

    id: str
    task: str
    suite: str
    experiment: str
    base: Prompt
    models: tuple[str, ...]
    train: tuple[str, ...]
    test: tuple[str, ...]
    components: tuple[int, ...]
    proposer: Model
    judged_by: JudgedBy
    rounds: int = 8
    patience: int = 4
    block: int = 3
    seed: int = 0
    max_cost_usd: float | None = None
    early_stopping: bool = True
    suite_sha256: str = ""
    created_at: str = ""

    def version(self, number: int) -> str:
        """The name of the prompt that round ``number`` proposes: of the prompt that began it all, loop and round."""
        first = re.sub(r"(-[0-9a-f]{6}-r\d+)+$", "", self.base.version)
        return f"{first}-{self.id}-r{number}"


def new_id() -> str:
    return secrets.token_hex(3)


def split(scenarios: Sequence[str], *, seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(train, test), at random by the seed and the scenarios' names, each in the order given.

    Four in ten are for the test, and no fewer than can tell two prompts apart at all. UsageError where that leaves
    too few to learn from.
    """
    least = fewest_pairs(0.05)
    count = max(least, round(TEST_SHARE * len(scenarios)))
    if len(scenarios) - count < FEWEST_TRAIN:
        raise UsageError(
            f"{len(scenarios)} scenarios are too few to optimise on: {least} are locked away for the final comparison "
            f"(fewer cannot tell two prompts apart) and {FEWEST_TRAIN} are the least to learn from; add "
            f"{least + FEWEST_TRAIN - len(scenarios)}"
        )
    chosen = set(random.Random(f"{seed}:split").sample(sorted(scenarios), count))
    return tuple(s for s in scenarios if s not in chosen), tuple(s for s in scenarios if s in chosen)


def components(prompt: Prompt) -> tuple[int, ...]:
    """The messages that hold instructions: system and developer messages, else those that say more than placeholders.

    Without any such text, all messages.
    """
    system = [i for i, m in enumerate(prompt.messages) if m.role in ("system", "developer")]
    wordy = [i for i, m in enumerate(prompt.messages) if len(PLACEHOLDER.sub("", m.content).split()) > 3]
    return tuple(system or wordy or range(len(prompt.messages)))


def with_texts(prompt: Prompt, texts: Mapping[int, str], version: str) -> Prompt:
    """The prompt with some messages' texts replaced, under a new name and hash."""
    messages = tuple(Message(role=m.role, content=texts.get(i, m.content)) for i, m in enumerate(prompt.messages))
    content = {"messages": [m.to_json() for m in messages], "params": dict(prompt.params)}
    return Prompt(task=prompt.task, version=version, messages=messages, params=prompt.params, sha256=sha256(content))


def fingerprint(suite: Suite) -> str:
    """Hash of what the scores of a prompt depend on besides its text."""
    return sha256(
        {
            "rubric": suite.rubric.sha256,
            "scenarios": [[s.id, dict(s.vars)] for s in suite.scenarios],
            "models": [m.to_json() for m in suite.models],
            "judge": suite.judge.to_json() if suite.judge else None,
            "samples": suite.samples,
        }
    )


@dataclass(frozen=True, kw_only=True)
class Trial(Record):
    """What a round came to. ``scores``: train scenario -> composite in points, of those that were generated.

    ``e_value`` is the evidence against being as good as the parent; ``saved`` counts the candidates that were not
    generated because of it. ``problem`` says why there was no new prompt to try.
    """

    number: int
    parent: str
    prompt: Prompt | None = None
    component: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)
    dropped: bool = False
    e_value: float | None = None
    saved: int = 0
    problem: str | None = None

    @property
    def mean(self) -> float | None:
        """Mean composite over the train scenarios, of a proposal that has seen all of them; None for others."""
        if self.dropped or not self.scores:
            return None
        return sum(self.scores.values()) / len(self.scores)
