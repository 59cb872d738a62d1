"""The renderers: golden files, hostile texts, and the page in a real browser.

PROMPTBENCH_UPDATE_GOLDEN=1 writes the golden files anew.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from pytest_promptbench.leaderboard import build_leaderboard
from pytest_promptbench.records import (
    Criterion,
    Judge,
    Leaderboard,
    LoggedCandidate,
    Row,
    Rubric,
    Score,
    Tier,
    Verdict,
    composite,
)
from pytest_promptbench.report import html, markdown, pictures, terminal, write_all
from pytest_promptbench.report.notes import notes
from pytest_promptbench.report.tables import Table
from pytest_promptbench.report.text import (
    by_scenario,
    dollars,
    duration,
    markdown_cell,
    number,
    percent,
    points,
    row_points,
    scrolls,
    var_text,
    visible,
)
from pytest_promptbench.session import Board, write_reports

GOLDEN = Path(__file__).parent / "golden"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AT = "2026-11-23 12:00 UTC"

HOSTILE = (
    "<script>alert(1)</script><script>document.documentElement.dataset.owned=1</script>"
    '<img src=x onerror="document.documentElement.dataset.owned=2"> </pre></details> \'"> {{ 7 * 7 }} {% raw %} '
    "\x1b[31mred\x1b]0;title\x07 \x9b1m nul\0 bidi \u202eevil\u2066x\u2069 lone \ud800 tag \U000e0041 "
    "| a | b | `code` **bold** [link](javascript:alert(1)) &amp; <!-- ]]>\r\nnext\tline\x7f"
)

RUBRIC = Rubric(
    id="tip-v1",
    text="---\nid: tip-v1\n---\n\n# tip-v1\n\nScore what stands there.\n\n"
    "<script>document.documentElement.dataset.owned=3</script>\n",
    criteria=(
        Criterion(name="relevance", type="scale", min=1, max=5, weight=1),
        Criterion(name="actionability", type="scale", min=1, max=5, weight=1),
        Criterion(name="tone", type="scale", min=1, max=5, weight=1),
        Criterion(name="format_ok", type="flag", bad=False, penalty=2),
        Criterion(name="overlong", type="flag", bad=True, penalty=1, check={"max_words": 60}),
    ),
    sha256="5f2b" * 16,
)

SITUATIONS = {
    "bad-sleep": "Slept 4 hours, long day ahead",
    "late-phone": "I look at my phone in bed every night and fall asleep far too late.",
    "hostile": HOSTILE,
    "new-job": "First week in a new job; I forget everybody's name.",
}
AXES = [
    ("haiku", "v3-few-shot"),
    ("haiku", "v1"),
    ("anthropic/claude-opus-4-5-20251101", "v2-mentor"),
    (HOSTILE[:60] + "|`*_[]", "{{ v9 }} \x1b[1m"),
    ("local", "v1"),
]


def verdict(
    n: int, tier: Tier = Tier.CLAUDE_CODE, *, rationale: str | None = "Names a step and when to take it."
) -> Verdict:
    scores: dict[str, Score] = {
        "relevance": 5 - n % 2,
        "actionability": 5 - n % 3,
        "tone": 4 - n % 4 // 2,
        "format_ok": n % 5 != 0,
        "overlong": n % 7 == 0,
    }
    return Verdict(
        scores=scores, judge=Judge(tier=tier, name=tier.value), rationale=rationale, at="2026-11-23T11:40:00Z"
    )


def logged(model: str, prompt: str, scenario: str, n: int, **other: object) -> LoggedCandidate:
    base = LoggedCandidate(
        run_id=f"run{n}",
        experiment="tip-bench-2026-11-23",
        task="tip",
        model=model,
        prompt=prompt,
        scenario=scenario,
        cell=f"cell{n}",
        candidate=f"{model} {prompt} {n}",
        rubric=RUBRIC.id,
        rubric_sha256=RUBRIC.sha256,
        pending=False,
        verdicts=(verdict(n), verdict(n + 1, Tier.AUTO, rationale=None)),
        latency_s=1.9,
        prompt_tokens=210,
        completion_tokens=48,
        cost_usd=0.0006,
        outputs=(f"Put the phone on the kitchen shelf at ten tonight, and set an old alarm clock. ({n})",),
        context={"situation": SITUATIONS[scenario]},
    )
    return dataclasses.replace(base, **other)  # type: ignore[arg-type]


def candidates() -> list[LoggedCandidate]:
    found = []
    for i, (model, prompt) in enumerate(AXES):
        for j, scenario in enumerate(SITUATIONS):
            n = 3 * i + j + 1
            other: dict[str, object] = {}
            if model == "local":
                other = {"verdicts": (), "pending": True, "cost_usd": None, "checks": {"overlong": True}}
            elif scenario == "hostile":
                outputs = (HOSTILE, "x" * 20_001) if i == 0 else (HOSTILE,)
                other = {"outputs": outputs, "verdicts": (verdict(n, rationale=HOSTILE),)}
            elif (i, scenario) == (1, "new-job"):
                other = {"verdicts": (), "error": "RateLimitError: \x1b[31m429\x1b[0m <b>slow down</b>", "outputs": ()}
            elif (i, scenario) == (2, "new-job"):
                other = {"outputs": None, "verdicts": (), "pending": True}
            found.append(logged(model, prompt, scenario, n, **other))
    return found


def board() -> Leaderboard:
    figures = [(1, 12.75, (12.1, 13.3)), (1, 12.5, (11.75, 13.25)), (3, 11.0, (9.5, 12.5)), (4, 9.25, (8.0, 10.5))]
    rows = []
    for i, (model, prompt) in enumerate(AXES):
        mine = [c for c in candidates() if (c.model, c.prompt) == (model, prompt)]
        scores = {c.scenario: composite(v.scores, RUBRIC) for c in mine if (v := c.verdict())}
        rank, value, ci95 = figures[i] if i < len(figures) else (None, None, None)
        failed = sum(c.error is not None for c in mine)
        rows.append(
            Row(
                rank=rank,
                model=model,
                prompt=prompt,
                composite=value,
                ci95=ci95,
                tier="claude-code" if rank else None,
                candidates=len(mine),
                judged=len(scores),
                pending=len(mine) - len(scores) - failed,
                failed=failed,
                criteria={"relevance": 4.4, "tone": 4.15, "overlong": 0.05} if rank else {},
                auto_composite=12.9 if rank else None,
                cost_usd=0.012 if rank else None,
                latency_s=1.9,
                scenario_scores={k: v for k, v in scores.items() if v is not None},
            )
        )
    return Leaderboard(experiment="tip-bench-2026-11-23", task="tip", rubric=RUBRIC, rows=tuple(rows), superseded=2)


def golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("PROMPTBENCH_UPDATE_GOLDEN") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    assert text == path.read_text(encoding="utf-8"), f"{name} changed; PROMPTBENCH_UPDATE_GOLDEN=1 accepts it"


FORBIDDEN = re.compile(r"[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff\U000e0000-\U000e007f]")


# -- texts and figures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, é, 日本 and 👩‍🔬", "plain, é, 日本 and 👩‍🔬"),
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("a\0b\x07\x7f", "a␀b␇␡"),
        ("\x9b31m", "\ufffd31m"),
        ("a\u202eb\u2066c\u2069", "a\ufffdb\ufffdc\ufffd"),
        ("\ud800 and \udfff", "\ufffd and \ufffd"),
        ("a\r\nb\tc\nd", "a b c d"),
        ("over\rwrite", "over␍write"),
        ("x\u2028y", "x y"),
        ("\U000e0068\U000e0069", "\ufffd\ufffd"),
    ],
)
def test_what_could_act_unseen_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(visible(text)) == shown


def test_newlines_and_tabs_stay_in_running_text() -> None:
    assert visible("a\r\nb\tc\u2028d\x1b", multiline=True) == "a\nb\tc\nd␛"


@pytest.mark.parametrize(("limit", "shown"), [(5, "abcde"), (4, "abc…"), (1, "…"), (0, "…"), (None, "abcde")])
def test_long_text_is_cut_with_an_ellipsis(limit: int | None, shown: str) -> None:
    assert visible("abcde", limit=limit) == shown


def test_a_var_that_is_no_text_is_shown_as_json() -> None:
    assert [var_text(v) for v in ("a b", {"urgent": True, "note": None}, ["é"], [], [{"role": "user"}])] == [
        "a b", '{"urgent": true, "note": null}', '["é"]', "[]", '[{"role": "user"}]'
    ]  # fmt: skip


def test_a_conversation_is_shown_message_by_message() -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert var_text(turns) == "user: Hi\nassistant: Hello"


@pytest.mark.parametrize(
    ("text", "found"),
    [("", False), ("x" * 28 * 16, False), ("x" * 28 * 16 + "x", True), ("a\n" * 15, False), ("a\n" * 16, True)],
)
def test_a_text_that_may_be_longer_than_its_box_on_a_phone_is_known(text: str, found: bool) -> None:
    assert scrolls(text) is found


def test_a_markdown_cell_stays_one_literal_cell() -> None:
    assert markdown_cell("a|b\n`c` <i> & *d* _e_ [f] \\| ~g~") == (
        r"a\|b \`c\` &lt;i&gt; &amp; \*d\* \_e\_ \[f\] \\\| \~g\~"
    )


def test_figures() -> None:
    assert [number(x) for x in (None, -0.001, 12.749, 0.0)] == ["-", "0.00", "12.75", "0.00"]
    assert [percent(x) for x in (0.0, 1 / 300, 0.08, 299 / 300, 1.0)] == ["0%", "<1%", "8%", ">99%", "100%"]
    assert points(12.75, (12.1, 13.3)) == "12.75 [12.10, 13.30]"
    assert points(12.75, None) == "12.75"
    assert points(None, None) == "-"
    row = dataclasses.replace(board().rows[0], composite=12.75, ci95=(12.1, 13.3))
    assert row_points(row) == "12.75 [12.10, 13.30]"
    assert row_points(dataclasses.replace(row, estimated=True)) == "~12.75 [12.10, 13.30]"
    assert [dollars(x) for x in (None, 0.0, 0.00001, 0.012, 3.456)] == ["-", "$0.0000", "<$0.0001", "$0.0120", "$3.46"]
    assert [duration(x) for x in (None, 0.042, 1.9, 75.25)] == ["-", "42 ms", "1.9 s", "75.2 s"]


def test_an_estimate_without_an_interval_is_said_to_have_none() -> None:
    row = dataclasses.replace(board().rows[0], composite=12.75, ci95=(12.1, 13.3), estimated=True)

    def said(row: Row) -> str:
        return " ".join(notes(dataclasses.replace(board(), rows=(row,))))

    assert "without an interval has labels of one scenario only" in said(dataclasses.replace(row, ci95=None))
    assert "~ marks an estimate" in said(row)
    assert "without an interval" not in said(row)


# -- terminal ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_golden(width: int) -> None:
    text = terminal.render_leaderboard(board(), width=width, color=False)
    assert not FORBIDDEN.search(text)
    golden(f"terminal-{width}.txt", text)


def test_the_readme_shows_a_leaderboard_as_a_terminal_does() -> None:
    rows = tuple(
        Row(
            rank=rank, model="haiku", prompt=prompt, composite=mean, ci95=ci95, tier="claude-code", candidates=20,
            judged=20, pending=0, failed=0, cost_usd=cost,
        )
        for rank, prompt, mean, ci95, cost in (
            (1, "v3-few-shot", 12.75, (12.1, 13.3), 0.012),
            (2, "v1", 10.9, (10.05, 11.65), 0.0094),
        )
    )  # fmt: skip
    lb = dataclasses.replace(board(), rows=rows, superseded=0)
    shown = terminal.render_leaderboard(lb, width=100, color=False)
    assert shown in (Path(__file__).parent.parent / "README.md").read_text(), shown


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("width", [0, 20, 33, 60, 80, 100, 200])
def test_no_width_breaks_the_terminal(width: int, color: bool) -> None:
    from rich.cells import cell_len

    text = terminal.render_leaderboard(board(), width=width, color=color)
    bare = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(cell_len(line) for line in bare.splitlines()) <= max(width, 20)
    assert ("\x1b" in text) is color
    assert not FORBIDDEN.search(bare)


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("width", [0, 24, 40, 50, 66, 74, 80, 120])
def test_smaller_tables_break_no_word_and_no_figure(width: int, color: bool) -> None:
    from rich.cells import cell_len

    differences = Table(
        title="Difference from haiku x v1",
        note="",
        head=("model", "prompt", "difference", "95 %", "p", "tier", "scenarios", "detectable"),
        rows=(("haiku", "v3-few-shot", "-4.67", "[-15.01, 5.68]", "0.750", "claude-code", "3", "none: too few pairs"),),
        names=2,
    )
    scales = Table(
        title="Agreement of claude-code and auto: alpha: scales",
        note="",
        head=("criterion", "n", "kappa", "mean distance", "bias"),
        rows=(("actionability", "12", "-0.21 [-0.75, 0.20]", "1.75 [1.00, 2.50]", "-"),),
    )
    for table in (differences, scales):
        text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.render_tables([table], width=width, color=color))
        assert max(cell_len(line) for line in text.splitlines()) <= max(width, terminal.NARROWEST)
        words = {word.rstrip(",") for cell in (*table.head[table.names :], *table.rows[0]) for word in cell.split()}
        assert words <= {word.rstrip(",") for word in text.split()}


def test_a_row_that_is_written_out_names_no_figure_that_it_has_not() -> None:
    head = ("model", "prompt", "difference", "95 %", "p", "tier", "scenarios", "detectable")
    row = ("haiku", "v3-few-shot", "-2.00", "", "1.000", "claude-code", "1", "none: too few pairs")
    text = terminal.render_tables([Table(title="t", note="", head=head, rows=(row,), names=2)], width=50, color=False)
    assert "difference -2.00, p 1.000, tier claude-code," in text


def test_columns_give_way_in_the_stated_order() -> None:
    def columns(width: int) -> set[str]:
        text = terminal.render_leaderboard(board(), width=width, color=False)
        head = next(line for line in text.splitlines() if line.split()[:1] == ["#"])
        return set(head.split())

    kept = [columns(width) for width in range(150, 60, -5)]
    assert kept[0] >= set(terminal.DROPPED_FIRST)
    for names in kept:
        left = [name in names for name in terminal.DROPPED_FIRST]
        assert left == sorted(left)


def test_under_checks_alone_a_terminal_has_each_check_in_place_of_what_waits_for_judges() -> None:
    """``0/4 judged`` stood there of what was scored whole, and no accuracy."""
    checks = (
        Criterion(name="correct", type="flag", bad=False, penalty=5, check={"equals_var": "label"}),
        Criterion(name="overlong", type="flag", bad=True, penalty=1, check={"max_words": 60}),
    )
    lb = board()
    rows = tuple(dataclasses.replace(row, criteria={"correct": 0.925, "overlong": None}) for row in lb.rows[:1])
    lb = dataclasses.replace(lb, rubric=dataclasses.replace(lb.rubric, criteria=checks), rows=rows)

    def columns(width: int) -> list[str]:
        lines = terminal.render_leaderboard(lb, width=width, color=False).splitlines()
        at = next(i for i, line in enumerate(lines) if line.startswith("#"))
        assert "0.93" in lines[at + 2]
        return lines[at].split()

    assert columns(100) == ["#", "model", "prompt", "composite", "correct", "overlong", "failed", "cost", "latency"]
    assert columns(61) == ["#", "model", "prompt", "composite", "correct", "failed"]


def test_terminal_does_not_obey_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    before = terminal.render_leaderboard(board(), width=80, color=True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert terminal.render_leaderboard(board(), width=80, color=True) == before


def test_scenarios_of_no_collected_suite_are_named_a_few_of_them() -> None:
    def said(count: int) -> str:
        lb = dataclasses.replace(board(), strangers=tuple(f"s{i}" for i in range(count)))
        return " ".join(terminal.render_leaderboard(lb, width=80, color=False).split())

    assert "1 scenario counts that no collected suite has: s0. One that was renamed counts under both names" in said(1)
    assert "9 scenarios count that no collected suite has: s0, s1, " in said(9)
    assert " scenarios more. One that was renamed" in said(9)


def test_a_rank_that_its_p_seems_to_contradict_is_explained() -> None:
    """With 8 scenarios and 15 pairs of rows, no p of sign flips is below 0.117, however far apart intervals are."""

    def said(place: int, p_holm: float | None) -> bool:
        model, prompt = AXES[place]
        found = {"mean_difference": -6.5, "ci": (-8.5, -3.5), "mde": 3.4, "tier": "claude-code", "n": 8}
        row = {"model": model, "prompt": prompt, "p_holm": p_holm, **found}
        lb = dataclasses.replace(board(), comparisons=(row,))
        every = terminal.render_leaderboard(lb, width=80, color=False), markdown.render_leaderboard(lb)
        wanted = "may have p above 0.05: ranks go by intervals (Student's t and BCa), p by sign flips, which need more"
        answers = {wanted in " ".join(text.replace("\\", "").split()) for text in every}
        assert len(answers) == 1
        return answers.pop()

    assert board().rows[2].rank == 3
    assert said(2, 0.117)
    assert not said(2, 0.031)
    assert not said(2, None)
    assert not said(1, 0.117), "it shares the first rank"


def test_a_check_that_every_output_violates_is_named() -> None:
    """As where ``matches`` stands for what must not occur: it moves all composites, and looks like a finding."""

    def said(*values: float | None) -> bool:
        some = zip(board().rows[: len(values)], values, strict=True)
        rows = [dataclasses.replace(r, criteria={**r.criteria, "overlong": v}) for r, v in some]
        told = "Every output violates what is checked for overlong, which so tells no rows apart"
        return told in " ".join(notes(dataclasses.replace(board(), rows=tuple(rows))))

    assert sum(r.candidates - r.failed for r in board().rows[:3]) >= 10
    assert said(1.0, 1.0, None)
    assert not said(1.0, 1.0, 0.8)
    assert not said(None, None, None)
    assert not said(0.0, 0.0, 0.0)
    assert not said(1.0), "of three or four outputs that is no wonder"


def test_an_empty_leaderboard_is_said_to_be_empty() -> None:
    lb = dataclasses.replace(board(), rows=(), superseded=0)
    assert "no candidates yet" in terminal.render_leaderboard(lb, width=80, color=False)
    assert "No candidates yet." in markdown.render_leaderboard(lb)
    assert "No candidates yet." in html.render_leaderboard(lb, [], generated_at=AT)


def test_progress_line() -> None:
    full = terminal.progress_line(
        done=120, total=240, in_flight=64, waiting=3, failed=1, cached=12, tokens=45_200, cost_usd=0.12, seconds=5.2
    )
    assert full == (
        "promptbench: 120/240 cells done, 64 in flight, 3 waiting on a rate limit, 1 failed, 12 from cache, "
        "45.2k tokens, $0.12, 5 s"
    )
    empty = terminal.progress_line(
        done=0, total=240, in_flight=0, waiting=0, failed=0, cached=0, tokens=0, cost_usd=None, seconds=0
    )
    assert empty == "promptbench: 0/240 cells done"


# -- markdown ----------------------------------------------------------------------------------------------------


def test_markdown_golden() -> None:
    text = markdown.render_leaderboard(board())
    assert not FORBIDDEN.search(text)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(AXES)
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    golden("leaderboard.md", text)


# -- the page ----------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "input", "br", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


def page(lb: Leaderboard | None = None, found: list[LoggedCandidate] | None = None) -> str:
    return html.render_leaderboard(lb or board(), candidates() if found is None else found, generated_at=AT)


def test_page_golden() -> None:
    made = build_leaderboard(candidates(), RUBRIC, experiment="e", task="tip")
    criteria = {(r.model, r.prompt): r.criteria for r in made.rows}
    rows = tuple(dataclasses.replace(r, criteria=criteria[r.model, r.prompt]) for r in board().rows)
    golden("leaderboard.html", page(dataclasses.replace(board(), rows=rows)))


def test_the_page_runs_its_own_script_only() -> None:
    text = page()
    parsed = Page(text)
    assert parsed.open == ["html"] or not parsed.open
    assert not FORBIDDEN.search(text)
    assert len(parsed.scripts) == 1
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[0].encode()).digest()).decode()
    policy = next(a["content"] for t, a in parsed.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    assert f"script-src 'sha256-{digest}'" in policy
    assert not [(t, k) for t, a in parsed.tags for k in a if k.startswith("on")]
    assert not [t for t, _ in parsed.tags if t in {"img", "iframe", "object", "embed", "form", "base"}]
    links = [v for _, a in parsed.tags for k, v in a.items() if k in {"href", "src", "srcset", "action"}]
    assert all(v is not None and v.startswith(("#", "data:,")) for v in links)
    assert "{{ 7 * 7 }}" in text


def test_the_page_is_accessible_by_structure() -> None:
    text = page()
    parsed = Page(text)
    heads = [a for t, a in parsed.tags if t == "th"]
    assert heads
    assert all(a.get("scope") in {"row", "col"} for a in heads)
    assert text.count("<caption>") == text.count("<table")
    named = [a["aria-labelledby"] for t, a in parsed.tags if t == "section" or a.get("role") == "region"]
    assert len(named) == len(set(named)) > 3, "a table that scrolls is no landmark beside its section"
    assert [a["aria-sort"] for a in heads if "aria-sort" in a] == ["ascending"]
    assert [a for t, a in parsed.tags if t == "html"] == [{"lang": "en"}]


def test_scenarios_stand_in_the_order_of_a_reader() -> None:
    long = "9" * 5000
    names = ["s10", "s2b10", long, "s", "s2", "s02", "s2b9", "10", "9", "²", "zebra"]
    found = [dataclasses.replace(candidates()[0], scenario=name, run_id=f"run-{i}") for i, name in enumerate(names)]
    assert list(by_scenario(found)) == ["9", "10", long, "s", "s02", "s2", "s2b9", "s2b10", "s10", "zebra", "²"]
    assert [c.run_id for c in by_scenario(found)["s2"]] == ["run-4"]
    text = page(found=found[:2])
    assert text.index(">s2b10<") < text.index(">s10<")


def test_a_page_shows_whole_scenarios_up_to_a_number_of_candidates_and_says_so() -> None:
    assert "are shown here" not in page()
    fifth = [c for c in candidates() if c.scenario == "new-job"]
    many = [dataclasses.replace(c, scenario=f"s{i:04}", run_id=f"{i}-{c.run_id}") for i in range(601) for c in fifth]
    text = page(found=many)
    assert "3,000 of 3,005 candidates are shown here, of 600 of 601 scenarios." in text
    assert text.count('<article class="card"') == 3000
    assert "s0600" not in text
    one = [dataclasses.replace(c, scenario="all", run_id=f"{i}-{c.run_id}") for i in range(601) for c in fifth]
    assert page(found=one).count('<article class="card"') == 3005, "a scenario is never cut"


def test_a_page_of_nothing_judged_has_no_empty_pictures_and_calls_failed_what_failed() -> None:
    failed, pending = (
        dataclasses.replace(
            row, rank=None, composite=None, ci95=None, candidates=4, judged=0, pending=4 - failed, failed=failed,
            criteria={}, scenario_scores={},
        )
        for row, failed in zip(board().rows[:2], (4, 0), strict=True)
    )  # fmt: skip
    lb = dataclasses.replace(board(), rows=(failed, pending))
    text = html.render_leaderboard(lb, [], generated_at="2026-11-23T12:00:00Z")
    assert "<svg" not in text
    assert "all failed" in text
    assert "not judged yet" in text
    text = html.render_leaderboard(dataclasses.replace(lb, rows=(failed,)), [], generated_at="2026-11-23T12:00:00Z")
    assert "not judged yet" not in text


def test_unscored_failed_and_missing_are_told_apart() -> None:
    text = page()
    assert "not judged yet" in text
    assert "text not loaded" in text
    assert "RateLimitError: ␛[31m429␛[0m &lt;b&gt;slow down&lt;/b&gt;" in text
    assert "cut: the first 20,000 of 20,001 characters" in text
    assert "x" * 20_000 in text
    assert "x" * 20_001 not in text


def test_nothing_is_counted_as_zero() -> None:
    lone = logged("local", "v1", "bad-sleep", 1, verdicts=(), pending=True, cost_usd=None, latency_s=None)
    row = Row(
        rank=None, model="local", prompt="v1", composite=None, ci95=None, tier=None,
        candidates=1, judged=0, pending=1, failed=0,
    )  # fmt: skip
    lb = dataclasses.replace(board(), rows=(row,), superseded=0)
    for text in (
        page(lb, [lone]),
        markdown.render_leaderboard(lb),
        terminal.render_leaderboard(lb, width=120, color=False),
    ):
        assert "0.00" not in text.split("<main>")[-1].split("<script>")[0]
        assert "$0" not in text


@pytest.mark.parametrize("value", [RUBRIC.top, RUBRIC.bottom, 0.0, 1e6, -1e-9, 12.75])
def test_every_composite_has_a_place_in_the_pictures(value: float) -> None:
    scored = {"bad-sleep": value, "late-phone": value}
    row = dataclasses.replace(board().rows[0], composite=value, ci95=(value, value), scenario_scores=scored)
    lb = dataclasses.replace(board(), rows=(row,))
    scale = pictures.scale(lb)
    assert 2 <= float(scale.at(value)) <= 98
    assert 1 <= len(scale.ticks) <= 12
    assert len({(dot.x, dot.y) for dot in pictures.strip(row, scale).dots}) == 2
    assert page(lb, [])


def test_an_interval_beyond_the_rubric_squeezes_nothing() -> None:
    """The rubric ends at 15, and a few labels' interval goes from -8 to 30: it runs to the edges, unended."""
    lb = board()
    wide = dataclasses.replace(lb.rows[0], ci95=(-8.0, 30.0))
    above = dataclasses.replace(lb.rows[0], ci95=(11.0, 16.0))
    beyond = dataclasses.replace(lb, rows=(wide, above, *lb.rows[1:]))
    scale = pictures.scale(beyond)
    assert RUBRIC.bottom <= scale.low < scale.high <= RUBRIC.top
    assert scale.whisker(wide.ci95) == ("0", "100", [])
    assert scale.whisker(above.ci95) == (scale.at(11.0), "100", [scale.at(11.0)])
    text = page(beyond, [])
    assert "interval, without an end where it leaves the picture." in text
    assert "[-8.00, 30.00]" in text
    assert "leaves the picture" not in page()


@pytest.mark.parametrize(
    ("criterion", "given", "mean", "bars"),
    [
        (RUBRIC.criteria[0], [5, 5, 4, 1], "3.75", 5),
        (Criterion(name="x", type="scale", min=0, max=100, weight=1), [100, 0, 50], "50.00", 10),
        (Criterion(name="x", type="scale", min=0, max=0.5, weight=1), [0.5, 0.1], "0.30", 10),
        (Criterion(name="x", type="scale", min=0, max=1, weight=1), [0.25, 0.75], "0.50", 10),
        (RUBRIC.criteria[3], [True, False, True, True], "25% bad", 2),
        (RUBRIC.criteria[4], [True, 0.5], "75% bad", 2),
        (RUBRIC.criteria[3], [True] * 299 + [False], "<1% bad", 2),
    ],
)
def test_histograms(criterion: Criterion, given: list[Score], mean: str, bars: int) -> None:
    values = [float(s) for s in given]
    found = pictures.histogram(criterion, values, sum(values) / len(values))
    assert found is not None
    assert (found.mean, len(found.bars)) == (mean, bars)
    assert pictures.histogram(criterion, [], None) is None


def scored(
    tone: int, prompt: str, scenario: str, *, tier: Tier = Tier.HUMAN, at: int = 1, auto: int | None = None, n: int = 0
) -> LoggedCandidate:
    """Of model m, with ``tone`` by a judge of ``tier`` and perhaps ``auto`` by an automatic one. n: which repeat."""
    given = [(tier, tone)] + ([] if auto is None else [(Tier.AUTO, auto)])
    verdicts = tuple(
        Verdict(
            scores={"relevance": 5, "actionability": 5, "tone": value, "format_ok": True},
            judge=Judge(tier=t, name=t.value),
        )
        for t, value in given
    )
    return logged(
        "m", prompt, scenario, at, run_id=f"{prompt} {scenario} {at} {n}", cell=f"{prompt} {scenario} {at}",
        candidate=f"{prompt} {scenario} {at} {n}", started_at=at, verdicts=verdicts, pending=tier is Tier.AUTO,
        checks={"overlong": n > 0},
    )  # fmt: skip


def test_scores_by_criterion_are_the_rows_own_and_every_file_says_the_same(tmp_path: Path) -> None:
    """Superseded candidates and other tiers stay out, repeats are averaged: as in the row, by what the files give."""
    names = list(SITUATIONS)
    found = [scored(2, "edited", s, at=1) for s in names] + [scored(4, "edited", s, at=2) for s in names]
    found += [scored(5, "back", s, at=1) for s in names] + [scored(1, "back", s, at=2) for s in names]
    found += [scored(5, "mixed", names[0], auto=1)] + [scored(1, "mixed", s, tier=Tier.AUTO) for s in names[1:]]
    found += [scored(5, "again", names[0], n=n) for n in range(3)] + [scored(1, "again", names[1])]
    now = {("m", "back", s): f"back {s} 1" for s in names}
    made = Board.of(tuple(found), RUBRIC, "e", "tip", folder=tmp_path, cells_now=now)
    write_reports([made])
    rows = {r["prompt"]: r for r in json.loads((tmp_path / "leaderboard.json").read_text())["rows"]}
    text = (tmp_path / "leaderboard.html").read_text()
    drawn = text.split('id="h-criteria"')[1].split("</section>")[0]
    tone, overlong = {}, {}
    for prompt, cells in re.findall(r'<td class="free">(\w+)</td>(.*?)</tr>', drawn, re.DOTALL):
        shown = re.findall(r'aria-label="([^"]*)".*?<span class="small">([^<]*)</span>', cells, re.DOTALL)
        tone[prompt], overlong[prompt] = shown[2], shown[4]
    assert tone == {
        "edited": ("4: 4", "4.00"),
        "back": ("5: 4", "5.00"),
        "mixed": ("5: 1", "5.00"),
        "again": ("1: 1, 5: 3", "3.00"),
    }
    assert {p: float(mean) for p, (_, mean) in tone.items()} == {p: r["tone"] for p, r in rows.items()}
    assert overlong["again"] == ("true in 33%, 4 scores", "33% bad"), "a program's flag, repeats averaged"
    assert overlong["mixed"] == ("true in 0%, 4 scores", "0% bad"), "a program's flag is known of all"
    assert rows["again"]["overlong"] == pytest.approx(1 / 3, abs=1e-6)
    totals = {k: sum(r[k] for r in rows.values()) for k in ("candidates", "judged", "pending")}
    assert totals == {"candidates": 16, "judged": 13, "pending": 3}
    assert "16 candidates, 13 judged, 3 pending." in text
    cards = re.findall(r'<article class="card" data-state="(\w+)">(.*?)</article>', text, re.DOTALL)
    counting = [state for state, card in cards if "left out above" not in card]
    assert (len(cards), len(counting)) == (24, 16)
    assert (counting.count("judged"), counting.count("pending")) == (13, 3)


def test_dots_too_many_to_be_told_apart_are_columns() -> None:
    scored = {f"s{i:04d}": i % 7 - 0.5 for i in range(501)}
    few, many = (
        dataclasses.replace(board().rows[0], scenario_scores=dict(list(scored.items())[:n])) for n in (500, 501)
    )
    lb = dataclasses.replace(board(), rows=(few, many))
    scale = pictures.scale(lb)
    drawn = pictures.strip(many, scale)
    assert (len(pictures.strip(few, scale).dots), pictures.strip(few, scale).columns) == (500, [])
    assert drawn.dots == []
    counts = [72, 72, 72, 72, 71, 71, 71]
    assert [c.label for c in drawn.columns] == [f"{n} scenarios: {i - 0.5:.2f}" for i, n in enumerate(counts)]
    middles = [float(c.x) + float(c.width) / 2 for c in drawn.columns]
    wanted = [float(scale.at(value - 0.5)) for value in range(7)]
    assert middles == pytest.approx(wanted, abs=0.75), "each within half a column of where its dots would be"
    assert [float(c.y) + float(c.height) / 2 for c in drawn.columns] == pytest.approx([29] * 7, abs=0.1)
    assert max(float(c.height) for c in drawn.columns) == 48
    assert drawn.label == "501 scenarios, lowest s0000: -0.50, highest s0496: 5.50"
    text = page(lb, [])
    assert (text.count('<circle class="faint"'), text.count('<rect class="faint"')) == (500, 7)
    assert "each column that of many" in text


def test_thousands_of_candidates_make_a_page() -> None:
    many = [logged(m, p, s, n) for n in range(120) for m, p in AXES for s in SITUATIONS]
    text = page(found=many)
    assert text.count('<article class="card"') == 2400
    assert text.count('<details class="scenario">') == len(SITUATIONS)


def look(path: Path, tmp_path: Path, *options: str) -> str:
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path / 'profile'}", *options, "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True, timeout=120)
    return done.stdout


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: the page was NOT tried in a browser (apt install chromium)")
def test_in_a_browser_our_script_runs_and_no_candidates_does(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.html"
    path.write_text(page(), encoding="utf-8")
    dom = look(path, tmp_path)
    start = dom[: dom.index("<head")]
    assert "data-ready" in start
    assert "data-owned" not in start
    assert 'disabled=""' not in dom[dom.index("<table id") : dom.index("</table>")]


MEASURE = """
const box = (e) => { const r = e.getBoundingClientRect(); return [r.left, r.right, r.top, r.bottom]; };
const plot = document.querySelector("ol.plot");
const found = {
  ticks: [...plot.parentElement.querySelectorAll(".axis text")].map((e) => [Number(e.textContent), box(e)]),
  rows: [...plot.querySelectorAll("li")].map((li) => ({
    prompt: li.querySelector(".who").textContent,
    dots: [...li.querySelectorAll(".dot")].map(box),
    whiskers: [...li.querySelectorAll(".whisker")].map(box),
    color: [...li.querySelectorAll(".dot, .whisker")].map((e) => getComputedStyle(e).visibility),
  })),
};
document.documentElement.dataset.measured = encodeURIComponent(JSON.stringify(found));
"""


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: the page was NOT tried in a browser (apt install chromium)")
@pytest.mark.parametrize("width", [1280, 420])
def test_in_a_browser_dots_and_whiskers_stand_at_their_values_on_the_axis(tmp_path: Path, width: int) -> None:
    path = tmp_path / "leaderboard.html"
    open_to_us = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page())
    path.write_text(open_to_us.replace("</body>", f"<script>{MEASURE}</script></body>"), encoding="utf-8")
    dom = look(path, tmp_path, f"--window-size={width},900")
    measured = re.search(r'data-measured="([^"]*)"', dom)
    assert measured is not None
    found = json.loads(unquote(measured[1]))
    (low, at_low), *_, (high, at_high) = found["ticks"]
    middle = [(box[0] + box[1]) / 2 for box in (at_low, at_high)]
    assert middle[1] - middle[0] > 100, "the axis has a width"

    def pixel(value: float) -> float:
        return middle[0] + (value - low) / (high - low) * (middle[1] - middle[0])

    scored = 0
    for row, seen in zip(board().rows, found["rows"], strict=True):
        assert visible(row.prompt) in seen["prompt"]
        if row.composite is None:
            assert (seen["dots"], seen["whiskers"]) == ([], [])
            continue
        scored += 1
        assert set(seen["color"]) == {"visible"}
        ((left, right, top, bottom),) = seen["dots"]
        assert 8 <= right - left <= 14, "a dot of some pixels"
        assert bottom - top == pytest.approx(right - left, abs=0.5)
        assert (left + right) / 2 == pytest.approx(pixel(row.composite), abs=1.5)
        line, lower, upper = seen["whiskers"]
        assert row.ci95 is not None
        assert line[0] == pytest.approx(pixel(row.ci95[0]), abs=1.5)
        assert line[1] == pytest.approx(pixel(row.ci95[1]), abs=1.5)
        assert line[1] - line[0] > 10
        assert lower[3] - lower[2] > 5, "its ends are strokes of some height"
        assert upper[3] - upper[2] > 5
        assert top < line[2] < bottom, "the whisker goes through the dot"
    assert scored == 4


# -- files -------------------------------------------------------------------------------------------------------


def test_write_all_writes_whole_files(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "report"
    for _ in range(2):
        paths = write_all(folder, board(), candidates(), generated_at=AT)
    assert [p.name for p in paths] == ["leaderboard.json", "statistics.json", "leaderboard.md", "leaderboard.html"]
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in paths)
    data = json.loads(paths[0].read_text(encoding="utf-8"))
    assert data["schema"] == "promptbench/leaderboard/1"
    assert paths[3].read_text(encoding="utf-8") == page()


def test_a_lone_surrogate_does_not_stop_the_files(tmp_path: Path) -> None:
    rows = (dataclasses.replace(board().rows[0], model="bad \ud800 name"),)
    paths = write_all(tmp_path, dataclasses.replace(board(), rows=rows), candidates(), generated_at=AT)
    assert json.loads(paths[0].read_text(encoding="utf-8"))["rows"][0]["model"] == "bad \ud800 name"


def test_importing_the_package_is_cheap() -> None:
    code = "import sys; from pytest_promptbench.report import html, terminal; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in ("jinja2", "rich", "numpy", "mlflow", "pytest_promptbench.leaderboard"):
        assert f"'{name}'" not in done.stdout


def test_the_command_for_a_judge_names_the_folder_of_the_evals() -> None:
    named = dataclasses.replace(board(), evals="my tests/llm")
    assert "5 pending: pytest 'my tests/llm'/ --judge-export packet.json" in markdown.render_leaderboard(named).replace(
        "`", ""
    )


def test_the_command_for_a_judge_names_an_experiment_that_is_not_found_without() -> None:
    named = dataclasses.replace(board(), experiment="my `first` try")
    command = "pytest evals/ --judge-export packet.json --bench-experiment 'my `first` try'"
    assert f"5 pending: {command}" in terminal.render_leaderboard(named, width=200, color=False)
    assert f"- 5 pending: ``{command}``" in markdown.render_leaderboard(named)
