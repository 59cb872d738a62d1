"""Error rates of the statistics, measured: false failures, power, coverage, and what calibration buys on real scores.

    python benchmarks/error_rates.py                 all tables, Markdown on standard output (20 minutes, one core)
    python benchmarks/error_rates.py gate power      some of them
    python benchmarks/error_rates.py --quick         a tenth of the repetitions

Noise and populations are the real scores of data/hanna_scores.jsonl (see the README beside it). Everything is seeded.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pytest_promptbench import gate
from pytest_promptbench import statistics as stats
from pytest_promptbench.agreement import agreement_report
from pytest_promptbench.audit import Audit, next_audit, sampling_probabilities
from pytest_promptbench.gate.verdict import Case, decide
from pytest_promptbench.records import Criterion, Judge, LoggedCandidate, Rubric, Tier, Verdict
from pytest_promptbench.scores import sit_down_score, tier_scores

DATA = Path(__file__).parent / "data" / "hanna_scores.jsonl"
CRITERIA = ("relevance", "coherence", "empathy", "surprise", "engagement", "complexity")
COMPOSITE = ("relevance", "coherence", "engagement")  # three criteria, 3 to 15 points, like the tip rubric
NORMAL_DRAWS = 2_000_000


@functools.cache
def hanna() -> dict[str, np.ndarray]:
    """human: (systems, scenarios, raters, criteria); auto: (systems, scenarios, judges, criteria); both 1-5."""
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    systems = sorted({r["system"] for r in rows})
    scenarios = sorted({r["scenario"] for r in rows})
    judges = sorted(rows[0]["auto"])
    human = np.full((len(systems), len(scenarios), 3, len(CRITERIA)), np.nan)
    auto = np.full((len(systems), len(scenarios), len(judges), len(CRITERIA)), np.nan)
    for r in rows:
        at = systems.index(r["system"]), scenarios.index(r["scenario"])
        human[at] = [[rater[c] for c in CRITERIA] for rater in r["human"]]
        auto[at] = [[r["auto"][j][c] for c in CRITERIA] for j in judges]
    assert np.isfinite(human).all()
    assert np.isfinite(auto).all()
    return {"human": human, "auto": auto, "systems": np.array(systems), "judges": np.array(judges)}


def composite(scores: np.ndarray) -> np.ndarray:
    """Sum over three criteria, the last axis: 3 to 15 points."""
    return scores[..., [CRITERIA.index(c) for c in COMPOSITE]].sum(axis=-1)


def table(title: str, head: list[str], rows: list[list[object]]) -> None:
    print(f"\n{title}\n")
    print("| " + " | ".join(head) + " |")
    print("|" + "|".join(" --- " for _ in head) + "|")
    for row in rows:
        print("| " + " | ".join(f"{x:.1f}" if isinstance(x, float) else str(x) for x in row) + " |", flush=True)


# -- sessions of the same thing ------------------------------------------------------------------------------------


def regenerated(rng: np.random.Generator, n: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sessions (rows, scenarios) of automatic scores in which every text was written and judged anew.

    Each score is a system's mean + a scenario's difficulty + the noise of a random story (what system and scenario do
    not explain: the text's luck and the judge's), of the judge beluga-13b, cut to 3-15 and rounded to thirds.
    """
    expected, noise = _two_way(composite(hanna()["auto"][:, :, 0]))
    systems = rng.choice(len(expected), rows, replace=False)
    picked = rng.integers(0, expected.shape[1], n)
    sessions = []
    for _ in range(2):
        raw = expected[systems][:, picked] + noise[systems][:, rng.integers(0, noise.shape[1], n)]
        sessions.append(np.clip(np.round(raw * 3) / 3, 3, 15))
    return sessions[0], sessions[1]


def _two_way(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    row = scores.mean(axis=1, keepdims=True)
    scenario = scores.mean(axis=0, keepdims=True) - scores.mean()
    return row + scenario, scores - row - scenario


def rejudged(rng: np.random.Generator, n: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sessions of the same texts, scored by different people: two of each story's three raters, at random."""
    human = composite(hanna()["human"])
    systems = rng.choice(human.shape[0], rows, replace=False)
    picked = rng.choice(human.shape[1], n, replace=n > human.shape[1])
    raters = rng.permuted(np.tile(np.arange(3), (rows, n, 1)), axis=2)
    chosen = human[systems][:, picked]
    first, second = (np.take_along_axis(chosen, raters[..., k : k + 1], axis=2)[..., 0] for k in range(2))
    return first, second


def swapped(rng: np.random.Generator, n: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sessions of real scores of two systems each, in which chance decides per scenario whose is whose."""
    auto = composite(hanna()["auto"][:, :, 0])
    picked = rng.choice(auto.shape[1], n, replace=n > auto.shape[1])
    ones, others = [], []
    for _ in range(rows):
        a, b = rng.choice(auto.shape[0], 2, replace=False)
        swap = rng.random(n) < 0.5
        ones.append(np.where(swap, auto[a, picked], auto[b, picked]))
        others.append(np.where(swap, auto[b, picked], auto[a, picked]))
    return np.array(ones), np.array(others)


SOURCES: dict[str, Callable[[np.random.Generator, int, int], tuple[np.ndarray, np.ndarray]]] = {
    "texts and scores made anew": regenerated,
    "same texts, other human rater": rejudged,
    "two systems' scores, swapped at random": swapped,
}


def decisions(before: np.ndarray, after: np.ndarray, tolerance: float) -> list[str]:
    cases = [
        Case(worse=(b - a).tolist(), tolerance=tolerance, complete=True) for b, a in zip(before, after, strict=True)
    ]
    return [d.outcome.value for d in decide(cases, seed=0)[0]]


def gate_table(repetitions: int) -> None:
    rng = np.random.default_rng(11)
    rows: list[list[object]] = []
    for name, source in SOURCES.items():
        for n in (10, 20, 48):
            fails = dict.fromkeys((0.0, 0.5), 0)
            unclear = naive = 0
            for k in range(repetitions):
                before, after = source(rng, n, 6)
                for tolerance in fails:
                    found = decisions(before, after, tolerance)
                    fails[tolerance] += "fail" in found
                    if tolerance:
                        unclear += "inconclusive" in found and "fail" not in found
                        naive += bool(((before - after).mean(axis=1) > tolerance).any())
                if k < 5:
                    _check_against_public_gate(before, after)
            spread = np.mean([np.subtract(*source(rng, n, 6)).std(axis=1, ddof=1).mean() for _ in range(50)])
            share = [100 * x / repetitions for x in (fails[0.0], fails[0.5], unclear, naive)]
            rows.append([name, n, f"{spread:.2f}", *share])
    table(
        f"False failures of the whole gate, % of {repetitions:,} A/A pairs; 6 rows (model x prompt), composite 3-15",
        [
            "noise",
            "scenarios",
            "SD of a difference",
            "tolerance 0",
            "tolerance 0.5",
            "inconclusive at 0.5",
            "mean alone at 0.5",
        ],
        rows,
    )


def _check_against_public_gate(before: np.ndarray, after: np.ndarray) -> None:
    """The fast path above decides what the public function decides."""
    sides = [_baseline(scores) for scores in (before, after)]
    tolerance = gate.Tolerance(metric="composite", amount=0.5)
    result = gate.evaluate_gate(sides[0], sides[1], [tolerance])
    assert [c.outcome.value for c in result.comparisons] == decisions(before, after, 0.5)


def _baseline(scores: np.ndarray) -> gate.Baseline:
    rows = tuple(
        gate.BaselineRow(
            model="m",
            prompt=f"p{r}",
            tier="auto",
            scores={f"s{s:02}": {"composite": float(x)} for s, x in enumerate(row)},
        )
        for r, row in enumerate(scores)
    )
    return gate.Baseline(
        task="t", experiment="e", rubric="r", rubric_sha256="0", better={"composite": "higher"}, rows=rows
    )


def power_table(repetitions: int) -> None:
    rng = np.random.default_rng(12)
    rows: list[list[object]] = []
    for scale, divide in (("composite 3-15", 1.0), ("mean of criteria 1-5", 3.0)):
        for rows_in_gate in (1, 6):
            for n in (10, 20, 50):
                shares: list[object] = []
                mdes = []
                for drop in (0.25, 0.5, 1.0):
                    found = 0
                    for _ in range(repetitions):
                        before, after = (x / divide for x in regenerated(rng, n, rows_in_gate))
                        after[0] -= drop
                        mde = stats.minimum_detectable_effect(
                            (after[0] - before[0]).tolist(), alpha=0.05 / rows_in_gate
                        )
                        mdes.append(mde if mde is not None else np.nan)
                        found += decisions(before, after, 0.0)[0] == "fail"
                    shares.append(100 * found / repetitions)
                rows.append([scale, rows_in_gate, n, f"{np.nanmean(mdes):.2f}", *shares])
    table(
        f"Power of the gate, % of {repetitions:,} sessions in which the one row that truly dropped fails; tolerance 0",
        ["scale", "rows in the gate", "scenarios", "MDE it prints", "drop 0.25", "drop 0.5", "drop 1.0"],
        rows,
    )


def mde_table(repetitions: int) -> None:
    """With the spread of the population known, so that the formula is tested and not its estimate of the spread."""
    rng = np.random.default_rng(12)
    before, after = regenerated(np.random.default_rng(1), 4000, 1)
    pool = (after - before)[0]
    pool = pool - pool.mean()
    rows: list[list[object]] = []
    for n in (6, 10, 20, 50):
        standard = np.random.default_rng(n).normal(size=n)  # any sample of n with SD 1 has the formula's quantiles
        standard = (standard - standard.mean()) / standard.std(ddof=1)
        effect = (stats.minimum_detectable_effect(standard.tolist()) or 0.0) * float(pool.std(ddof=1))
        found = []
        for _ in range(repetitions):
            d = rng.choice(pool, n) + effect
            found.append(stats.sign_flip_p_value(d.tolist()) <= 0.05)
        rows.append([n, f"{effect:.2f}", 100 * float(np.mean(found))])
    table(
        f"How often a comparison finds a true effect as large as its MDE, % of {repetitions:,}; nominal 80",
        ["scenarios", "true effect", "found, %"],
        rows,
    )


# -- coverage ------------------------------------------------------------------------------------------------------


HUMPS = "two humps: 3 or 4 in 30 %, else 14 or 15"


def populations() -> Iterator[tuple[str, np.ndarray]]:
    human = composite(hanna()["human"])
    yield "human composite, one rater (3-15)", human[..., 0].ravel()
    top = human.mean(axis=2)[list(hanna()["systems"]).index("Human")]
    yield "near the ceiling: the human authors' stories", top
    yield HUMPS, np.repeat([3.0, 4.0, 14.0, 15.0], [20, 10, 30, 40])
    yield "a flag, true in 15 %", np.repeat([1.0, 0.0], [15, 85])


def coverage_table(repetitions: int) -> None:
    rng = np.random.default_rng(13)
    rows: list[list[object]] = []
    for name, population in populations():
        truth = population.mean()
        shares: list[object] = []
        for n in (3, 5, 6, 10, 20, 50, 200):
            hits = 0
            for _ in range(repetitions):
                ci = stats.mean_interval(rng.choice(population, n).tolist())
                hits += ci is not None and ci[0] - 1e-9 <= truth <= ci[1] + 1e-9
            shares.append(100 * hits / repetitions)
        rows.append([name, *shares])
    table(
        f"Coverage of mean_interval's 95 % intervals, % of {repetitions:,} samples, by scenarios",
        ["population", "3", "5", "6", "10", "20", "50", "200"],
        rows,
    )
    auto = composite(hanna()["auto"][:, :, 0])
    a, b = np.triu_indices(len(auto), 1)
    pools = {
        "two systems, one judge (3-15)": (auto[a] - auto[b]).ravel(),
        "made anew (A/A)": np.subtract(*regenerated(np.random.default_rng(2), 4000, 6)).ravel(),
    }
    rows = []
    for name, pool in pools.items():
        truth = pool.mean()
        for n in (6, 10, 20, 50):
            hits = false = 0
            for _ in range(repetitions):
                d = rng.choice(pool, n)
                found = stats.compare(dict(enumerate_names(d)), dict.fromkeys((f"s{i}" for i in range(n)), 0.0))
                assert found.ci is not None
                hits += found.ci[0] - 1e-9 <= truth <= found.ci[1] + 1e-9
                flipped = (d - truth) * rng.choice([-1.0, 1.0], n)
                false += stats.sign_flip_p_value(flipped.tolist()) <= 0.05
            rows.append([name, n, 100 * hits / repetitions, 100 * false / repetitions])
    table(
        f"compare: coverage of its 95 % interval and false rejections of its test at 5 %, % of {repetitions:,} samples",
        ["differences", "scenarios", "coverage", "false rejections"],
        rows,
    )


def enumerate_names(values: np.ndarray) -> Iterator[tuple[str, float]]:
    yield from ((f"s{i}", float(x)) for i, x in enumerate(values))


def ties_table(repetitions: int) -> None:
    rng = np.random.default_rng(14)
    expected, noise = _two_way(composite(hanna()["auto"][:, :, 0]))
    humps = dict(populations())[HUMPS]

    def real(count: int, n: int) -> np.ndarray:
        scenario = rng.integers(0, noise.shape[1], n)
        scores = expected[0, scenario] + np.array(
            [noise[rng.integers(0, len(noise), n), rng.integers(0, 48, n)] for _ in range(count)]
        )
        return np.clip(np.round(scores * 3) / 3, 3, 15)

    def made(count: int, n: int) -> np.ndarray:
        return rng.choice(humps, (count, n))

    rows: list[list[object]] = []
    for name, draw, count in [(n, d, c) for n, d in (("real", real), (HUMPS, made)) for c in (2, 6)]:
        shares: list[object] = []
        for n in (3, 6, 10, 20):
            apart = 0
            for _ in range(repetitions):
                scores = draw(count, n)
                order = np.argsort(-scores.mean(axis=1), kind="stable")
                ranks = stats.tied_ranks(
                    stats.Board(
                        layers=scores[None, order],
                        groups=[(0,)],
                        estimates=[None] * count,
                        calibrated=[False] * count,
                    )
                )
                apart += max(ranks) > 1
            shares.append(100 * apart / repetitions)
        rows.append([name, count, *shares])
    table(
        f"Leaderboards of equal rows that show any difference of rank, % of {repetitions:,}, by scenarios",
        ["scores", "rows", "3", "6", "10", "20"],
        rows,
    )


# -- calibration ---------------------------------------------------------------------------------------------------


def calibration_table(repetitions: int) -> None:
    rng = np.random.default_rng(15)
    human = composite(hanna()["human"]).mean(axis=2).ravel()
    pools: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for k in (1, 0):
        auto = composite(hanna()["auto"][:, :, k]).ravel()
        pools[f"real: {hanna()['judges'][k]}, r = {np.corrcoef(auto, human)[0, 1]:.2f}"] = auto, human
    for rho in (0.0, 0.85):
        z, e = np.random.default_rng(16).normal(size=(2, 4000))
        made = np.clip(np.round(12.5 + 2 * (rho * z + np.sqrt(1 - rho**2) * e)), 3, 15)
        pools[f"made: near the ceiling, r = {np.corrcoef(z, made)[0, 1]:.2f}"] = (
            np.clip(np.round(39 + 5 * z) / 3, 3, 15),
            made,
        )
    rows: list[list[object]] = []
    for name, (auto, y) in pools.items():
        truth = y.mean()
        for design in ("random", "audit"):
            for n in (20, 50, 200):
                for share in (0.25, 0.5):
                    hits = alone = width = alone_width = worth = error = alone_error = 0.0
                    for _ in range(repetitions):
                        at = rng.integers(0, len(y), n)
                        labels, probabilities = _label(rng, auto[at], y[at], round(share * n), design)
                        found = stats.calibrated_mean(
                            auto[at].tolist(), labels, [f"s{i}" for i in range(n)], probabilities
                        )
                        assert found.ci is not None
                        assert found.labels_alone_ci is not None
                        assert found.estimate is not None
                        assert found.labels_alone is not None
                        hits += found.ci[0] <= truth <= found.ci[1]
                        alone += found.labels_alone_ci[0] <= truth <= found.labels_alone_ci[1]
                        width += found.ci[1] - found.ci[0]
                        alone_width += found.labels_alone_ci[1] - found.labels_alone_ci[0]
                        error += (found.estimate - truth) ** 2
                        alone_error += (found.labels_alone - truth) ** 2
                        worth += found.effective_labels
                    rows.append(
                        [
                            name,
                            design,
                            n,
                            round(share * n),
                            100 * hits / repetitions,
                            100 * alone / repetitions,
                            f"{width / alone_width:.2f}",
                            f"{np.sqrt(error / alone_error):.2f}",
                            worth / repetitions,
                        ]
                    )
    table(
        f"calibrated_mean: coverage of 95 % intervals, % of {repetitions:,} data sets, beside the labels alone",
        [
            "scores",
            "labels drawn",
            "scenarios",
            "labels",
            "coverage",
            "of labels alone",
            "width ratio",
            "RMSE ratio",
            "worth labels",
        ],
        rows,
    )


def _label(
    rng: np.random.Generator, auto: np.ndarray, y: np.ndarray, count: int, design: str
) -> tuple[list[float | None], list[float | None] | None]:
    """Labels of ``count`` candidates: all at random, or half where the tiers differ most (noisily), half at random."""
    n = len(y)
    labels: list[float | None] = [None] * n
    if design == "random":
        for i in rng.choice(n, count, replace=False):
            labels[i] = float(y[i])
        return labels, None
    doubt = np.abs(y - auto) + rng.normal(size=n) * np.abs(y - auto).std()
    certain = np.argsort(-doubt)[: count // 2]
    rest = np.setdiff1d(np.arange(n), certain)
    drawn = rng.choice(rest, count - len(certain), replace=False)
    probabilities: list[float | None] = [None] * n
    for group, p in ((certain, 1.0), (drawn, len(drawn) / len(rest))):
        for i in group:
            labels[i], probabilities[i] = float(y[i]), p
    return labels, probabilities


AUDITED = Rubric(
    id="r", text="t", sha256="r", criteria=(Criterion(name="score", type="scale", min=0, max=15, weight=1),)
)


def audits_table(repetitions: int) -> None:
    """Several audits of one population, through the code that draws them and weighs their labels.

    The judge wavers where it is too kind, so that the first audit picks what people score lower.
    """
    rows: list[list[object]] = []
    for rounds in (1, 2, 3):
        shown: list[object] = [rounds]
        for own in (False, True):
            pools = (_audited((60, 50, 4)[:rounds], seed) for seed in range(repetitions))
            found = (_calibrated(pool, sampling_probabilities(pool), own=own) for pool in pools)
            shown += _held(((c.ci, c.estimate) for c in found), truth=8)
        rows.append(shown)
    table(
        f"calibrated_mean after several audits: coverage of 95 % intervals, % of {repetitions:,} populations of 90",
        ["audits", "coverage", "bias", "with each audit's own share", "its bias"],
        rows,
    )
    rows = []
    for size in (20, 40, 60):
        shown = [size]
        for weighted in (True, False):
            biases = (_bias(_audited((size,), seed), weighted=weighted) for seed in range(repetitions))
            shown += _held(((b.ci, b.value) for b in biases), truth=-1)
        rows.append(shown)
    table(
        f"the judge's bias after an audit: coverage of 95 % intervals, % of {repetitions:,} populations of 90",
        ["audited", "coverage", "error", "unweighted", "its error"],
        rows,
    )


def _held(found: Iterable[tuple[tuple[float, ...] | None, float | None]], *, truth: float) -> list[object]:
    """In how many percent of cases the interval held the truth, and the mean error of the estimate."""
    hits, errors = [], []
    for ci, estimate in found:
        assert ci is not None
        assert estimate is not None
        hits.append(ci[0] <= truth <= ci[1])
        errors.append(estimate - truth)
    return [100 * float(np.mean(hits)), f"{np.mean(errors):+.2f}"]


def _bias(pool: list[LoggedCandidate], *, weighted: bool) -> stats.Estimate:
    """Of people less the judge, as the report of agreement has it."""
    chances = sampling_probabilities(pool) if weighted else {}
    pool = [replace(c, sampling_probability=chances.get(c.run_id)) for c in pool]
    (pair,) = (p for p in agreement_report(pool, AUDITED, experiment="e", task="t").pairs if p.kind == "judges")
    return pair.report.scales[0].bias


def _audited(sizes: Sequence[int], seed: int) -> list[LoggedCandidate]:
    """A population whose judge is 3 points too kind to a third of it, and wavers there, after audits of ``sizes``."""
    rng = np.random.default_rng([18, seed])
    kind = rng.random(90) < 1 / 3
    quality = rng.normal(9, 1, 90)
    truth = quality - 3 * kind
    again = quality + rng.normal(0, np.where(kind, 2, 0.5))
    pool = [_judged(i, float(quality[i]), float(again[i])) for i in range(90)]
    for size in sizes:
        pool = _taken_in(pool, next_audit(pool, AUDITED, size, experiment=f"e{seed}", task="t"), truth)
    return pool


def _judged(number: int, auto: float, again: float) -> LoggedCandidate:
    judge = Judge(tier=Tier.AUTO, name="auto")
    first, second = (Verdict(scores={"score": score}, judge=judge, at="1") for score in (auto, again))
    return LoggedCandidate(
        run_id=f"r{number:03}", experiment="e", task="t", model="m", prompt="v1", scenario=f"s{number}", cell="c",
        candidate=str(number), rubric="r", rubric_sha256="r", pending=True, verdicts=(first,),
        second_verdicts=(second,),
    )  # fmt: skip


def _taken_in(pool: list[LoggedCandidate], audit: Audit, truth: np.ndarray) -> list[LoggedCandidate]:
    drawn = {d.candidate.run_id: audit.draw_of(d) for d in audit.drawn}
    found = []
    for c, score in zip(pool, truth, strict=True):
        if c.run_id in drawn:
            new: dict[str, Any] = {"draws": {**c.draws, audit.id: drawn[c.run_id]}}
            if c.sit_down() is None:
                label = Verdict(scores={"score": float(score)}, judge=Judge(tier=Tier.HUMAN, name="h"), at="1")
                new |= {"verdicts": (*c.verdicts, label), "audited": audit.id}
            found.append(replace(c, **new))
        else:
            found.append(c)
    return found


def _calibrated(pool: list[LoggedCandidate], chances: dict[str, float], *, own: bool) -> stats.Calibrated:
    autos, labels, probabilities = [], [], []
    for c in pool:
        scores = tier_scores(c, AUDITED)
        label = sit_down_score(scores)
        autos.append(scores[-1].value)
        labels.append(None if label is None else label.value)
        probabilities.append(c.draws[c.audited].probability if own and c.audited else chances.get(c.run_id))
    return stats.calibrated_mean(autos, labels, [c.scenario for c in pool], probabilities)


def hanna_table(repetitions: int) -> None:
    rng = np.random.default_rng(17)
    human = composite(hanna()["human"]).mean(axis=2)
    autos = {str(j): composite(hanna()["auto"][:, :, k]) for k, j in enumerate(hanna()["judges"])}
    autos["mean of the three"] = np.mean(list(autos.values()), axis=0)
    truth = human.mean(axis=1)
    systems, n = human.shape
    names = [f"s{i}" for i in range(n)]
    rows: list[list[object]] = []
    examples: list[list[object]] = []
    for judge, auto in autos.items():
        flat = auto.mean(axis=1)
        scores: dict[str, list[tuple[float, float, float, float, float]]] = {"labels": [], "calibrated": []}
        worth = []
        for k in range(repetitions):
            estimates: dict[str, list[float]] = {"labels": [], "calibrated": []}
            hits = {"labels": 0, "calibrated": 0}
            for s in range(systems):
                labels: list[float | None] = [None] * n
                for i in rng.choice(n, n // 4, replace=False):
                    labels[i] = float(human[s, i])
                found = stats.calibrated_mean(auto[s].tolist(), labels, names)
                assert found.estimate is not None
                assert found.labels_alone is not None
                assert found.ci is not None
                assert found.labels_alone_ci is not None
                estimates["calibrated"].append(found.estimate)
                estimates["labels"].append(found.labels_alone)
                hits["calibrated"] += found.ci[0] <= truth[s] <= found.ci[1]
                hits["labels"] += found.labels_alone_ci[0] <= truth[s] <= found.labels_alone_ci[1]
                worth.append(found.effective_labels)
            for key, values in estimates.items():
                scores[key].append((*ranking_error(np.array(values), truth), 100 * hits[key] / systems))
            if k == 0 and judge == "mean of the three":
                examples = _example(truth, flat, estimates)
        within = np.mean([np.corrcoef(auto[k], human[k])[0, 1] for k in range(systems)])
        name = f"{judge} (r = {within:.2f})"
        rows.append([name, "automatic alone", *(f"{x:.2f}" for x in ranking_error(flat, truth)), "-"])
        for key, label in (("labels", "25 % of labels alone"), ("calibrated", "calibrated")):
            mean = np.mean(scores[key], axis=0)
            rows.append(
                [name, label, *(f"{x:.2f}" for x in mean[:4]), f"{np.mean(worth):.1f}" if key == "calibrated" else 12]
            )
    table(
        f"HANNA: 11 systems x 48 scenarios, 12 labels a system; error against all labels, {repetitions:,} draws",
        [
            "automatic judge (r within a system)",
            "ranking from",
            "Kendall tau",
            "swapped pairs of 55",
            "best system right",
            "RMSE, points",
            "worth labels",
        ],
        rows,
    )
    table(
        "One draw (mean of the three judges): composite (rank)",
        ["system", "all labels", "automatic alone", "25 % of labels", "calibrated"],
        examples,
    )


def ranking_error(estimate: np.ndarray, truth: np.ndarray) -> tuple[float, float, float, float]:
    """Kendall's tau, swapped pairs, whether the best is right, and the root mean squared error."""
    i, j = np.triu_indices(len(truth), 1)
    swapped_pairs = float(np.count_nonzero((estimate[i] - estimate[j]) * (truth[i] - truth[j]) < 0))
    tau = 1 - 2 * swapped_pairs / len(i)
    best = float(np.argmax(estimate) == np.argmax(truth))
    return tau, swapped_pairs, best, float(np.sqrt(((estimate - truth) ** 2).mean()))


def _example(truth: np.ndarray, auto: np.ndarray, estimates: dict[str, list[float]]) -> list[list[object]]:
    columns = [truth, auto, np.array(estimates["labels"]), np.array(estimates["calibrated"])]
    ranks = [(-c).argsort().argsort() + 1 for c in columns]
    return [
        [hanna()["systems"][s], *(f"{c[s]:.2f} ({r[s]})" for c, r in zip(columns, ranks, strict=True))]
        for s in np.argsort(-truth)
    ]


def agreement_table(_: int) -> None:
    criteria = [Criterion(name=c, type="scale", min=1, max=5, weight=1) for c in CRITERIA]
    human, auto = hanna()["human"], hanna()["auto"]
    sides = {"rater 1": human[:, :, 0], "rater 2": human[:, :, 1], "raters' mean": human.mean(axis=2)}
    sides |= {str(j): auto[:, :, k] for k, j in enumerate(hanna()["judges"])}
    rows: list[list[object]] = []
    for a, b in (("rater 1", "rater 2"), ("raters' mean", "beluga-13b"), ("raters' mean", "chatgpt")):
        pairs = [
            stats.RatedPair(
                scenario=f"s{s}",
                a=dict(zip(CRITERIA, map(float, sides[a][k, s]), strict=True)),
                b=dict(zip(CRITERIA, map(float, sides[b][k, s]), strict=True)),
            )
            for k in range(human.shape[0])
            for s in range(human.shape[1])
        ]
        for found in stats.measure_agreement(pairs, criteria, a=a, b=b).scales:
            figures = (found.kappa, found.alpha, found.spearman, found.mean_absolute_difference, found.bias)
            rows.append([f"{a}, {b}", found.criterion, *(_interval(f) for f in figures)])
    table(
        "HANNA: agreement over 528 stories in 48 scenarios, with 95 % intervals",
        ["judges", "criterion", "kappa", "alpha", "Spearman", "mean abs. difference", "bias"],
        rows,
    )
    published = dict(zip(CRITERIA, (48.02, 43.66, 35.04, 28.06, 46.50, 55.81), strict=True))
    rows = [[c, f"{icc2k(human[..., k].reshape(-1, 3)):.2f}", f"{published[c]:.2f}"] for k, c in enumerate(CRITERIA)]
    table(
        "HANNA: ICC(2, k) of the three raters, %, on this half of the scenarios and as published for all",
        ["criterion", "here", "published"],
        rows,
    )


def _interval(found: stats.Estimate) -> str:
    if found.value is None or found.ci is None:
        return found.reason or ""
    return f"{found.value:.2f} [{found.ci[0]:.2f}, {found.ci[1]:.2f}]"


def icc2k(x: np.ndarray) -> float:
    """ICC(2, k), percent: two-way random effects, mean of k raters (Shrout and Fleiss 1979)."""
    n, k = x.shape
    grand = x.mean()
    between = k * ((x.mean(axis=1) - grand) ** 2).sum() / (n - 1)
    raters = n * ((x.mean(axis=0) - grand) ** 2).sum() / (k - 1)
    rest = ((x - x.mean(axis=1)[:, None] - x.mean(axis=0) + grand) ** 2).sum() / ((n - 1) * (k - 1))
    return float(100 * (between - rest) / (between + (raters - rest) / n))


TABLES: dict[str, tuple[Callable[[int], None], int]] = {
    "gate": (gate_table, 1000),
    "power": (power_table, 1000),
    "mde": (mde_table, 4000),
    "coverage": (coverage_table, 2000),
    "ties": (ties_table, 1000),
    "calibration": (calibration_table, 2000),
    "audits": (audits_table, 1000),
    "hanna": (hanna_table, 500),
    "agreement": (agreement_table, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"some of {', '.join(TABLES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="a tenth of the repetitions")
    chosen = parser.parse_args()
    for name in chosen.tables or TABLES:
        if name not in TABLES:
            parser.error(f"no table {name!r}; there are {', '.join(TABLES)}")
        started = time.perf_counter()
        make, repetitions = TABLES[name]
        make(max(1, repetitions // 10) if chosen.quick else repetitions)
        print(f"\n<!-- {name}: {time.perf_counter() - started:.0f} s -->", flush=True)


if __name__ == "__main__":
    main()
