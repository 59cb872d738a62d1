"""The gate in a session: save a baseline, compare with one, say what came of it.

What is decided is decided in :mod:`.gate`; this module reads and writes the files around it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .errors import BaselineError, UsageError
from .files import replace_file
from .gate import (
    Baseline,
    BaselineRow,
    GateOutcome,
    GateResult,
    RowName,
    baseline_json,
    check_metrics,
    directions,
    evaluate_gate,
    parse_baseline,
    parse_tolerance,
    self_test,
    snapshot,
)
from .records import Tier
from .report.text import markdown_cell, plural, visible
from .session import Board, Task, labels_of
from .settings import DEFAULT_BASELINE, Settings, file_above
from .statistics import detectable, p_text, signed
from .steps import StepResult

GATE = "gate.json"
_MARKUP: Mapping[GateOutcome, Mapping[str, Any]] = {
    GateOutcome.PASS: {"green": True},
    GateOutcome.INCONCLUSIVE: {"yellow": True, "bold": True},
    GateOutcome.FAIL: {"red": True, "bold": True},
    GateOutcome.ERROR: {"red": True, "bold": True},
}


def check(settings: Settings) -> None:
    """Refuse, before anything runs, what could only fail at the end. UsageError or BaselineError."""
    if settings.compare is not None or settings.self_test is not None:
        for text in settings.compare_fail:
            parse_tolerance(text)
    for option, path in (("--bench-compare", settings.compare), ("--bench-save", settings.save)):
        if path is not None and (path.suffix == ".py" or ".py::" in str(path)):
            raise UsageError(  # and what was meant to be run would not be all that runs
                f"{option} {path}: that is a test, expected a baseline's file; a bare {option} goes last, or before an "
                "option"
            )
    if settings.compare is not None:
        read_baseline(settings.compare)
    if settings.save is not None and (file := file_above(settings.save)) is not None:
        raise UsageError(f"--bench-save {settings.save}: {file} is a file, not a folder")
    if settings.save is not None and settings.save.is_dir():
        raise UsageError(
            f"--bench-save {settings.save}: that is a folder; name a file, e.g. {settings.save}/baseline.json"
        )
    if settings.save is not None and settings.save.exists():
        read_baseline(settings.save)  # other tasks in there stay, so it has to be readable


def check_tasks(settings: Settings, tasks: Iterable[Task]) -> None:
    """Refuse, before anything is generated, what these suites cannot be compared by. UsageError or BaselineError."""
    if settings.compare is None:
        return
    there = {b.task for b in read_baseline(settings.compare)}
    tolerances = [parse_tolerance(text) for text in settings.compare_fail]
    for task in tasks:
        _check_known(settings.compare, task.suite.task, there)
        check_metrics(tolerances, task.suite.rubric.id, directions(task.suite.rubric))


def _check_known(path: Path, task: str, known: Collection[str]) -> None:
    if task not in known:
        raise BaselineError(f"{path}: has no baseline of task {task!r}; it has {', '.join(known)}")


def read_baseline(path: Path) -> tuple[Baseline, ...]:
    """The baselines of a file, one a task."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise BaselineError(
            f"{path}: there is no baseline; write one with --bench-save on the code that you trust, and commit it"
        ) from None
    except IsADirectoryError:
        raise BaselineError(
            f"{path}: is a folder, expected a baseline's file; a bare --bench-compare goes last, or before an option"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BaselineError(f"{path}: cannot be read: {error}") from None
    try:
        return parse_baseline(text, source=str(path))
    except BaselineError as error:
        raise BaselineError(visible(str(error))) from None


def save(settings: Settings, boards: Sequence[Board], tasks: Sequence[Task], *, now: str) -> list[str]:
    """Write this session's scores as the baseline; other tasks and rubrics in the file stay. Returns what to tell."""
    assert settings.save is not None
    empty = [b.leaderboard.task for b in boards if all(row.composite is None for row in b.leaderboard.rows)]
    there = read_baseline(settings.save) if settings.save.exists() else ()
    compared = read_baseline(settings.compare) if settings.compare else ()
    whole = {(b.task, b.rubric_sha256, name) for b in (*compared, *there) for name in _automatic(b)}
    updates = [_update(there, _saved(b, tasks, now, whole), settings, tasks) for b in boards]
    _check_new(settings.save, [u.session for u in updates], there)
    new = [u.baseline for u in updates]
    old = [b for b in there if (b.task, b.rubric) not in {(b.task, b.rubric) for b in new}]
    try:
        settings.save.parent.mkdir(parents=True, exist_ok=True)
        replace_file(settings.save, baseline_json([*old, *new]))
    except OSError as error:
        raise UsageError(f"--bench-save {settings.save}: cannot be written: {error.strerror or error}") from None
    return [
        f"baseline: {settings.save}",
        *(f"Not asked for, and kept as saved before: {_rows(u.kept)}." for u in updates if u.kept),
        *(line for u in updates for line in _gone(u.before, u.baseline)),
        *(f"The baseline of {task} holds no scores: nothing of it is scored yet." for task in empty),
    ]


class _Update(NamedTuple):
    """What becomes of one baseline: as the file has it, the session's scores, and the file's rows that stay."""

    before: Baseline | None
    session: Baseline
    kept: tuple[BaselineRow, ...]

    @property
    def baseline(self) -> Baseline:
        return _with_rows(self.session, self.kept, self.before)


def _update(there: Iterable[Baseline], found: Baseline, settings: Settings, tasks: Sequence[Task]) -> _Update:
    selected = _selected(settings, tasks, found.task, saving=True)
    session = _of_selected(found, selected)
    mine = {b.rubric_sha256: b for b in there if (b.task, b.rubric) == (found.task, found.rubric)}
    before = mine.pop(found.rubric_sha256, None)
    lost = [row for b in mine.values() for row in b.rows if selected is not None and row.name not in selected]
    if lost := [row for row in lost if _scored(row)]:
        raise UsageError(
            f"--bench-save {settings.save}: it holds scores of {_rows(lost)} by an earlier text of the rubric "
            f"{found.rubric}, and this session was not asked for them: they would be gone. Save with all models and "
            "prompts (no --bench-models or --bench-prompts, no key missing), or delete the file"
        )
    return _Update(before, session, _unselected(before, session, selected))


def compared_with_itself(settings: Settings) -> bool:
    """Whether --bench-save writes over what --bench-compare reads: after a failure, the next session would pass."""
    save, compare = settings.save, settings.compare
    return save is not None and compare is not None and save.exists() and save.samefile(compare)


def _check_new(path: Path, new: Sequence[Baseline], there: Sequence[Baseline]) -> None:
    """UsageError for a baseline that could not be read again, or would replace scores by none."""
    keys = [(b.task, b.rubric_sha256) for b in new]
    twice = next((b for i, b in enumerate(new) if keys[i] in keys[:i]), None)
    if twice is not None:
        raise UsageError(
            f"--bench-save {path}: this session has several leaderboards of the task {twice.task!r} and the rubric "
            f"{twice.rubric}, and a baseline holds one; save one test's alone, with -k"
        )
    for b in new:
        scored = any(_has_scores(o) for o in there if (o.task, o.rubric) == (b.task, b.rubric))  # whatever its text was
        if scored and not _has_scores(b):
            raise UsageError(
                f"--bench-save {path}: it holds scores of the task {b.task!r}, and this session has none: nothing of "
                "it is scored. Judge first (or mend what failed), or delete the file"
            )


def _selected(settings: Settings, tasks: Sequence[Task], task: str, *, saving: bool = False) -> list[RowName] | None:
    """The rows that a session narrowed by --bench-models or --bench-prompts was asked for; None where that is all.

    ``saving``: an optional model whose key or server is missing here narrows it, too. A comparison misses its rows.
    """
    mine = [t.suite for t in tasks if t.suite.task == task]
    left_out = saving and any(suite.skipped for suite in mine)
    if settings.models is None and settings.prompts is None and not left_out:
        return None
    return [(m.name, p.version) for suite in mine for m in suite.models for p in suite.prompts]


def _of_selected(baseline: Baseline, selected: Collection[RowName] | None) -> Baseline:
    """Without the rows that the leaderboard has from other sessions: whether their cells count is not known here."""
    if selected is None:
        return baseline
    return dataclasses.replace(baseline, rows=tuple(row for row in baseline.rows if row.name in selected))


def _unselected(
    before: Baseline | None, now: Baseline, selected: Collection[RowName] | None
) -> tuple[BaselineRow, ...]:
    """The rows of the file that a narrowed session was not asked for, without scenarios that are others by now."""
    if before is None or selected is None:
        return ()
    same = {s for s, print_ in before.scenarios.items() if now.scenarios.get(s) == print_}
    return tuple(
        dataclasses.replace(row, scores={s: scores for s, scores in row.scores.items() if s in same})
        for row in before.rows
        if row.name not in selected
    )


def _with_rows(now: Baseline, rows: tuple[BaselineRow, ...], before: Baseline | None) -> Baseline:
    """A baseline with the rows ``rows`` of an earlier one, whose models and prompts come along."""
    if before is None or not rows:
        return now
    models, prompts = {row.model for row in rows}, {row.prompt for row in rows}
    return dataclasses.replace(
        now,
        rows=(*now.rows, *rows),
        models={**{n: v for n, v in before.models.items() if n in models}, **now.models},
        prompts={**{n: v for n, v in before.prompts.items() if n in prompts}, **now.prompts},
    )


def _gone(before: Baseline | None, now: Baseline) -> Iterator[str]:
    """The scenarios that the baseline loses: they were deleted, or are another suite's, which was not collected."""
    held = {s for row in before.rows for s, scores in row.scores.items() if scores} if before is not None else set()
    gone = sorted(held - {s for row in now.rows for s in row.scores})
    if gone:
        yield visible(
            f"Scenarios that the collected suites of {now.task} do not have, and the baseline no more: "
            f"{', '.join(gone)}. Where they are another suite's, save with that one collected, too."
        )


def _rows(rows: Iterable[BaselineRow]) -> str:
    return visible(", ".join(" x ".join(row.name) for row in rows))


def _has_scores(baseline: Baseline) -> bool:
    return any(map(_scored, baseline.rows))


def compare(
    settings: Settings, boards: Sequence[Board], tasks: Sequence[Task]
) -> tuple[tuple[GateResult, ...], tuple[Baseline, ...]]:
    """One result a task, each also written as ``gate.json`` beside its leaderboard.

    And the baselines of the file that no leaderboard was compared with.
    """
    assert settings.compare is not None
    left = there = read_baseline(settings.compare)
    tolerances = [parse_tolerance(t) for t in settings.compare_fail]
    forget(settings, boards)
    results = []
    for board in boards:
        task = board.leaderboard.task
        _check_known(settings.compare, task, {b.task for b in there})
        baseline = _baseline_of(board, there)
        left = tuple(b for b in left if b is not baseline)
        result = evaluate_gate(
            baseline,
            _snapshot(board, tasks, "", by_automatic=_automatic(baseline), like=baseline),
            tolerances,
            strict=settings.strict,
            selected=_selected(settings, tasks, task),
        )
        file = board.folder / GATE
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(file, json.dumps(result.to_json(), indent=1) + "\n")
        except OSError as error:
            raise UsageError(f"{file}: cannot be written: {error.strerror or error}") from None
        results.append(result)
    return tuple(results), left


def _baseline_of(board: Board, there: Sequence[Baseline]) -> Baseline:
    """The one of a file that a leaderboard is compared with: of its task, and by its rubric where there is one."""
    task, rubric = board.leaderboard.task, board.leaderboard.rubric
    mine = [b for b in reversed(there) if b.task == task]
    return min(mine, key=lambda b: (b.rubric_sha256 != rubric.sha256, b.rubric != rubric.id))


def forget(settings: Settings, boards: Iterable[Board]) -> None:
    """Remove the results of earlier sessions, so that none is taken for this one's. UsageError where it cannot be."""
    below = [file for file in settings.report.glob(f"*/{GATE}") if _is_of_several(file.parent)]
    for file in dict.fromkeys((settings.report / GATE, *(b.folder / GATE for b in boards), *below)):
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(f"{file}: cannot be written: {error.strerror or error}") from None


def _is_of_several(folder: Path) -> bool:
    """Whether a folder has the name that the leaderboard in it gets among several, and is no copy or another report."""
    try:
        board = json.loads((folder / "leaderboard.json").read_text(encoding="utf-8"))
        return folder.name in labels_of(*(board[k] for k in ("task", "rubric", "rubric_sha256", "experiment")))
    except (OSError, ValueError, LookupError, TypeError):
        return False


def run_self_test(settings: Settings, tasks: Sequence[Task], n: int) -> StepResult:
    """Compare the baseline ``n`` times with itself under resampling: how often the gate fails where nothing changed."""
    path = settings.compare or settings.root / DEFAULT_BASELINE
    tolerances = [parse_tolerance(t) for t in settings.compare_fail]
    wanted = {t.suite.task for t in tasks}
    said = []
    for baseline in read_baseline(path):
        if not wanted or baseline.task in wanted:
            found = self_test(baseline, n, tolerances=tolerances, strict=settings.strict)
            low, high = found.ci
            said.append(
                f"  {baseline.task}: {found.failures} of {found.n} failed ({found.rate:.1%}, 95 % interval {low:.1%} "
                f"to {high:.1%}), {found.inconclusive} {'of them' if settings.strict else 'were'} inconclusive"
            )
    if not said:
        raise BaselineError(f"{path}: has no baseline of {', '.join(sorted(wanted))}")
    return StepResult(
        message=f"the gate on {path.name} against itself, resampled {plural(n, 'time')}:", lines=tuple(said)
    )


def _snapshot(
    board: Board,
    tasks: Sequence[Task],
    now: str,
    *,
    by_automatic: Collection[RowName] = (),
    like: Baseline | None = None,
) -> Baseline:
    """A leaderboard's scores that count. UsageError where none of its suites was collected, as of a packet's."""
    task, rubric = board.leaderboard.task, board.leaderboard.rubric
    group = task, rubric.sha256
    if board.cells_now is None:
        raise UsageError(
            f"no suite of the task {task!r} was collected, whose files say which scores count, so there is nothing to "
            "compare or save; name the evals, as in pytest evals/ ..."
        )
    suites = [t.suite for t in tasks if (t.experiment, t.suite.group) == (board.leaderboard.experiment, group)]
    found = snapshot(
        board.leaderboard,
        board.counting,
        suites,
        cells_now=board.cells_now,
        by_automatic=by_automatic,
        like=like,
        saved_at=now,
    )
    return _of_the_files(found, board.cells_now)


def _saved(board: Board, tasks: Sequence[Task], now: str, whole: Collection[tuple[str, str, RowName]]) -> Baseline:
    """A session's scores, to be saved. ``whole``: (task, rubric, row) of those that rested on automatic scores.

    A few labels since do not take the place of these. Nor do labels that are too few for a gate ever to fail by them.
    """
    from .statistics import fewest_pairs  # not at start-up: NumPy

    plain = _snapshot(board, tasks, now)
    names = {
        row.name
        for row in plain.rows
        if (plain.task, plain.rubric_sha256, row.name) in whole or _scored(row) < fewest_pairs()
    }
    if not names:
        return plain
    both = zip(plain.rows, _snapshot(board, tasks, now, by_automatic=names).rows, strict=True)
    return dataclasses.replace(plain, rows=tuple(max(rows, key=_scored) for rows in both))


def _of_the_files(snapshot: Baseline, there: Collection[tuple[str, str, str]]) -> Baseline:
    """Without what the suite has no more, which has no score that counts: every later gate would miss one in it."""
    rows = (
        dataclasses.replace(row, scores={s: scores for s, scores in row.scores.items() if (*row.name, s) in there})
        for row in snapshot.rows
    )
    return dataclasses.replace(snapshot, rows=tuple(row for row in rows if row.scores))


def _scored(row: BaselineRow) -> int:
    """Of how many scenarios there are scores."""
    return sum(map(bool, row.scores.values()))


def _automatic(baseline: Baseline) -> set[RowName]:
    """The rows that rest on automatic scores alone."""
    return {row.name for row in baseline.rows if row.tier == Tier.AUTO}


def not_compared(left: Iterable[Baseline]) -> list[str]:
    """What to say of baselines that no leaderboard was compared with: a suite that is gone cannot fail."""
    named = ", ".join(f"{b.task} by {b.rubric}" for b in left)
    if not named:
        return []
    told = f"Not compared, as this session has no leaderboard of it: {named}."
    return [visible(f"{told} What is gone for good, take out of the baseline's file.")]


def lines(results: Iterable[GateResult]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The results for a terminal. A baseline's names are whatever its file has, so they are made visible."""
    for result in results:
        head = f"gate of {result.task}: {result.outcome.value.upper()} ({plural(result.pairs, 'pair')})"
        yield visible(head), _MARKUP[result.outcome]
        for reason in result.reasons:
            yield f"  {visible(reason)}", {}
        for kind, names in result.changed.items():
            yield f"  changed since the baseline: {kind}: {visible('; '.join(names))}", {}
        for c in result.comparisons:
            if c.change is not None:
                yield f"  {visible(c.model)} x {visible(c.prompt)}: {_figures(c.to_json())}", {}


def _figures(c: Mapping[str, Any]) -> str:
    parts = [f"{c['metric']} {signed(c['change'])}"]
    if c["ci"]:
        parts.append(f"[{signed(c['ci'][0])}, {signed(c['ci'][1])}]")
    if c["p_value"] is not None:
        parts.append(f"p {p_text(c['p_value'])}")
    parts.append(f"n = {c['n']}")
    parts.append(f"detectable: {detectable(c['mde'], c['ci'])}")
    return ", ".join(parts)


def step_summary(
    boards: Sequence[Board], results: Sequence[GateResult], environ: Mapping[str, str] = os.environ
) -> list[str]:
    """Append leaderboards and gates to GitHub's step summary, where there is one. Returns what to tell."""
    path = environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return []
    from .report.markdown import render_leaderboard

    parts = [render_leaderboard(b.leaderboard) for b in boards]
    parts += [
        f"**Gate of {markdown_cell(r.task)}: {r.outcome.value}**\n\n"
        + "\n".join(f"- {markdown_cell(reason)}" for reason in r.reasons)
        for r in results
    ]
    try:
        with Path(path).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write("\n\n".join(parts) + "\n")
    except OSError as error:
        return [f"GITHUB_STEP_SUMMARY: {path} cannot be written: {error.strerror or error}"]
    return []
