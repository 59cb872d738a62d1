"""Does the prompt loop end with a truly better champion, and how often with a wrong one? Where the truth is known.

    python benchmarks/optimize.py --runs 200

A simulated task: a prompt is a set of instructions, each with a true effect on the composite (3 to 15 points) that
differs by scenario, and every answer is judged with noise. A rationale names an instruction that would help with
probability 1/4; the proposer follows it, or else adds or drops something at random. The loop (`optimize.search`), its
plan (`plan.make_plan`, so looks and patience are the command's), its early stopping, what the test split has to show
(`ending.on_test`) and the gate (`promotion.decide`) are the real ones; answers, scores and proposals are simulated.

Arms on the same worlds and seeds: the loop; the loop without early stopping; hill climbing, which changes one random
instruction of the best so far; random edits of the start. The latter two look at no answer, try as many proposals on
all train scenarios, and end by the same comparison. Worlds: "something to gain" has four instructions that help and
five that harm; in "nothing to gain" none helps; in "all the same" none does anything, so that every winner won by luck.

    python benchmarks/optimize.py --skew

Early stopping alone: proposals that would have ended exactly level with their parent, with differences of several
shapes. The share that is dropped may be 10 % at most.
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
from pytest_promptbench.optimize.ending import Outcome, on_test
from pytest_promptbench.optimize.plan import ALPHA_DROP, JudgedBy, Plan, Trial, make_plan, split, with_texts
from pytest_promptbench.optimize.proposing import Example
from pytest_promptbench.optimize.search import search
from pytest_promptbench.optimize.state import Measured
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
from pytest_promptbench.statistics import BehindTest, compare, wilson_interval

INSTRUCTIONS = [f"instruction-{i}" for i in range(14)]
MODELS = ("small", "large")
KINDS = {"something to gain": (4, 5), "nothing to gain": (0, 5), "all the same": (0, 0)}
"""Kind of world -> how many instructions help and harm."""
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
    kind: str
    scenarios: int = 30
    noise: float = 1.2
    effect: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, 7])
        helpful, harmful = KINDS[self.kind]
        values = [*(rng.uniform(0.4, 1.2, size=helpful)), *(-rng.uniform(0.2, 1.5, size=harmful))]
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

    def decision(self, number: int) -> Trial | None:
        return None

    def close(self, trial: Trial) -> None:
        pass

    def affords_round(self, best: Prompt) -> bool:
        return True


def plan_of(world: World, *, rounds: int, early: bool) -> Plan:
    harmless = [i for i, e in world.effect.items() if e == 0]
    start = random.Random(f"{world.seed}:start").sample(sorted(harmless), 2)
    base = with_texts(
        Prompt(task="t", version="v1", messages=(Message(role="system", content=""),)),
        {0: " ".join(["do:", *sorted(start)])},
        "v1",
    )
    return make_plan(
        loop=f"{world.seed:06x}", base=base, split=split([f"s{i}" for i in range(world.scenarios)], seed=world.seed),
        judged_by=JudgedBy.AUTO, rounds=rounds, early_stopping=early, suite="", models=MODELS,
        proposer=Model(name="p", model="p"),
    )  # fmt: skip


@dataclass(frozen=True)
class Ended:
    promoted: bool
    gained: float
    calls: int
    worthless: bool = False  # a train winner that is in truth no better than the start ...
    ahead: bool = False  # ... is ahead on the test split all the same ...
    shown: bool = False  # ... and by more than chance
    dropped: int = 0
    as_good: int = 0  # proposals that are in truth no worse than their parent ...
    lost: int = 0  # ... and were dropped


def finish(world: World, plan: Plan, winner: Prompt, lab: Simulated, rubric: Rubric, **counts: int) -> Ended:
    """The locked test split, and the gate."""
    if winner.version == plan.base.version:
        return Ended(False, 0.0, lab.calls, **counts)
    candidates = []
    tables: dict[str, dict[str, float]] = {plan.base.version: {}, winner.version: {}}
    for prompt in (plan.base, winner):
        for s in plan.test:
            tables[prompt.version][s] = sum(world.score(prompt, s, m) for m in MODELS) / len(MODELS)
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
    found = on_test(compare(tables[winner.version], tables[plan.base.version]))
    champion = (plan.base.version, plan.base.sha256)
    decision = decide(candidates, rubric, task="t", experiment="e", champion=champion, policy=Policy.AUTO)
    gained = world.truth(winner) - world.truth(plan.base)
    shown = found is Outcome.OFFERED
    return Ended(
        shown and decision.granted and not decision.stays, gained, lab.calls, worthless=gained <= 1e-9,
        ahead=found is not Outcome.OVERFIT, shown=shown, **counts,
    )  # fmt: skip


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


def blind(world: World, rubric: Rubric, *, rounds: int, climbs: bool) -> Ended:
    """Random edits, of the best so far (``climbs``) or of the start."""
    plan = plan_of(world, rounds=rounds, early=False)
    lab = Simulated(world, reflects=False)
    best, best_mean = plan.base, float(np.mean([m.score for m in lab.measure(plan.base, plan.train).values()]))
    start, seen = best, {best.sha256}
    for number in range(1, rounds + 1):
        origin = best if climbs else start
        text = lab.propose(number, origin, 0, (), ())
        prompt = with_texts(origin, {0: text}, plan.version(number))
        if prompt.sha256 in seen:
            continue
        seen.add(prompt.sha256)
        mean = float(np.mean([m.score for m in lab.measure(prompt, plan.train).values()]))
        if mean > best_mean:
            best, best_mean = prompt, mean
    return finish(world, plan, best, lab, rubric)


def shapes(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Differences over 18 train scenarios that sum to 0."""
    found = {
        "normal": rng.normal(size=18),
        "75 % -1, 25 % +3": np.r_[np.full(14, -1.0), np.full(4, 3.0)],
        "80 % -0.5, 20 % +2": np.r_[np.full(14, -0.5), np.full(4, 2.0)],
        "85 % -1, 15 % +6": np.r_[np.full(15, -1.0), np.full(3, 6.0)],
        "one scenario makes up for 17": np.r_[np.full(17, -0.5), 8.5],
        "lognormal": rng.lognormal(0, 1, size=18),
        "exponential": rng.exponential(size=18),
    }
    return {name: values - values.mean() for name, values in found.items()}


def skew(runs: int) -> None:
    """How often what ends level is dropped, looked at after every scenario, with no room above the largest."""
    names = list(shapes(np.random.default_rng(0)))
    dropped = dict.fromkeys(names, 0)
    for seed in range(runs):
        rng = np.random.default_rng([seed, 11])
        for name, values in shapes(rng).items():
            room = float(values.max())
            test = BehindTest([room] * len(values), alpha=ALPHA_DROP)
            behind = False
            for d in rng.permutation(values)[:-1]:
                test.update(float(d), room=room)
                behind = behind or test.behind
            dropped[name] += behind
    print(f"{runs} proposals a shape, 18 scenarios, level with their parent in the end\n")
    print("| differences | dropped, % |\n| --- | --- |")
    for name, count in dropped.items():
        print(f"| {name} | {share(count, runs)} |")


def share(count: int, of: int) -> str:
    """``97.5 [94.3, 98.9]``: percent with the 95 % interval of a binomial share (Wilson)."""
    if not of:
        return "-"
    low, high = wilson_interval(count, of)
    return f"{100 * count / of:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="seeded runs an arm and kind of world")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--skew", action="store_true", help="early stopping alone, on skewed differences")
    args = parser.parse_args()
    if args.skew:
        skew(args.runs)
        return
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "three.md"
        file.write_text(RUBRIC)
        rubric = load_rubric(file)
    arms = {
        "the loop": lambda w: loop(w, rubric, rounds=args.rounds, early=True),
        "without early stopping": lambda w: loop(w, rubric, rounds=args.rounds, early=False),
        "hill climbing": lambda w: blind(w, rubric, rounds=args.rounds, climbs=True),
        "random edits of the start": lambda w: blind(w, rubric, rounds=args.rounds, climbs=False),
    }
    plan = plan_of(World(0, "all the same"), rounds=args.rounds, early=True)
    print(
        f"{args.runs} runs an arm and kind of world, {args.rounds} rounds, patience {plan.patience}, 30 scenarios "
        f"({len(plan.train)} train, {len(plan.test)} test), a look every {plan.block}, 2 models\n"
    )
    print(
        "| worlds | arm | better champion, % | wrong promotions, % | worthless train winners: ahead on test, shown "
        "| mean true gain, points | calls | dropped a run | of those as good as their parent, dropped, % |"
    )
    print("| --- " * 9 + "|")
    for kind in KINDS:
        for name, arm in arms.items():
            ended = [arm(World(seed, kind)) for seed in range(args.runs)]
            better = sum(e.promoted and e.gained > 1e-9 for e in ended)
            wrong = sum(e.promoted and e.gained <= 1e-9 for e in ended)
            worthless = [e for e in ended if e.worthless]
            past = f"{sum(e.ahead for e in worthless)} and {sum(e.shown for e in worthless)} of {len(worthless)}"
            gained = sum(e.gained for e in ended if e.promoted) / len(ended)
            calls = sum(e.calls for e in ended) / len(ended)
            dropped = sum(e.dropped for e in ended) / len(ended)
            good = sum(e.as_good for e in ended)
            print(
                f"| {kind} | {name} | {share(better, len(ended))} | {share(wrong, len(ended))} | {past} | "
                f"{gained:.2f} | {calls:.0f} | {dropped:.1f} | {share(sum(e.lost for e in ended), good)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
