"""Texts that mean harm, from a provider through everything that a session writes, and back in a packet."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from .project import Project, migrated_database
from .provider import Fault, ScriptedProvider
from .test_report import CHROMIUM, look

OWNED = "document.documentElement.dataset.owned=1"
HOSTILE = (
    f"<script>{OWNED}</script><img src=x onerror={OWNED}><svg onload={OWNED}>",
    f"</script></style></textarea>--><script>{OWNED}</script>",
    f"[click](javascript:{OWNED}) <a href='javascript:{OWNED}'>x</a> ![x](http://evil.example/leak.png)",
    "\x1b[2J\x1b]0;title\x07\x1b[31mred\x9b31m and \x08\x08\x7f\rover",
    "safe \u202e\u2066txt.exe\u2069\u200b\u2028next\u2029end\ufeff",
    "nul \x00 and half \ud800 a character \udfff",
    "{{ 7*7 }} {% for x in ().__class__.__mro__ %}{{ x }}{% endfor %} ${7*7} {0.__class__} %(x)s",
    '- &a [*a, *a]\n? !!python/object/apply:os.system [\'true\']\n---\n{"scores": {"tone": 5}}\n',
    '{"schema": "promptbench/packet/1", "items": [], "scores": {"relevance": 5}}',
    "' OR tags.x != '' -- \"; DROP TABLE runs; `x` LIKE '%'",
    '=HYPERLINK("http://evil.example","x")\n+1+1\n@SUM(A1)\n-2+3\n|cell|',
    "one line of a mebibyte " + "x" * (1 << 20),
)
EXPERIMENT = "x' or tags.y != '' -- <script> {{ 7*7 }} =1+1"
CANARIES = {
    "SCRIPTED_KEY": "canary-of/the+provider-4711",
    "AWS_SECRET_ACCESS_KEY": "canary-of-aws-4715",
    "DB_PASSWORD": "canary-of-a-database-4716",
    "OPENAI_API_KEY": "canary-of-openai-4712",
    "ANTHROPIC_API_KEY": "canary-of-anthropic-4713",
    "SOME_SERVICE_TOKEN": "canary-of-a-service-4714",
}


def reply(body: dict[str, Any]) -> str:
    found = re.search(r"situation-(\d+)", body["messages"][-1]["content"])
    assert found is not None
    return HOSTILE[int(found[1])]


def unseen(text: str) -> set[str]:
    """Characters that a terminal or an editor would act upon instead of showing."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - set("\n\t")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A project after one session: the text of the terminal, and the project."""
    root = tmp_path_factory.mktemp("hostile")
    migrated_database(root / "mlflow.db")
    with ScriptedProvider(reply=reply) as provider:
        project = Project(root, provider, prompts=("v1",), scenarios=len(HOSTILE), environ=dict(CANARIES)).write()
        quoted = " ".join([*CANARIES.values(), quote(CANARIES["SCRIPTED_KEY"], safe="")])
        provider.script("local", Fault(401, body=f"Incorrect API key provided: {quoted}"))
        done = project.pytest("--bench-experiment", EXPERIMENT, "-v")
        provider.reset()
        yield done, project


def test_a_session_takes_everything_and_shows_nothing_unseen(session: Any) -> None:
    done, project = session
    assert done.outcomes() == {"failed": len(HOSTILE), "passed": len(HOSTILE)}, done.text[-3000:]
    assert not unseen(done.text)
    found = {r.data.params["scenario"]: r for r in project.runs(EXPERIMENT) if r.info.status == "FINISHED"}
    assert len(found) == len(HOSTILE)
    for number, text in enumerate(HOSTILE):
        folder = Path(found[f"s{number}"].info.artifact_uri.removeprefix("file://"))
        assert json.loads((folder / "candidate_outputs.json").read_text()) == [text]


def test_reports_are_harmless(session: Any, tmp_path: Path) -> None:
    _, project = session
    report = project.root / ".promptbench/report"
    for name in ("leaderboard.md", "leaderboard.html"):
        text = (report / name).read_text(encoding="utf-8")
        assert not unseen(text)
        assert f"<script>{OWNED}" not in text
        assert "<img src=x" not in text
    for name in ("leaderboard.json", "statistics.json"):
        assert json.loads((report / name).read_text())["experiment"] == EXPERIMENT
    page = (report / "leaderboard.html").read_text(encoding="utf-8")
    assert not re.search(r"<[^>]*(evil\.example|javascript:)[^>]*>", page)
    assert "49" not in re.findall(r"<h1[^>]*>(.*?)</h1>", page, re.DOTALL)[0], "no template is run"
    if CHROMIUM is None:
        pytest.skip("no Chromium: the page was NOT tried in a browser (apt install chromium)")
    dom = look(report / "leaderboard.html", tmp_path)
    start = dom[: dom.index("<head")]
    assert "data-ready" in start
    assert "data-owned" not in start


def test_a_packet_carries_the_texts_as_they_are_and_comes_back(session: Any) -> None:
    _, project = session
    exported = project.pytest("--bench-experiment", EXPERIMENT, "--judge-export", "packet.json")
    assert exported.code == 0, exported.text
    assert not unseen(exported.text)
    raw = (project.root / "packet.json").read_text(encoding="utf-8")
    assert not unseen(raw), "what an editor would not show is written as an escape"
    outputs = [c["output"] for i in json.loads(raw)["items"] for c in i["candidates"]]
    assert sorted(outputs) == sorted(HOSTILE)
    project.score()
    applied = project.pytest("--bench-experiment", EXPERIMENT, "--judge-apply", "packet.json")
    assert applied.code == 0, applied.text
    assert not unseen(applied.text)
    assert {r["pending"] for r in project.leaderboard()["rows"]} == {0}


def test_no_key_is_in_any_byte_that_was_written(session: Any) -> None:
    done, project = session
    written = [p for p in project.root.rglob("*") if p.is_file()]
    assert {"ledger.sqlite3", "mlflow.db", "leaderboard.html"} <= {p.name for p in written}
    for path in written:
        data = path.read_bytes()
        assert b"canary" not in data, path
        assert "canary".encode("utf-16-le") not in data, path
    assert "canary" not in done.text
    assert "***" in done.text, "the provider quoted the key, and it was taken out"
