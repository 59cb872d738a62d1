"""Does the prompt loop end with a truly better champion, and how often with a wrong one? Where the truth is known.

    python benchmarks/optimize.py --runs 200

A simulated task: a prompt is a set of instructions, each with a true effect on the composite (3 to 15 points) that
differs by scenario, and every answer is judged with noise. A rationale names an instruction that would help with
probability 1/4; the proposer follows it, or else adds or drops something at random. The loop (`optimize.search`), its
early stopping and the gate (`promotion.decide`) are the real ones; only answers, scores and proposals are simulated.

Three arms on the same worlds and seeds: the loop; the loop without early stopping; random search, which proposes as
often but without looking at any answer, and keeps the best on train. Half of a table's worlds have instructions that
help ("something to gain"), in the other half none does, so that every promotion there is wrong.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pytest_promptbench.catalog.rubric import load_rubric
from pytest_promptbench.optimize.plan import JudgedBy, Plan, Trial, components, split, with_texts
from pytest_promptbench.optimize.proposing import Example
from pytest_promptbench.optimize.search import Measured, search
from pytest_promptbench.promotion import Policy, decide
from pytest_promptbench.records import (
    Judge,
    LoggedCandidate,
    Message,
    Model,
    Prompt,
    Rubric,
    Tier,
    Verdict,
)

INSTRUCTIONS = [f"instruction-{i}" for i in range(14)]
MODELS = ("small", "large")
RUBRIC = """---
id: three
criteria:
  - {name: a, type: scale, min: 1, max: 5, weight: 1}
  - {name: b, type: scale, min: 1, max: 5, weight: 1}
  - {name: c, type: scale, min: 1, max: 5, weight: 1}
---
5 is best.
"""


@dataclass
class World:
    """One task, as nobody sees it. ``effect``: instruction -> points, on average over scenarios."""

    seed: int
    gain: bool
    scenarios: int = 30
    noise: float = 1.2
    effect: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, 7])
        helpful = 4 if self.gain else 0
        values = [*(rng.uniform(0.4, 1.2, size=helpful)), *(-rng.uniform(0.2, 1.5, size=5))]
        values += [0.0] * (len(INSTRUCTIONS) - len(values))
        self.effect = dict(zip(rng.permutation(INSTRUCTIONS), map(float, values), strict=True))
        self._level = rng.normal(9, 1.5, size=self.scenarios)
        self._weight = {i: rng.normal(1, 0.5, size=self.scenarios) for i in INSTRUCTIONS}

    def parts(self, prompt: Prompt) -> set[str]:
        return set(prompt.messages[0].content.split()) & set(INSTRUCTIONS)

    def truth(self, prompt: Prompt) -> float:
        """The composite to be expected of a new scenario."""
        return 9 + sum(self.effect[i] for i in self.parts(prompt))

    def score(self, prompt: Prompt, scenario: str, model: str) -> float:
        s = int(scenario[1:])
        parts = sorted(self.parts(prompt))
        noise = np.random.default_rng([self.seed, s, MODELS.index(model), *[INSTRUCTIONS.index(p) for p in parts]])
        value = self._level[s] + sum(self.effect[i] * self._weight[i][s] for i in parts)
        return float(np.clip(value + noise.normal(0, self.noise), 3, 15))


@dataclass
class Simulated:
    """The laboratory and the journal of one run."""

    world: World
    reflects: bool
    calls: int = 0
    spent_usd: float = 0.0

    def __post_init__(self) -> None:
        self._rng = random.Random(f"{self.world.seed}:proposer:{self.reflects}")

    def measure(self, prompt: Prompt, scenarios: Sequence[str]) -> Mapping[str, Measured]:
        found = {}
        for s in scenarios:
            scores = {m: self.world.score(prompt, s, m) for m in MODELS}
            self.calls += len(scores)
            examples = tuple(
                Example(scenario=s, model=m, inputs={}, output="", score=v, criteria={}, rationale=self._hint(prompt))
                for m, v in scores.items()
            )
            found[s] = Measured(score=sum(scores.values()) / len(scores), examples=examples)
        return found

    def _hint(self, prompt: Prompt) -> str:
        missing = [i for i, e in self.world.effect.items() if e > 0 and i not in self.world.parts(prompt)]
        missing += [f"-{i}" for i in self.world.parts(prompt) if self.world.effect[i] < 0]
        return self._rng.choice(missing) if missing and self._rng.random() < 0.25 else ""

    def propose(
        self, number: int, prompt: Prompt, component: int, examples: Sequence[Example], tried: Sequence[str]
    ) -> str:
        self.calls += 1
        parts = set(self.world.parts(prompt))
        hints = [e.rationale for e in examples if e.rationale] if self.reflects else []
        hint = self._rng.choice(hints) if hints else self._rng.choice(INSTRUCTIONS)
        name = hint.removeprefix("-")
        parts = parts - {name} if name in parts else parts | {name}
        return " ".join(["do:", *sorted(parts)])

    def proposal(self, number: int) -> Mapping[str, Any] | None:
        return None

    def keep(self, number: int, proposal: Mapping[str, Any]) -> None:
        pass

    def close(self, trial: Trial) -> None:
        pass


def plan_of(world: World, *, rounds: int, early: bool) -> Plan:
    names = [f"s{i}" for i in range(world.scenarios)]
    train, test = split(names, seed=world.seed)
    harmless = [i for i, e in world.effect.items() if e == 0]
    start = random.Random(f"{world.seed}:start").sample(sorted(harmless), 2)
    base = with_texts(
        Prompt(task="t", version="v1", messages=(Message(role="system", content=""),)),
        {0: " ".join(["do:", *sorted(start)])},
        "v1",
    )
    return Plan(
        id=f"{world.seed:06x}", task="t", suite="", experiment="e", base=base, models=MODELS, train=train, test=test,
        components=components(base), proposer=Model(name="p", model="p"), judged_by=JudgedBy.AUTO, rounds=rounds,
        patience=rounds, seed=world.seed, early_stopping=early,
    )  # fmt: skip


@dataclass(frozen=True)
class Ended:
    promoted: bool
    gained: float
    calls: int
    dropped: int = 0
    as_good: int = 0  # proposals that are in truth no worse than their parent ...
    lost: int = 0  # ... and were dropped


def finish(world: World, plan: Plan, winner: Prompt, lab: Simulated, rubric: Rubric, **counts: int) -> Ended:
    """The locked test split, and the gate."""
    if winner.version == plan.base.version:
        return Ended(False, 0.0, lab.calls, **counts)
    candidates = []
    for prompt in (plan.base, winner):
        for s in plan.test:
            for m in MODELS:
                lab.calls += 1
                value = (world.score(prompt, s, m)) / 3
                verdict = Verdict(scores=dict.fromkeys("abc", value), judge=Judge(tier=Tier.AUTO, name="j"), at="1")
                candidates.append(
                    LoggedCandidate(
                        run_id=f"{prompt.version}{s}{m}",
                        experiment="e",
                        task="t",
                        model=m,
                        prompt=prompt.version,
                        scenario=s,
                        cell="",
                        candidate="",
                        rubric="three",
                        rubric_sha256=rubric.sha256,
                        pending=False,
                        verdicts=(verdict,),
                        prompt_sha256=prompt.sha256,
                    )
                )
    champion = (plan.base.version, plan.base.sha256)
    decision = decide(candidates, rubric, task="t", experiment="e", champion=champion, policy=Policy.AUTO)
    promoted = decision.granted and not decision.stays
    return Ended(promoted, world.truth(winner) - world.truth(plan.base), lab.calls, **counts)


def loop(world: World, rubric: Rubric, *, rounds: int, early: bool) -> Ended:
    plan = plan_of(world, rounds=rounds, early=early)
    lab = Simulated(world, reflects=True)
    found = search(plan, rubric, lab, lab)
    tried = [t for t in found.trials if t.prompt is not None]
    good = [t for t in tried if t.prompt and world.truth(t.prompt) >= world.truth(found.prompts[t.parent]) - 1e-9]
    counts = {
        "dropped": sum(t.dropped for t in tried),
        "as_good": len(good),
        "lost": sum(t.dropped for t in good),
    }
    return finish(world, plan, found.prompts[found.best], lab, rubric, **counts)


def random_search(world: World, rubric: Rubric, *, rounds: int) -> Ended:
    plan = plan_of(world, rounds=rounds, early=False)
    lab = Simulated(world, reflects=False)
    best, best_mean = plan.base, float(np.mean([m.score for m in lab.measure(plan.base, plan.train).values()]))
    start, seen = best, {best.sha256}
    for number in range(1, rounds + 1):
        text = lab.propose(number, start, 0, (), ())
        prompt = with_texts(start, {0: text}, plan.version(number))
        if prompt.sha256 in seen:
            continue
        seen.add(prompt.sha256)
        mean = float(np.mean([m.score for m in lab.measure(prompt, plan.train).values()]))
        if mean > best_mean:
            best, best_mean = prompt, mean
    return finish(world, plan, best, lab, rubric)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="seeded runs an arm and kind of world")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "three.md"
        file.write_text(RUBRIC)
        rubric = load_rubric(file)
    arms = {
        "the loop": lambda w: loop(w, rubric, rounds=args.rounds, early=True),
        "without early stopping": lambda w: loop(w, rubric, rounds=args.rounds, early=False),
        "random search": lambda w: random_search(w, rubric, rounds=args.rounds),
    }
    print(
        f"{args.runs} runs an arm and kind of world, {args.rounds} rounds, 30 scenarios (18 train, 12 test), 2 models\n"
    )
    print(
        "| worlds | arm | better champion, % | wrong promotions, % | mean true gain, points | calls | dropped a run "
        "| of those as good as their parent, dropped, % |"
    )
    print("| --- " * 8 + "|")
    for gain in (True, False):
        for name, arm in arms.items():
            ended = [arm(World(seed, gain)) for seed in range(args.runs)]
            better = sum(e.promoted and e.gained > 1e-9 for e in ended)
            wrong = sum(e.promoted and e.gained <= 1e-9 for e in ended)
            gained = sum(e.gained for e in ended if e.promoted) / len(ended)
            calls = sum(e.calls for e in ended) / len(ended)
            dropped = sum(e.dropped for e in ended) / len(ended)
            good = sum(e.as_good for e in ended)
            lost = f"{100 * sum(e.lost for e in ended) / good:.1f}" if good else "-"
            kind = "something to gain" if gain else "nothing to gain"
            print(
                f"| {kind} | {name} | {100 * better / len(ended):.1f} | {100 * wrong / len(ended):.1f} | "
                f"{gained:.2f} | {calls:.0f} | {dropped:.1f} | {lost} |"
            )


if __name__ == "__main__":
    main()
