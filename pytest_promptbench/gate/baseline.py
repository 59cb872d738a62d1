"""A session's per-scenario scores, as saved by ``--bench-save`` and read by ``--bench-compare``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .. import statistics as stats
from ..catalog.rubric import LARGEST
from ..errors import BaselineError
from ..records import (
    DuplicateKeyError,
    Leaderboard,
    LoggedCandidate,
    Record,
    Row,
    Rubric,
    Suite,
    Tier,
    Verdict,
    is_number,
    sha256,
    unique_keys,
)
from ..scores import SIT_DOWN, Scored, automatic_score, sit_down_score, tier_scores, tier_text

BASELINE_SCHEMA = "promptbench/baseline/1"

Better = Literal["higher", "lower"]
RowName = tuple[str, str]
"""(model, prompt)"""


@dataclass(frozen=True, kw_only=True)
class BaselineRow(Record):
    """One (model, prompt): scenario -> metric -> score (mean over repeats); ``{}`` for a scenario nobody has scored.

    tier: whose verdicts these are. judge: the judge's fingerprint within the tier (for the automatic tier: model,
    parameters, rubric and judge prompt in one hash). tiers: scenario -> tier, where the row has several. judges: of the
    sit-down tiers, who judged. aside: how many candidates' sit-down labels were left aside for automatic scores, or a
    person's for Claude Code's.
    """

    model: str
    prompt: str
    tier: str | None
    judge: str | None = None
    tiers: Mapping[str, str] = field(default_factory=dict)
    judges: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    aside: int = 0
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def name(self) -> RowName:
        return self.model, self.prompt

    def tier_of(self, scenario: str) -> str | None:
        """Whose verdict a scenario's score is."""
        return self.tiers.get(scenario, self.tier)


@dataclass(frozen=True, kw_only=True)
class Baseline(Record):
    """One task's scores of one session, with all it takes to know whether others compare.

    better: which direction is good, for ``composite`` and every criterion. models, prompts, scenarios: name ->
    fingerprint. saved_at: ISO 8601 in UTC, or empty.
    """

    task: str
    experiment: str
    rubric: str
    rubric_sha256: str
    better: Mapping[str, Better]
    models: Mapping[str, str] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)
    scenarios: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[BaselineRow, ...] = ()
    saved_at: str = ""


def directions(rubric: Rubric) -> dict[str, Better]:
    """Which direction is good, for ``composite`` and every criterion: lower for a flag that is bad when true."""
    better: dict[str, Better] = {"composite": "higher"}
    for c in rubric.criteria:
        better[c.name] = "lower" if c.type == "flag" and c.bad else "higher"
    return better


def snapshot(
    board: Leaderboard,
    candidates: Iterable[LoggedCandidate],
    suites: Sequence[Suite],
    *,
    cells_now: Mapping[tuple[str, str, str], str] | None = None,
    by_automatic: Collection[RowName] = (),
    like: Baseline | None = None,
    saved_at: str = "",
) -> Baseline:
    """A session's scores as a Baseline, to be saved or to be compared with one.

    Composites and criteria are means over the verdicts of ``candidates``, which should be those that the leaderboard
    counts, of the tier that its row rests on. A row of which an audit has labelled a part rests on its automatic scores
    here: the labels were picked. So do rows of ``by_automatic`` that have any, as what they are to be compared with
    has no others. Of what Claude Code and a person have both judged, a row rests on Claude Code's verdicts until the
    person has judged half of it. With ``like``, the baseline to be compared with, each scenario rests on the sit-down
    tier that it has there, where all of its candidates here have that, too. ``suites``: all that share the leaderboard.
    ``cells_now``: (model, prompt, scenario) -> the content that the files give today; what another content was scored
    says nothing about them. A scenario without a score that counts is there as unscored.
    """
    cells: dict[RowName, list[LoggedCandidate]] = {(row.model, row.prompt): [] for row in board.rows}
    for candidate in candidates:
        if (candidate.model, candidate.prompt) in cells:
            cells[candidate.model, candidate.prompt].append(candidate)
    tier_there = {row.name: row.tier_of for row in like.rows} if like is not None else {}
    rows = [
        _row(
            row,
            cells[row.model, row.prompt],
            board.rubric,
            cells_now,
            by_automatic=(row.model, row.prompt) in by_automatic and row.auto_composite is not None,
            tier_there=tier_there.get((row.model, row.prompt)),
        )
        for row in sorted(board.rows, key=lambda r: (r.model, r.prompt))
    ]
    return Baseline(
        task=board.task,
        experiment=board.experiment,
        rubric=board.rubric.id,
        rubric_sha256=board.rubric.sha256,
        better=directions(board.rubric),
        models=_prints(
            (m.name, sha256({"model": m.model, "api_base": m.api_base, "params": m.to_json()["params"]}))
            for suite in suites
            for m in suite.models
        ),
        prompts=_prints((p.version, p.sha256) for suite in suites for p in suite.prompts),
        scenarios=_prints((s.id, sha256(s.to_json()["vars"])) for suite in suites for s in suite.scenarios),
        rows=tuple(rows),
        saved_at=saved_at,
    )


def _prints(found: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Name -> fingerprint; where two files give one name to different things, of all of these."""
    prints: dict[str, set[str]] = {}
    for name, value in found:
        prints.setdefault(name, set()).add(value)
    return {name: next(iter(values)) if len(values) == 1 else sha256(sorted(values)) for name, values in prints.items()}


def _row(
    row: Row,
    candidates: Sequence[LoggedCandidate],
    rubric: Rubric,
    cells_now: Mapping[tuple[str, str, str], str] | None,
    *,
    by_automatic: bool,
    tier_there: Callable[[str], str | None] | None,
) -> BaselineRow:
    partly = row.calibrated is not None and bool(row.calibrated["audited"])
    automatic = partly or by_automatic or row.tier == Tier.AUTO
    scored = [
        (c, tier_scores(c, rubric)) for c in candidates if cells_now is None or cells_now.get(c.names) == c.content
    ]
    found: dict[str, list[tuple[str, float]]] = {c.scenario: [] for c in candidates}
    verdicts: list[Verdict] = []
    tiers: dict[str, set[Tier]] = {}
    aside = row.judged if automatic else 0
    one_tier = {} if automatic else _one_tier(scored, tier_there)
    for c, scores in scored:
        counts = (automatic_score if automatic else sit_down_score)(scores)
        score = next((s for s in scores if s.tier is one_tier.get(c.scenario)), counts)
        verdict = None if score is None else c.latest(score.tier)
        if score is None or verdict is None:
            continue
        verdicts.append(verdict)
        tiers.setdefault(c.scenario, set()).add(score.tier)
        found[c.scenario] += [("composite", score.value), *_criteria(verdict, c, rubric)]
        aside += score is not counts
    tier = Tier.AUTO.value if automatic else tier_text(t for of in tiers.values() for t in of) or row.tier
    several = any(of != {tier} for of in tiers.values())
    return BaselineRow(
        model=row.model,
        prompt=row.prompt,
        tier=tier,
        judge=_automatic_judge(verdicts) if automatic else None,
        tiers={s: tier_text(of) or "" for s, of in sorted(tiers.items())} if several else {},
        judges={} if automatic else _judges(verdicts),
        aside=aside,
        scores={scenario: stats.cluster_means(named) for scenario, named in sorted(found.items())},
    )


def _one_tier(scored: Iterable[Scored], tier_there: Callable[[str], str | None] | None) -> dict[str, Tier]:
    """Scenario -> the tier by which all its candidates are taken: the one it has there.

    Without ``tier_there``: Claude Code's wherever it has judged, in a row of which a person has judged less than half.
    A person's verdict on one side beside Claude Code's on the other would compare two judges, who differ in how strict
    they are.
    """
    common: dict[str, set[Tier]] = {}
    for c, scores in scored:
        tiers = {s.tier for s in scores if s.tier in SIT_DOWN}
        if tiers:
            common[c.scenario] = common.get(c.scenario, tiers) & tiers
    if tier_there is not None:
        return {s: t for s, tiers in common.items() for t in tiers if t == tier_there(s)}
    if 2 * sum(Tier.HUMAN in tiers for tiers in common.values()) >= len(common):
        return {}
    return {s: Tier.CLAUDE_CODE for s, tiers in common.items() if Tier.CLAUDE_CODE in tiers}


def _automatic_judge(verdicts: Iterable[Verdict]) -> str | None:
    """The fingerprint of the automatic judge, or of all of them where there were several; None where none is known."""
    found = sorted({v.fingerprint.sha256 for v in verdicts if v.fingerprint is not None})
    return found[0] if len(found) == 1 else sha256(found) if found else None


def _judges(verdicts: Iterable[Verdict]) -> dict[str, tuple[str, ...]]:
    """Tier -> who judged."""
    found = sorted({(v.judge.tier.value, v.judge.name) for v in verdicts})
    return {tier: tuple(name for t, name in found if t == tier) for tier in dict.fromkeys(t for t, _ in found)}


def _criteria(verdict: Verdict, candidate: LoggedCandidate, rubric: Rubric) -> list[tuple[str, float]]:
    """The rubric's criteria in a verdict, and what programs filled."""
    merged = {**verdict.scores, **candidate.checks}
    known = {c.name: merged.get(c.name) for c in rubric.criteria}
    return [(name, float(value)) for name, value in known.items() if value is not None]


def baseline_json(baselines: Sequence[Baseline]) -> str:
    """The baseline file of one or several tasks: stable order, one scenario a line, so that a diff reads well."""
    suites = [
        {**b.to_json(), "rows": [r.to_json() for r in sorted(b.rows, key=lambda r: r.name)]}
        for b in sorted(baselines, key=lambda b: (b.task, b.rubric))
    ]
    return _pretty({"schema": BASELINE_SCHEMA, "suites": suites}) + "\n"


def _pretty(value: Any, indent: str = "") -> str:
    """Indented JSON with sorted keys (``schema`` first), in which an object of plain numbers stays on one line."""
    inner = indent + "  "
    if isinstance(value, Mapping) and value:
        keys = sorted(value, key=lambda k: (k != "schema", k))
        flat = all(isinstance(v, int | float) for v in value.values())
        if flat:
            return "{" + ", ".join(f"{json.dumps(k, ensure_ascii=False)}: {_number(value[k])}" for k in keys) + "}"
        lines = [f"{inner}{json.dumps(k, ensure_ascii=False)}: {_pretty(value[k], inner)}" for k in keys]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list | tuple) and value:
        if all(isinstance(v, int | float) for v in value):
            return "[" + ", ".join(_number(v) for v in value) + "]"
        return "[\n" + ",\n".join(inner + _pretty(v, inner) for v in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _number(value: float) -> str:
    return json.dumps(value, allow_nan=False)


def parse_baseline(text: str, *, source: str = "baseline") -> tuple[Baseline, ...]:
    """The tasks of a baseline file. Raises BaselineError, naming ``source`` and the place, for anything unreadable."""

    def refuse(problem: str) -> BaselineError:
        return BaselineError(
            f"{source}: {problem}; name another file, or, if this was a baseline, delete it and save it anew with "
            "--bench-save"
        )

    def constant(name: str) -> float:
        raise refuse(f"{name} is no score")

    try:
        data = json.loads(text, parse_constant=constant, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        conflict = re.search("^<{7} ", text, flags=re.MULTILINE)
        if conflict:
            line = text.count("\n", 0, conflict.start()) + 1
            raise BaselineError(
                f"{source}: holds a merge conflict (line {line}); take one side's file, as with git checkout --ours or "
                "--theirs, then save it anew with --bench-save"
            ) from None
        raise refuse(f"not JSON (line {error.lineno}, column {error.colno}: {error.msg})") from None
    except DuplicateKeyError as error:  # two branches' files, merged by hand
        raise refuse(f"the key {error.key!r} stands twice in one object") from None
    except ValueError:  # CPython's limit on the digits of an integer
        raise refuse("it holds a whole number of thousands of digits") from None
    except RecursionError:
        raise refuse("it is nested too deeply") from None
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != BASELINE_SCHEMA:
        found = re.fullmatch(r"promptbench/baseline/(\d+)", schema) if isinstance(schema, str) else None
        if found and int(found[1]) > 1:
            raise BaselineError(f"{source}: {schema} is newer than this version reads ({BASELINE_SCHEMA}); upgrade")
        raise refuse(f"no baseline: its schema is {schema!r}, expected {BASELINE_SCHEMA!r}")
    suites = data.get("suites")
    if not isinstance(suites, list) or not suites:
        raise refuse("suites: expected a list with at least one task")
    baselines = tuple(_parse_suite(suite, f"suites[{i}]", refuse) for i, suite in enumerate(suites))
    repeated = _first_repeated([(b.task, b.rubric_sha256) for b in baselines])
    if repeated:
        raise refuse(f"the task {repeated[0]!r} is there twice")
    return baselines


def _parse_suite(data: Any, place: str, refuse: Callable[[str], BaselineError]) -> Baseline:
    def check(value: Any, where: str, kind: type | tuple[type, ...], expected: str) -> Any:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise refuse(f"{where} is {value!r:.80}, expected {expected}")
        return value

    check(data, place, dict, "an object")
    for key in ("task", "experiment", "rubric", "rubric_sha256"):
        check(data.get(key), f"{place}.{key}", str, "a text")
    check(data.get("saved_at", ""), f"{place}.saved_at", str, "a text")
    for key in ("models", "prompts", "scenarios"):
        for name, value in check(data.get(key, {}), f"{place}.{key}", dict, "an object").items():
            check(value, f"{place}.{key}.{name}", str, "a fingerprint")
    for name, value in check(data.get("better"), f"{place}.better", dict, "an object").items():
        if value not in ("higher", "lower"):
            raise refuse(f"{place}.better.{name} is {value!r:.80}, expected higher or lower")
    for i, row in enumerate(check(data.get("rows"), f"{place}.rows", list, "a list")):
        at = f"{place}.rows[{i}]"
        check(row, at, dict, "an object")
        for key in ("model", "prompt"):
            check(row.get(key), f"{at}.{key}", str, "a text")
        for key in ("tier", "judge"):
            check(row.get(key), f"{at}.{key}", str | None, "a text or null")  # type: ignore[arg-type]  # a union serves isinstance
        for scenario, tier in check(row.get("tiers", {}), f"{at}.tiers", dict, "an object").items():
            check(tier, f"{at}.tiers.{scenario}", str, "a text")
        for tier, names in check(row.get("judges", {}), f"{at}.judges", dict, "an object").items():
            for name in check(names, f"{at}.judges.{tier}", list, "a list of names"):
                check(name, f"{at}.judges.{tier}", str, "a list of names")
        check(row.get("aside", 0), f"{at}.aside", int, "a number")
        for scenario, scores in check(row.get("scores"), f"{at}.scores", dict, "an object").items():
            for metric, score in check(scores, f"{at}.scores.{scenario}", dict, "an object").items():
                check(score, f"{at}.scores.{scenario}.{metric}", (int, float), "a number")
                if not is_number(score):  # 1e999 reads as infinity, and no float holds 400 digits
                    raise refuse(f"{at}.scores.{scenario}.{metric} is {score!r:.80}, expected a number")
                if abs(score) > LARGEST:  # its square would be infinite, and so would figures of the gate
                    most = f"no rubric gives more than {LARGEST:,.0f}"
                    raise refuse(f"{at}.scores.{scenario}.{metric} is {score!r:.40}, and {most}")
    baseline = Baseline.from_json(data)
    repeated = _first_repeated([row.name for row in baseline.rows])
    if repeated:
        raise refuse(f"{place}: the row {' x '.join(repeated)} is there twice")
    return baseline


def _first_repeated(names: Sequence[RowName]) -> RowName | None:
    return next((name for i, name in enumerate(names) if name in names[:i]), None)
