"""The gate in a session: save a baseline, compare with one, say what came of it.

What is decided is decided in :mod:`.gate`; this module reads and writes the files around it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import BaselineError, UsageError
from .gate import (
    Baseline,
    GateOutcome,
    GateResult,
    baseline_json,
    evaluate_gate,
    parse_baseline,
    parse_tolerance,
    self_test,
    snapshot,
)
from .leaderboard import current_candidates
from .session import Board, Task, cells_now
from .settings import DEFAULT_BASELINE, Settings
from .sitdown import Sitting
from .statistics import detectable, p_text

_MARKUP: Mapping[GateOutcome, Mapping[str, Any]] = {
    GateOutcome.PASS: {"green": True},
    GateOutcome.INCONCLUSIVE: {"yellow": True, "bold": True},
    GateOutcome.FAIL: {"red": True, "bold": True},
    GateOutcome.ERROR: {"red": True, "bold": True},
}


def check(settings: Settings) -> None:
    """Refuse, before anything runs, what could only fail at the end. UsageError or BaselineError."""
    for text in settings.compare_fail:
        parse_tolerance(text)
    if settings.compare is not None:
        read_baseline(settings.compare)
    if settings.save is not None and settings.save.is_dir():
        raise UsageError(
            f"--bench-save {settings.save}: that is a folder; name a file, e.g. {settings.save}/baseline.json"
        )
    if settings.save is not None and settings.save.exists():
        read_baseline(settings.save)  # other tasks in there stay, so it has to be readable


def read_baseline(path: Path) -> tuple[Baseline, ...]:
    """The baselines of a file, one a task."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BaselineError(
            f"{path}: there is no baseline; write one with --bench-save on the code that you trust, and commit it"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BaselineError(f"{path}: cannot be read: {error}") from None
    return parse_baseline(text, source=str(path))


def save(settings: Settings, boards: Sequence[Board], tasks: Sequence[Task], *, now: str) -> list[str]:
    """Write this session's scores as the baseline; other tasks in the file stay. Returns what to tell."""
    assert settings.save is not None
    new = [_snapshot(b, tasks, now) for b in boards]
    names = {b.task for b in new}
    old = [b for b in read_baseline(settings.save) if b.task not in names] if settings.save.exists() else []
    settings.save.parent.mkdir(parents=True, exist_ok=True)
    draft = settings.save.with_name(settings.save.name + ".tmp")
    draft.write_text(baseline_json([*old, *new]), encoding="utf-8")
    draft.replace(settings.save)
    empty = [b.leaderboard.task for b in boards if all(row.composite is None for row in b.leaderboard.rows)]
    return [
        f"baseline: {settings.save}",
        *(f"The baseline of {task} holds no scores: nothing of it is judged yet." for task in empty),
    ]


def compare(settings: Settings, boards: Sequence[Board], tasks: Sequence[Task]) -> tuple[GateResult, ...]:
    """One result a task, each also written as ``gate.json`` beside its leaderboard."""
    assert settings.compare is not None
    known = {b.task: b for b in read_baseline(settings.compare)}
    tolerances = [parse_tolerance(t) for t in settings.compare_fail]
    results = []
    for board in boards:
        task = board.leaderboard.task
        if task not in known:
            raise BaselineError(f"{settings.compare}: has no baseline of task {task!r}; it has {', '.join(known)}")
        narrowed = settings.models is not None or settings.prompts is not None
        mine = [t.suite for t in tasks if t.suite.task == task]
        asked_for = [(m.name, p.version) for suite in mine for m in suite.models for p in suite.prompts]
        selected = asked_for if narrowed else None
        result = evaluate_gate(
            known[task], _snapshot(board, tasks, ""), tolerances, strict=settings.strict, selected=selected
        )
        board.folder.mkdir(parents=True, exist_ok=True)
        (board.folder / "gate.json").write_text(json.dumps(result.to_json(), indent=1) + "\n", encoding="utf-8")
        results.append(result)
    return tuple(results)


def run_self_test(settings: Settings, tasks: Sequence[Task], n: int) -> Sitting:
    """Compare the baseline ``n`` times with itself under resampling: how often the gate fails where nothing changed."""
    path = settings.compare or settings.root / DEFAULT_BASELINE
    tolerances = [parse_tolerance(t) for t in settings.compare_fail]
    wanted = {t.suite.task for t in tasks}
    said = []
    for baseline in read_baseline(path):
        if not wanted or baseline.task in wanted:
            found = self_test(baseline, n, tolerances=tolerances)
            low, high = found.ci
            said.append(
                f"  {baseline.task}: {found.failures} of {found.n} failed ({found.rate:.1%}, 95 % interval {low:.1%} "
                f"to {high:.1%}), {found.inconclusive} were inconclusive"
            )
    if not said:
        raise BaselineError(f"{path}: has no baseline of {', '.join(sorted(wanted))}")
    return Sitting(message=f"the gate on {path.name} against itself, resampled {n} times:", lines=tuple(said))


def _snapshot(board: Board, tasks: Sequence[Task], now: str) -> Baseline:
    suite = next(
        t.suite for t in tasks if t.suite.task == board.leaderboard.task and t.suite.rubric == board.leaderboard.rubric
    )
    cells = cells_now(tasks, suite.task)
    counting, _ = current_candidates(board.candidates, suite.rubric, task=suite.task, cells_now=cells)
    return snapshot(board.leaderboard, counting, suite, cells_now=cells, saved_at=now)


def lines(results: Iterable[GateResult]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The results for a terminal."""
    for result in results:
        yield f"gate of {result.task}: {result.outcome.value.upper()} ({result.pairs} pairs)", _MARKUP[result.outcome]
        for reason in result.reasons:
            yield f"  {reason}", {}
        for kind, names in result.changed.items():
            yield f"  changed since the baseline: {kind}: {'; '.join(names)}", {}
        for c in result.comparisons:
            if c.change is not None:
                yield f"  {c.model} x {c.prompt}: {_figures(c.to_json())}", {}


def _figures(c: Mapping[str, Any]) -> str:
    parts = [f"{c['metric']} {c['change']:+.2f}"]
    if c["ci"]:
        parts.append(f"[{c['ci'][0]:+.2f}, {c['ci'][1]:+.2f}]")
    if c["p_value"] is not None:
        parts.append(f"p {p_text(c['p_value'])}")
    parts.append(f"n = {c['n']}")
    parts.append(f"detectable: {detectable(c['mde'], c['ci'])}")
    return ", ".join(parts)


def step_summary(
    boards: Sequence[Board], results: Sequence[GateResult], environ: Mapping[str, str] = os.environ
) -> None:
    """Append leaderboards and gates to GitHub's step summary, where there is one."""
    path = environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    from .report.markdown import render_leaderboard

    parts = [render_leaderboard(b.leaderboard) for b in boards]
    parts += [
        f"**Gate of {r.task}: {r.outcome.value}**\n\n" + "\n".join(f"- {reason}" for reason in r.reasons)
        for r in results
    ]
    with Path(path).open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write("\n\n".join(parts) + "\n")
