"""What a loop came to, as terminal lines, Markdown, and one self-contained HTML page with the score by round."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import replace_file
from ..report.html import asset, environment
from ..report.text import dollars, markdown_cell, number, plural, points, visible, waiting
from .ending import Outcome, Result
from .plan import Trial

WIDTH, HEIGHT = 720.0, 260.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 12.0, 12.0, 34.0
_MOST_LABELS = 24
"""Numbers below the picture; more of them run into each other."""


def headline(result: Result) -> str:
    """The outcome in one sentence."""
    base, best = result.plan.base.version, result.best
    train = f"{_figure(result.train, best)} on train, {base} has {_figure(result.train, base)}"
    test = _comparison(result)
    sentences = {
        Outcome.NO_GAIN: f"no proposal was better than {base} on the train scenarios; {base} stays",
        Outcome.OUT_OF_MONEY: f"out of money: {_broke(result)}; go on with a larger --max-cost",
        Outcome.OVERFIT: f"overfit: {best} gains on train ({train}) and not on the test split; it is not offered",
        Outcome.NOT_SHOWN: f"not shown: {best} gains on train ({train}); on the test split that may be chance "
        f"({test}), so it is written and not promoted",
        Outcome.OFFERED: f"{best} is better than {base}: {train}; it was not to be promoted",
        Outcome.REFUSED: f"REFUSED: {best} does not become champion of {result.plan.task}",
        Outcome.PROMOTED: f"{best} is champion of {result.plan.task}, {result.champion} in MLflow's prompt registry",
        Outcome.WAITING: waiting(result.waiting),
    }
    return sentences[result.outcome]


def _broke(result: Result) -> str:
    base, best = result.plan.base.version, result.best
    if best != base:
        return f"{best} is the best on train and is not compared on the test split yet"
    tried = sum(t.prompt is not None for t in result.trials)
    return f"{plural(tried, 'proposal')} tried, none better than {base} so far" if tried else "nothing was tried"


def _comparison(result: Result) -> str:
    """Winner less start on the test split; empty before that."""
    c = result.comparison or {}
    if c.get("mean_difference") is None:
        return ""
    p = "" if c["p_value"] is None else f", p = {c['p_value']:.3f}"
    return f"{c['mean_difference']:+.2f} {_range(c['ci'])}points on {plural(c['n'], 'scenario')}{p}"


def _figure(table: Mapping[str, tuple[float, ...]], version: str) -> str:
    found = table.get(version)
    return points(found[0], found[1:]) if found else "-"


def lines(result: Result, *, resume: str) -> list[str]:
    """The summary for the terminal. ``resume``: the command that goes on with the loop."""
    plan = result.plan
    text = [headline(result)]
    if result.note:
        text.append(f"  {result.note}")
    text += result.conditions
    if _comparison(result):
        text.append(f"  test split: against {plan.base.version} {_comparison(result)}")
    if plan.tested:
        text.append(f"  {_tested(result)}")
    tried = [t for t in result.trials if t.prompt is not None]
    dropped = [t for t in tried if t.dropped]
    text.append(
        f"  {plural(len(result.trials), 'round')} ({result.stopped or 'not finished'}), "
        f"{plural(len(tried), 'proposal')} tried, {len(dropped)} dropped early, which saved {result.saved} of "
        f"{plural(result.planned, 'candidate')}; spent {_spent(result)}"
    )
    if result.file:
        text.append(f"  the prompt: {result.file}")
    if result.outcome is Outcome.WAITING:
        evals = Path(plan.suite).parent.as_posix()
        apply = f"pytest {shlex.quote(evals)}/ --judge-apply {shlex.quote(str(result.packet))}"
        text.append(f"  score {result.packet}, then: {apply}")
        text.append(f"  and go on with: {resume}")
    if result.outcome is Outcome.OUT_OF_MONEY:
        text.append(f"  go on with: {resume} --max-cost USD")
    return text


def _tested(result: Result) -> str:
    count = result.plan.tested
    return (
        f"{plural(count, 'loop')} looked at this test split before, and no p-value allows for that; new scenarios in "
        "the suite are fresh ones"
    )


def _spent(result: Result) -> str:
    """No price known is not free."""
    if not result.unpriced:
        return dollars(result.spent_usd)
    known = f"{dollars(result.spent_usd)} and more" if result.spent_usd else "unknown"
    return f"{known}, for LiteLLM has no price of {', '.join(result.unpriced)}"


def _range(ci: Sequence[float] | None) -> str:
    return f"[{ci[0]:+.2f}, {ci[1]:+.2f}] " if ci else ""


def outcome_of(trial: Trial, best: str) -> str:
    """What became of a round, in a few words."""
    if trial.prompt is None:
        return f"no new prompt: {trial.problem}"
    if trial.dropped:
        late = trial.e_value is not None and trial.e_value >= 1e12
        why = "it could not catch up any more" if late else f"e = {number(trial.e_value, 1)}"
        return f"dropped after {plural(len(trial.scores), 'scenario')} ({why})"
    return "best" if trial.prompt.version == best else "measured"


def _rows(result: Result) -> list[tuple[str, ...]]:
    return [
        (
            str(t.number),
            visible(t.parent),
            visible(t.prompt.version) if t.prompt else "-",
            number(_seen(t)),
            visible(outcome_of(t, result.best)),
        )
        for t in result.trials
    ]


def _seen(trial: Trial) -> float | None:
    """Mean composite over what a proposal has seen."""
    return sum(trial.scores.values()) / len(trial.scores) if trial.scores else None


_HEAD = ("round", "parent", "proposal", "train composite", "outcome")


def _facts(result: Result) -> list[tuple[str, str]]:
    plan = result.plan
    facts = [
        ("loop", plan.id),
        ("experiment", plan.experiment),
        ("start", plan.base.version),
        ("models", ", ".join(plan.models)),
        ("proposer", plan.proposer.name),
        ("judge", plan.judged_by.value),
        ("scenarios", f"{len(plan.train)} train, {len(plan.test)} locked test, split by seed {plan.seed}"),
        ("test split", f"drawn by loop {plan.split}, looked at by {plural(plan.tested, 'loop')} before this one"),
        ("stopped", result.stopped or "not yet"),
        ("early stopping", f"{result.saved} of {plural(result.planned, 'candidate')} not generated"),
        ("spent", _spent(result)),
    ]
    for name, table in (("train", result.train), ("test", result.test)):
        facts += [(f"{v} on {name}", points(t[0], t[1:])) for v, t in table.items()]
    if _comparison(result):
        facts.append(("difference on test", _comparison(result)))
    return [(visible(k), visible(v)) for k, v in facts]


def render_markdown(result: Result) -> str:
    """The report as Markdown."""
    out = [
        f"# Prompt loop {result.plan.id}: {markdown_cell(result.plan.task)}",
        "",
        markdown_cell(headline(result)),
        "",
    ]
    out += ["| | |", "| --- | --- |"]
    out += [f"| {markdown_cell(k)} | {markdown_cell(v)} |" for k, v in _facts(result)]
    if result.conditions:
        out += ["", "## The gate", "", *(f"* {markdown_cell(c.strip())}" for c in result.conditions)]
    out += ["", "## Rounds", "", f"| {' | '.join(_HEAD)} |", f"|{' --- |' * len(_HEAD)}"]
    out += [f"| {' | '.join(markdown_cell(c) for c in row)} |" for row in _rows(result)]
    for title, diff in _diffs(result):
        fence = "`" * max(3, 1 + max((len(r) for r in re.findall(r"`+", diff)), default=0))
        out += ["", f"## {markdown_cell(title)}", "", f"{fence}diff", visible(diff, multiline=True), fence]
    return "\n".join(out) + "\n"


def _diffs(result: Result) -> list[tuple[str, str]]:
    """What was changed, against the start and, where that is another prompt, against the parent."""
    found = [("The prompt, against its start", result.diff)]
    found.append((f"The prompt, against its parent {visible(result.parent)}", result.parent_diff))
    return [(title, diff) for title, diff in found if diff]


# -- the page


@dataclass(frozen=True)
class _Mark:
    """A round in the picture. ``kind``: kept, dropped or best."""

    x: float
    y: float
    kind: str
    title: str


@dataclass(frozen=True)
class _Picture:
    width: float
    height: float
    left: float
    right: float
    marks: list[_Mark]
    steps: str
    ticks: list[tuple[float, str]]
    rounds: list[tuple[float, str]]
    floor: float


def picture(result: Result) -> _Picture | None:
    """Composite by round: a mark a proposal, and a line for the best so far. None before anything is measured."""
    base = result.train.get(result.plan.base.version)
    if not base:
        return None
    seen = [(t, s) for t in result.trials if t.prompt is not None and (s := _seen(t)) is not None]
    values = [base[0], *(s for _, s in seen)]
    low, high = min(values), max(values)
    pad = max(0.5, 0.15 * (high - low))
    low, high = low - pad, high + pad
    last = max(1, len(result.trials))

    def x(number_: float) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * number_ / last, 1)

    def y(value: float) -> float:
        return round(_TOP + (HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low), 1)

    best, path = base[0], f"M{x(0)},{y(base[0])}"
    marks = [_Mark(x(0), y(base[0]), "kept", f"{result.plan.base.version}: {number(base[0])}")]
    for t, s in seen:
        assert t.prompt is not None
        if not t.dropped and s > best:
            best = s
            path += f"H{x(t.number)}V{y(best)}"
        kind = "dropped" if t.dropped else "best" if t.prompt.version == result.best else "kept"
        marks.append(
            _Mark(x(t.number), y(s), kind, visible(f"round {t.number}: {number(s)}, {outcome_of(t, result.best)}"))
        )
    path += f"H{x(last)}"
    apart = -(-last // _MOST_LABELS)
    ticks = [(y(v), number(v, 1)) for v in (low + (high - low) * k / 4 for k in range(5))]
    return _Picture(
        width=WIDTH, height=HEIGHT, left=_LEFT, right=WIDTH - _RIGHT, marks=marks, steps=path, ticks=ticks,
        rounds=[(x(k), str(k)) for k in range(0, last + 1, apart)], floor=HEIGHT - _BOTTOM,
    )  # fmt: skip


def render_html(result: Result, *, generated_at: str) -> str:
    """The report as one page without script or outside address."""
    diffs = [(title, _marked(visible(diff, multiline=True))) for title, diff in _diffs(result)]
    return (
        environment()
        .get_template("optimize.html.j2")
        .render(
            css=asset("leaderboard.css"),
            task=visible(result.plan.task),
            loop_id=result.plan.id,
            headline=visible(headline(result)),
            note=visible(result.note),
            facts=_facts(result),
            conditions=[visible(c.strip()) for c in result.conditions],
            head=_HEAD,
            rows=_rows(result),
            picture=picture(result),
            diffs=diffs,
            generated_at=visible(generated_at),
        )
    )


def _marked(diff: str) -> list[tuple[str, str]]:
    """Each line of a unified diff with its kind; the first two name the prompts, with the signs of the others."""
    kinds = {"+": "add", "-": "cut", "@": "head"}
    return [("head" if n < 2 else kinds.get(line[:1], ""), line) for n, line in enumerate(diff.split("\n"))]


def write_reports(result: Result, folder: Path, *, generated_at: str) -> list[Path]:
    """``report.md`` and ``report.html`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"report.md": render_markdown(result), "report.html": render_html(result, generated_at=generated_at)}
    files = []
    for name, text in texts.items():
        replace_file(folder / name, text)
        files.append(folder / name)
    return files
