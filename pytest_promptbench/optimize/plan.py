"""What a loop is to do, decided once and kept in MLflow: the start, the split, the models, when to stop."""

from __future__ import annotations

import random
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self, TypeVar

from ..catalog.template import PLACEHOLDER, placeholders, render
from ..errors import UsageError
from ..records import (
    CONVERSATION,
    Message,
    Model,
    Prompt,
    Record,
    Suite,
    Tier,
    conversation,
    sha256,
)
from ..statistics import fewest_pairs

T = TypeVar("T")

TEST_SHARE = 0.4
FEWEST_TRAIN = 4
ALPHA_DROP = 0.1
"""How often a proposal may be dropped early that would have ended level with its parent or ahead."""
PLAN_SCHEMA = "promptbench/optimize-plan/1"
ROUND_SCHEMA = "promptbench/optimize-round/1"
NO_PROMOTION = "none"
"""``Plan.promote_policy`` of a loop that ends with the comparison."""


class JudgedBy(StrEnum):
    """Who scores what the loop generates."""

    AUTO = "auto"
    SIT_DOWN = "sit-down"
    CHECKS = "checks"
    """Programs, under a rubric that they fill alone: as the automatic tier, and nobody is asked or waited for."""

    @property
    def option(self) -> str:
        """What ``--judge`` calls it."""
        return self.AUTO.value if self is JudgedBy.CHECKS else self.value


@dataclass(frozen=True, kw_only=True)
class Plan(Record):
    """One loop: everything that a later ``--resume`` goes by.

    ``components`` are the places of the messages that may be rewritten; ``block`` is how many scenarios are generated
    and judged before a proposal is looked at again. ``split`` is the id of the loop that drew the split, ``tested``
    how many loops had looked at its test scenarios before this one. ``promote_policy`` is a ``promotion.Policy`` or
    ``NO_PROMOTION``; ``report`` a folder, relative to the project's root where it is below it.
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
    rounds: int
    patience: int
    block: int
    seed: int = 0
    split: str = ""
    tested: int = 0
    max_cost_usd: float | None = None
    allow_unpriced: bool = False
    early_stopping: bool = True
    promote_policy: str = NO_PROMOTION
    promote_within: tuple[str, ...] = ()
    report: str = ""
    suite_sha256: str = ""
    created_at: str = ""

    def version(self, number: int) -> str:
        """The name of the prompt that round ``number`` proposes: of the prompt that began it all, loop and round."""
        first = re.sub(r"(-[0-9a-f]{6}-r\d+)+$", "", self.base.version)
        return f"{first}-{self.id}-r{number}"

    def to_json(self) -> dict[str, Any]:
        return {"schema": PLAN_SCHEMA, **super().to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """UsageError for a plan of another format."""
        return read_kept(data, PLAN_SCHEMA, super().from_json)


def read_kept(data: Any, schema: str, make: Callable[[Mapping[str, Any]], T]) -> T:
    """What ``make`` makes of the data, if that says that it is of this format. UsageError, also where it is damaged."""
    found = data.get("schema") if isinstance(data, Mapping) else None
    if found != schema:
        raise UsageError(
            f"the loop was kept by another version of pytest-promptbench (format {found!r}, this one "
            f"reads {schema!r}): resume it with that version, or begin a new loop"
        )
    try:
        return make(data)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"what the loop kept in MLflow as {schema} is damaged ({type(error).__name__}: {error}): begin a new loop"
        ) from None


def new_id() -> str:
    return secrets.token_hex(3)


def make_plan(
    *,
    loop: str,
    base: Prompt,
    split: Split,
    judged_by: JudgedBy,
    rounds: int,
    patience: int | None = None,
    **more: Any,
) -> Plan:
    """A plan with what follows from the rest: the experiment, when a proposal is looked at, when to give up.

    A proposal is looked at four times, or where a person has to judge in between, twice. Half the rounds without a
    gain, at least three, are enough.
    """
    looks = 2 if judged_by is JudgedBy.SIT_DOWN else 4
    return Plan(
        id=loop,
        task=base.task,
        experiment=f"{base.task}-optimize-{loop}",
        base=base,
        train=split.train,
        test=split.test,
        split=split.drawn_by or loop,
        tested=split.tested,
        seed=split.seed,
        components=components(base),
        judged_by=judged_by,
        rounds=rounds,
        patience=patience or max(3, rounds // 2),
        block=max(2, -(-len(split.train) // looks)),
        **more,
    )


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which scenarios are to learn from and which are locked. ``drawn_by``: the loop that drew it; empty: this one."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    seed: int
    drawn_by: str = ""
    tested: int = 0


def split(scenarios: Sequence[str], *, seed: int, before: Split | None = None) -> Split:
    """Train and test scenarios, at random by the seed and the scenarios' names, each in the order given.

    Four in ten are for the test, and no fewer than can tell two prompts apart at all. With an earlier split of the
    task ``before``, its scenarios stay where they are and only new ones are drawn. UsageError where too few are left
    to learn from or to compare on.
    """
    least = fewest_pairs(0.05)
    count = max(least, round(TEST_SHARE * len(scenarios)))
    if len(scenarios) - count < FEWEST_TRAIN:
        raise UsageError(
            f"{len(scenarios)} scenarios are too few to optimise on: {least} are locked away for the final comparison "
            f"(fewer cannot tell two prompts apart) and {FEWEST_TRAIN} are the least to learn from; add "
            f"{least + FEWEST_TRAIN - len(scenarios)}"
        )
    test = {s for s in scenarios if before is not None and s in before.test}
    learnt = {s for s in scenarios if before is not None and s in before.train}
    free = sorted(s for s in scenarios if s not in test and s not in learnt)
    test |= set(random.Random(f"{seed}:split").sample(free, min(len(free), max(0, count - len(test)))))
    found = Split(
        train=tuple(s for s in scenarios if s not in test),
        test=tuple(s for s in scenarios if s in test),
        seed=seed,
        drawn_by=before.drawn_by if before else "",
        tested=before.tested if before else 0,
    )
    if len(found.test) < least or len(found.train) < FEWEST_TRAIN:
        raise UsageError(
            f"the task's split has {len(found.train)} train and {len(found.test)} test scenarios left, and "
            f"{FEWEST_TRAIN} and {least} are the least: add scenarios, or draw a new split with --new-split"
        )
    return found


def components(prompt: Prompt) -> tuple[int, ...]:
    """The messages that hold instructions: system and developer messages, else those that say more than placeholders.

    Without any such text, all messages but conversations.
    """
    system = [i for i, m in enumerate(prompt.messages) if m.role in ("system", "developer")]
    wordy = [i for i, m in enumerate(prompt.messages) if len(PLACEHOLDER.sub("", m.content).split()) > 3]
    own = [i for i, m in enumerate(prompt.messages) if m.role != CONVERSATION]
    return tuple(system or wordy or own)


def check_filled(champion: Prompt, suite: Suite, *, remedy: str) -> None:
    """UsageError where some scenario cannot fill a champion's text from the registry, or would leave nothing of it."""
    for message in champion.messages:
        for name in placeholders([message]):
            values = [s.vars.get(name) for s in suite.scenarios]
            what = "conversation" if message.role == CONVERSATION else "value"
            if None in (map(conversation, values) if message.role == CONVERSATION else values):
                raise UsageError(
                    f"the champion of {suite.task}, {champion.version}, has the placeholder {{{{ {name} }}}}, which "
                    f"some scenarios have no {what} for; {remedy}"
                )
    if not all(render(champion.messages, s.vars) for s in suite.scenarios):
        raise UsageError(
            f"the champion of {suite.task}, {champion.version}, is nothing but a conversation, which some scenarios "
            f"have no message of; {remedy}"
        )


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
    """What a round came to, as it was decided then: a resumed loop takes it as it stands. Round 0 is the start.

    ``scores``: train scenario -> composite in points, of those that were generated and judged whole. ``tiers``, of
    round 0: whose verdicts these are, by scenario; later rounds are scored by the same. ``e_value`` is the
    evidence against ending level with the parent; ``saved`` counts the candidates that were not generated because of
    it. ``problem`` says why there was no new prompt to try. ``spent_usd``: the loop's cost until then.
    """

    number: int
    parent: str = ""
    prompt: Prompt | None = None
    component: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)
    tiers: Mapping[str, Tier] = field(default_factory=dict)
    dropped: bool = False
    e_value: float | None = None
    saved: int = 0
    problem: str | None = None
    spent_usd: float = 0.0

    @property
    def mean(self) -> float | None:
        """Mean composite over the train scenarios, of a proposal that has seen all of them; None for others."""
        if self.dropped or not self.scores:
            return None
        return sum(self.scores.values()) / len(self.scores)

    def to_json(self) -> dict[str, Any]:
        return {"schema": ROUND_SCHEMA, **super().to_json()}
