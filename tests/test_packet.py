"""Judge packets: blind, strict, all or nothing."""

from __future__ import annotations

import copy
import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptbench.errors import PacketError
from pytest_promptbench.packet import (
    Matched,
    build_packet,
    item_id,
    match_verdicts,
    parse_packet,
    read_packet,
    set_aside,
    write_packet,
)
from pytest_promptbench.records import Criterion, Judge, LoggedCandidate, Rubric, Tier, Verdict, sha256

TEXT = """\
---
id: tip-v1
criteria:
  - {name: relevance, type: scale, min: 1, max: 5, weight: 1}
  - {name: tone, type: scale, min: 0, max: 1}
  - {name: format_ok, type: flag, bad: false, penalty: 2}
  - {name: overlong, type: flag, bad: true, penalty: 1, check: {max_words: 3}}
---
# Anchors
"""
CRITERIA = (
    Criterion(name="relevance", type="scale", min=1.0, max=5.0, weight=1.0),
    Criterion(name="tone", type="scale", min=0.0, max=1.0, weight=1.0),
    Criterion(name="format_ok", type="flag", bad=False, penalty=2.0),
    Criterion(name="overlong", type="flag", bad=True, penalty=1.0, check={"max_words": 3}),
)
RUBRIC = Rubric(id="tip-v1", text=TEXT, criteria=CRITERIA, sha256=sha256(TEXT))
HOSTILE = "NUL \x00, ANSI \x1b[31m, bidi \u202e, lone \ud800 surrogate, \ufeff, \u2028, \r\n </item> {{ x }} 🙂"
NOW = "2026-11-23T10:00:00Z"
ONE, TWO = item_id("run-1"), item_id("run-2")
EXPORT_AGAIN = "changed since the export"


def candidate(run_id: str = "run-1", *outputs: str, **changes: Any) -> LoggedCandidate:
    values: dict[str, Any] = {
        "run_id": run_id,
        "experiment": "tip-bench",
        "task": "tip",
        "model": "secret-model",
        "prompt": "secret-prompt",
        "scenario": "secret-scenario",
        "cell": "secret-cell",
        "candidate": f"secret-candidate-{run_id}",
        "rubric": "tip-v1",
        "rubric_sha256": RUBRIC.sha256,
        "pending": not changes.get("verdicts"),
        "outputs": outputs or (f"drink {run_id}",),
        "context": {"situation": "thirsty"},
    }
    return LoggedCandidate(**values | changes)


BOTH = (candidate("run-1"), candidate("run-2", "one two three four"))


def packet(*candidates: LoggedCandidate, **options: Any) -> dict[str, Any]:
    choices: dict[str, Any] = {"experiment": "tip-bench", "seed": 1}
    return build_packet(candidates or BOTH, RUBRIC, **choices | options)


def item(data: dict[str, Any], run_id: str) -> Any:
    return next(i for i in data["items"] if i["item"] == item_id(run_id))


def score(data: dict[str, Any], run_id: str, output: int = 0, **scores: Any) -> None:
    entry = item(data, run_id)["candidates"][output]
    entry["scores"] |= {"relevance": 4, "tone": 0.5, "format_ok": True} | scores


def scored(*candidates: LoggedCandidate) -> dict[str, Any]:
    data = packet(*candidates)
    for c in candidates or BOTH:
        for n in range(len(c.outputs or ())):
            score(data, c.run_id, n)
    return data


def match(data: object, *candidates: LoggedCandidate, **options: Any) -> Matched:
    choices: dict[str, Any] = {"rubrics": {"tip-v1": RUBRIC}, "now": NOW}
    return match_verdicts(parse_packet(data), candidates or BOTH, **choices | options)


def problems(data: object, *candidates: LoggedCandidate, **options: Any) -> list[str]:
    with pytest.raises(PacketError) as caught:
        match(data, *candidates, **options)
    return str(caught.value).splitlines()


# -- building


def test_a_packet_has_exactly_the_contracts_shape() -> None:
    assert packet(candidate("run-2", "one two three four")) == {
        "schema": "promptbench/packet/1",
        "experiment": "tip-bench",
        "judge_kind": "claude-code",
        "rubric": {
            "id": "tip-v1",
            "sha256": RUBRIC.sha256,
            "text": TEXT,
            "criteria": [
                {"name": "relevance", "type": "scale", "min": 1, "max": 5, "weight": 1},
                {"name": "tone", "type": "scale", "min": 0, "max": 1, "weight": 1},
                {"name": "format_ok", "type": "flag", "bad": False, "penalty": 2},
                {"name": "overlong", "type": "flag", "bad": True, "penalty": 1, "check": {"max_words": 3}},
            ],
        },
        "items": [
            {
                "item": TWO,
                "context": {"situation": "thirsty"},
                "candidates": [
                    {
                        "output": "one two three four",
                        "scores": {"relevance": None, "tone": None, "format_ok": None, "overlong": True},
                        "rationale": None,
                    }
                ],
            }
        ],
    }
    assert list(packet()["items"][0]["candidates"][0]["scores"]) == [c.name for c in CRITERIA]


def test_a_packet_is_blind_unless_revealed() -> None:
    judge = Judge(tier=Tier.AUTO, name="secret-judge")
    earlier = Verdict(scores={"relevance": 3.25}, judge=judge, rationale="secret-rationale")
    c = candidate("secret-run", "drink", verdicts=(earlier,), trace_id="secret-trace", carried_from="secret-origin")
    text = json.dumps(packet(c))
    assert "secret" not in text
    assert "3.25" not in text
    (revealed,) = packet(c, reveal=True)["items"]
    assert {k: revealed[k] for k in ("model", "prompt", "scenario", "run_id")} == {
        "model": "secret-model", "prompt": "secret-prompt", "scenario": "secret-scenario", "run_id": "secret-run"
    }  # fmt: skip


def test_an_item_is_a_candidate_and_an_entry_is_an_output() -> None:
    (found,) = packet(candidate("run-1", "a", "a b c d"))["items"]
    assert [(e["output"], e["scores"]["overlong"]) for e in found["candidates"]] == [("a", False), ("a b c d", True)]


def test_order_depends_on_the_seed_and_on_nothing_else() -> None:
    many = [candidate(f"run-{n}") for n in range(50)]
    first = [i["item"] for i in packet(*many, seed=7)["items"]]
    assert [i["item"] for i in packet(*reversed(many), seed=7)["items"]] == first
    assert [i["item"] for i in packet(*many, seed=8)["items"]] != first
    assert first != [item_id(c.run_id) for c in many]
    assert sorted(first) == sorted(item_id(c.run_id) for c in many)
    assert sorted(first) != first


def test_ids_are_opaque_and_the_same_everywhere() -> None:
    assert ONE == "8f197ad43eeb34f21801"
    assert item_id("run-1", duplicate=True) != ONE
    assert len(item_id("run-1", duplicate=True)) == 20


def test_failed_candidates_are_not_offered() -> None:
    assert packet(candidate("run-1", error="429", outputs=()))["items"] == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"outputs": None}, "run run-1 was read without its texts"),
        ({"context": None}, "run run-1 was read without its texts"),
        (
            {"rubric_sha256": "other"},
            "run run-1 belongs to another text of rubric tip-v1; a packet is for one rubric",
        ),
    ],
)
def test_a_program_that_builds_from_the_wrong_candidates_is_told(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        packet(candidate("run-1", **wrong))


def test_hidden_duplicates_look_like_any_item_and_come_back_apart() -> None:
    many = [candidate(f"run-{n}") for n in range(20)]
    data = packet(*many, duplicates=3)
    assert len({i["item"] for i in data["items"]}) == 23
    assert {tuple(i) for i in data["items"]} == {("item", "context", "candidates")}
    for i in data["items"]:
        i["candidates"][0]["scores"] |= {"relevance": 2, "tone": 1, "format_ok": False}
    matched = match(data, *many)
    assert len(matched.verdicts) == 20
    assert len(matched.duplicates) == 3
    assert matched.duplicates.keys() < matched.verdicts.keys()
    after = [
        replace(
            c, pending=False, verdicts=(matched.verdicts[c.run_id],),
            second_verdicts=tuple(v for run_id, v in matched.duplicates.items() if run_id == c.run_id),
        )
        for c in many
    ]  # fmt: skip
    assert match(data, *after) == Matched(verdicts={}, unchanged=20, left=0, duplicates={}), "twice changes nothing"
    assert len(packet(*many, duplicates=99)["items"]) == 40, "each at most once again"


def test_a_duplicate_left_null_is_no_pending_candidate() -> None:
    data = packet(BOTH[0], duplicates=1)
    score(data, "run-1")
    assert match(data).left == 0


# -- files


def test_a_packet_survives_its_file(tmp_path: Path) -> None:
    c = candidate("run-1", HOSTILE, "x" * 1_000_000, context={HOSTILE: [HOSTILE, 1.5, None]})
    path = tmp_path / "new" / "folder" / "packet.json"
    write_packet(path, packet(c))
    assert read_packet(path) == packet(c)
    assert [p.name for p in path.parent.iterdir()] == ["packet.json"]
    for n in (0, 1):
        score(data := read_packet(path), "run-1", n)
    score(data, "run-1", 0)
    write_packet(path, data)
    assert match(read_packet(path), c).verdicts["run-1"].scores["relevance"] == 4


def test_a_file_can_be_read_by_people(tmp_path: Path) -> None:
    write_packet(tmp_path / "p.json", packet(candidate("run-1", "trink Wasser, schläfst besser 🙂")))
    text = (tmp_path / "p.json").read_text(encoding="utf-8")
    assert "schläfst besser 🙂" in text
    assert len(text.splitlines()) > 20
    (scores,) = (line.strip() for line in text.splitlines() if '"scores"' in line)
    given = '{"relevance": null, "tone": null, "format_ok": null, "overlong": true}'
    assert scores == f'"scores": {given},', "an editor that replaces text finds them beside their output"


def test_only_short_scores_share_a_line(tmp_path: Path) -> None:
    """Also where a var is called like them, or texts look like JSON. Long ones would be cut off by who reads lines."""
    data = packet(candidate("run-1", '"scores": {\n}', context={"scores": {"a": "{\n}", "b": [1, {"c": "} {"}]}}))
    write_packet(tmp_path / "p.json", data)
    assert read_packet(tmp_path / "p.json") == data
    data["items"][0]["candidates"][0]["scores"] = {f"criterion-{n}": None for n in range(9)}
    write_packet(tmp_path / "p.json", data)
    assert read_packet(tmp_path / "p.json") == data
    lines = (tmp_path / "p.json").read_text().splitlines()
    assert sum(line.strip().startswith('"criterion-') for line in lines) == 9


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(), max_size=40))
def test_any_output_comes_back_and_matches(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    c = candidate("run-1", text)
    data = packet(c)
    score(data, "run-1")
    write_packet(path, data)
    assert match(read_packet(path), c).verdicts.keys() == {"run-1"}


@pytest.mark.parametrize(
    "unseen", ["\u202e", "\u2066", "\u200b", "\u2028", "\x7f", "\x9b", "\ufeff", "\ud800", "\U000e0041"]
)
def test_what_an_editor_would_not_show_is_an_escape_and_the_rest_is_not(tmp_path: Path, unseen: str) -> None:
    """A direction that is turned shows the scores behind a text in another order."""
    shown = "schläfst besser \U0001f469\u200d\U0001f467, نمی\u200cدانم"
    c = candidate("run-1", f"{shown} {unseen} end")
    write_packet(tmp_path / "p.json", scored(c))
    raw = (tmp_path / "p.json").read_text(encoding="utf-8")
    assert unseen not in raw
    assert f"{shown} \\u" in raw
    assert match(read_packet(tmp_path / "p.json"), c).verdicts.keys() == {"run-1"}


def test_two_surrogates_that_json_joins_are_still_the_same_output(tmp_path: Path) -> None:
    c = candidate("run-1", "\ud83d\ude42")
    write_packet(tmp_path / "p.json", scored(c))
    assert match(read_packet(tmp_path / "p.json"), c).verdicts.keys() == {"run-1"}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    write_packet(path, packet())
    before = path.read_bytes()
    with pytest.raises(PacketError, match="cannot be written as JSON"):
        write_packet(path, {"schema": math.nan})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["p.json"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (".", "the packet cannot be written"),
        ("a-file/packet.json", "the packet cannot be written: its folder is a file"),
        ("nul\0.json", "the packet cannot be written: .*embedded null"),  # byte, or character, as the Python words it
    ],
)
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a-file").write_text("")
    with pytest.raises(PacketError, match=message) as caught:
        write_packet(tmp_path / name, packet())
    assert str(tmp_path) in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a-file"]


@pytest.mark.parametrize("name", ["pipe", "stdout"])
def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path, name: str) -> None:
    """For root, who may write into ``/dev``, ``--judge-export /dev/null`` would be the end of it."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "stdout").symlink_to("pipe")
    with pytest.raises(PacketError, match=f"{name}: the packet cannot be written: it is no regular file$"):
        write_packet(tmp_path / name, packet())
    assert (tmp_path / name).is_fifo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pipe", "stdout"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="as Linux has it")
def test_a_stream_that_goes_into_a_file_is_no_file(tmp_path: Path) -> None:
    """As ``/dev/stdout`` does in every session whose output pytest captures."""
    (tmp_path / "real.json").write_text("output")
    with (tmp_path / "real.json").open() as stream:
        link = tmp_path / "stdout"
        link.symlink_to(f"/proc/self/fd/{stream.fileno()}")
        assert link.is_file()
        assert set_aside(link, tmp_path / "stdout.scored") is None
        with pytest.raises(PacketError, match=r"stdout: the packet cannot be written: it is no regular file$"):
            write_packet(link, packet())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["real.json", "stdout"]
    link.unlink()
    link.symlink_to("real.json")
    write_packet(link, packet())
    assert link.is_symlink(), "as of a baseline that several projects share"
    assert read_packet(tmp_path / "real.json")["items"]


HEAD = '{"schema": "promptbench/packet/1"'


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ("True", "write true or false, in small letters"),
        ("None", "a score that is not known is null"),
        ("“fits”", "put texts in straight double quotes"),
        ("'fits'", "put texts in straight double quotes"),
        ("3,5", "a number has a decimal point, no comma"),
        ("4,\n ", "take the comma before the bracket away"),
        ('"says "no" twice"', r"a comma is missing, or the backslash of a quote inside a text (\")"),
        ('4 "b": 5', r"a comma is missing, or the backslash of a quote inside a text (\")"),
        ('"one\ntwo"', r"a text stays on its line; a new line in it is \n"),
    ],
)
def test_what_hands_make_of_json_comes_with_its_remedy(tmp_path: Path, value: str, remedy: str) -> None:
    (tmp_path / "p.json").write_text(f'{{"a":\n "x", "b": {value}}}', encoding="utf-8")
    with pytest.raises(PacketError) as caught:
        read_packet(tmp_path / "p.json")
    assert re.search(r"p\.json: not JSON \(line [23], column \d+: .*\); ", str(caught.value))
    assert str(caught.value).endswith(remedy)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not complete JSON: it ends too early or a string is open (line 1, column 1)"),
        (b'{"a": 1,\n "b": [1, 2', "not complete JSON: it ends too early or a string is open (line 2, column 12)"),
        (b'{"a": "abc', "not complete JSON: it ends too early or a string is open (line 1, column 7)"),
        (b'{"a": 1,\n\n oops}', "not JSON (line 3, column 2: Expecting property name enclosed in double quotes)"),
        (b"{} {}", "not JSON (line 1, column 4: Extra data)"),
        (b'{\n"a": "\xff"}', "not UTF-8 (line 2, byte 0xff); save it as UTF-8"),
        (b"[1, 2]", "no judge packet: the top level is [1, 2], expected an object"),
        (b"null", "no judge packet: the top level is null, expected an object"),
        (b"{}", 'no judge packet: schema is null, expected "promptbench/packet/1"'),
        (b'{"schema": 1}', 'no judge packet: schema is 1, expected "promptbench/packet/1"'),
        (
            b'{"schema": "promptbench/baseline/1"}',
            'no judge packet: schema is "promptbench/baseline/1", expected "promptbench/packet/1"',
        ),
        (
            b'{"schema": "promptbench/packet/2"}',
            "written by a newer promptbench (promptbench/packet/2; this one reads promptbench/packet/1); "
            "upgrade pytest-promptbench",
        ),
        (
            b'{"schema": "promptbench/packet/0"}',
            'no judge packet: schema is "promptbench/packet/0", expected "promptbench/packet/1"',
        ),
        (b"NaN", "NaN is not JSON; a score that is not known is null"),
        (
            f'{HEAD}, "items": [{{"item": "a1", "scores": {{"note": "NaN", "tone": 5, "charm": NaN}}}}]}}'.encode(),
            "item a1: charm: NaN is not JSON; a score that is not known is null",
        ),
        (f'{HEAD}, "x": [1.5, -Infinity]}}'.encode(), "x: -Infinity is not JSON; a score that is not known is null"),
        (f'{HEAD}, "x": 1e999}}'.encode(), "x: the number 1e999 is too large"),
        (f'{HEAD}, "a\\u001b": 1, "a\\u001b": 2}}'.encode(), 'the key "a\\u001b" stands twice in one object'),
        (b"[" * 200_000, "not a packet: it is nested too deeply"),
        (f'{HEAD}, "x": {"9" * 5000}}}'.encode(), "not a packet: it holds a whole number of thousands of digits"),
    ],
    ids=range(20),
)
def test_an_unreadable_packet_is_named_in_one_line(tmp_path: Path, raw: bytes, message: str) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(raw)
    with pytest.raises(PacketError) as caught:
        read_packet(path)
    assert str(caught.value) == f"{path}: {message}"


def test_a_packet_that_is_not_there_a_folder_or_too_large_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    with pytest.raises(PacketError, match=r"p\.json: there is no such packet$"):
        read_packet(path)
    with pytest.raises(PacketError, match=r"is a folder, expected a packet's file$"):
        read_packet(tmp_path)
    with pytest.raises(PacketError, match=r"the packet cannot be read: embedded null byte$"):
        read_packet(tmp_path / "\0")
    write_packet(path, packet())
    size = path.stat().st_size
    assert read_packet(path, max_bytes=size) == packet()
    with pytest.raises(PacketError, match=rf"the packet is too large; at most {size - 1:,} bytes are read$"):
        read_packet(path, max_bytes=size - 1)
    write_packet(path, packet(), max_bytes=size)
    path.unlink()
    with pytest.raises(
        PacketError, match=rf"p\.json: the packet would have {size:,} bytes, and at most {size - 1:,} can"
    ):
        write_packet(path, packet(), max_bytes=size - 1)
    with pytest.raises(PacketError, match="scores: draw fewer, with a smaller --judge-audit, and again when"):
        write_packet(path, packet() | {"audit": "a" * 12}, max_bytes=size)
    assert not path.exists()


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(packet()).encode())
    assert read_packet(path) == packet()


# -- the shape


def edit(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = to

    return change


def drop(*keys: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for key in keys[:-1]:
            data = data[key]
        del data[keys[-1]]

    return change


ENTRY = ("items", 0, "candidates", 0)
CRITERION = ("rubric", "criteria", 0)
TOP = "schema, experiment, judge_kind, rubric, items, judged_by, audit"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("extra", to=1), f'the packet: unknown key "extra"; there are {TOP}'),
        (drop("items"), "the packet: items is missing"),
        (edit("items", to={}), "items is {}; it must be a list"),
        (edit("experiment", to=None), "experiment is null; it must be a text"),
        (edit("judge_kind", to="auto"), 'judge_kind is "auto"; a packet is judged by "claude-code" or "human"'),
        (edit("judge_kind", to=[]), 'judge_kind is []; a packet is judged by "claude-code" or "human"'),
        (edit("judged_by", to=7), "judged_by is 7; it must be a name"),
        (edit("judged_by", to=" \t"), 'judged_by is " \\t"; it must have 1 to 200 characters'),
        (
            edit("judged_by", to="x" * 201),
            'judged_by is "' + "x" * 78 + "…; it must have 1 to 200 characters",
        ),
        (edit("judged_by", to="e\x1b[2J"), 'judged_by is "e\\u001b[2J"; a name has no control characters'),
        (edit("judged_by", to="e\u202ea"), 'judged_by is "e\\u202ea"; a name has no control characters'),
        (edit("judged_by", to="e\ud800"), 'judged_by is "e\\ud800"; a name has no control characters'),
        (edit("items", 0, to="x"), 'items[0] is "x"; it must be an object'),
        (edit("items", 0, "item", to=3), "items[0]: item is 3; it must be a text"),
        (edit("items", 0, "context", to=None), f"item {ONE}: context is null; it must be an object"),
        (drop("items", 0, "context"), f"item {ONE}: context is missing"),
        (
            edit("items", 0, "scores", to={}),
            f'item {ONE}: unknown key "scores"; there are item, context, candidates, model, prompt, scenario, run_id',
        ),
        (edit("items", 0, "model", to=1), f"item {ONE}: model is 1; it must be a text"),
        (edit("items", 0, "candidates", to=[]), f"item {ONE}: candidates is []; it must hold one entry per output"),
        (edit("items", 0, "candidates", to=None), f"item {ONE}: candidates is null; it must be a list"),
        (edit(*ENTRY, to=1), f"item {ONE} is 1; it must be an object"),
        (drop(*ENTRY, "output"), f"item {ONE}: output is missing"),
        (edit(*ENTRY, "output", to=1), f"item {ONE}: output is 1; it must be a text"),
        (edit(*ENTRY, "scores", to=[4]), f"item {ONE}: scores is [4]; it must be an object"),
        (edit(*ENTRY, "Rationale", to=""), f'item {ONE}: unknown key "Rationale"; there are output, scores, rationale'),
        (drop("rubric", "text"), "rubric: text is missing"),
        (edit("rubric", "id", to=1), "rubric: id is 1; it must be a text"),
        (edit("rubric", "criteria", to={}), "rubric: criteria is {}; it must be a list"),
        (edit(*CRITERION, to=None), "rubric: criteria[0] is null; it must be an object"),
        (edit(*CRITERION, "type", to="stars"), 'rubric: criteria[0]: type is "stars"; it must be "scale" or "flag"'),
        (edit(*CRITERION, "type", to=[]), 'rubric: criteria[0]: type is []; it must be "scale" or "flag"'),
        (drop(*CRITERION, "min"), "rubric: criteria[0]: min is missing"),
        (edit(*CRITERION, "max", to=True), "rubric: criteria[0]: max is true; it must be a number"),
        (edit(*CRITERION, "max", to=10**400), "rubric: criteria[0]: max is 1" + "0" * 78 + "…; it must be a number"),
        (
            edit(*CRITERION, "penalty", to=1),
            'rubric: criteria[0]: unknown key "penalty"; there are name, type, min, max, weight, check',
        ),
        (
            edit(*CRITERION, "check", to={"max_words": 3}),
            "rubric: criteria[0]: check: max_words fills a flag; a scale's numbers come from a judge, or from a "
            "function of yours, as in {python: scorers.py:similarity}",
        ),
        (edit("rubric", "criteria", 2, "bad", to=0), "rubric: criteria[2]: bad is 0; it must be true or false"),
        (
            edit("rubric", "criteria", 3, "check", to={"max_words": "x"}),
            "rubric: criteria[3]: check: max_words is 'x'; it takes a whole number from 0",
        ),
        (edit("rubric", "criteria", 1, "name", to="relevance"), "rubric: the criterion relevance stands there twice"),
    ],
)
def test_a_wrong_shape_is_refused_with_item_and_key(change: Callable[[dict[str, Any]], None], message: str) -> None:
    data = packet(BOTH[0])
    change(data)
    with pytest.raises(PacketError) as caught:
        parse_packet(data)
    assert str(caught.value) == message


def test_of_several_outputs_the_message_names_which() -> None:
    data = packet(candidate("run-1", "a", "b"))
    data["items"][0]["candidates"][1]["output"] = 2
    with pytest.raises(PacketError, match=rf"^item {ONE}, output 2: output is 2; it must be a text$"):
        parse_packet(data)


def test_a_revealed_packet_can_be_applied_too() -> None:
    data = packet(*BOTH, reveal=True)
    score(data, "run-1")
    assert match(data).verdicts.keys() == {"run-1"}


# -- matching


def test_scored_items_become_verdicts_and_null_ones_stay_pending() -> None:
    data = packet()
    score(data, "run-2", relevance=2, tone=0.25)
    item(data, "run-2")["candidates"][0]["rationale"] = "too long"
    assert match(data) == Matched(
        verdicts={
            "run-2": Verdict(
                scores={"relevance": 2.0, "tone": 0.25, "format_ok": True, "overlong": True},
                judge=Judge(tier=Tier.CLAUDE_CODE, name="claude-code"),
                rationale="too long",
                at=NOW,
            )
        },
        unchanged=0,
        left=1,
        duplicates={},
    )
    scores = match(data).verdicts["run-2"].scores
    assert type(scores["relevance"]) is float
    assert type(scores["overlong"]) is bool


def test_an_item_that_is_null_all_over_stays_pending_its_check_included() -> None:
    data = packet(BOTH[0])
    data["items"][0]["candidates"][0]["scores"]["overlong"] = None
    data["items"][0]["candidates"][0]["rationale"] = "cannot tell"
    assert match(data) == Matched(verdicts={}, unchanged=0, left=1, duplicates={}, remarks=1)


@pytest.mark.parametrize(
    ("kind", "by", "judge"),
    [
        ("claude-code", None, Judge(tier=Tier.CLAUDE_CODE, name="claude-code")),
        ("human", None, Judge(tier=Tier.HUMAN, name="human")),
        ("human", " Zoë 🙂 ", Judge(tier=Tier.HUMAN, name="Zoë 🙂")),
        ("human", "Zoe\u0308 🙂", Judge(tier=Tier.HUMAN, name="Zo\u00eb 🙂")),  # as some keyboards and files spell it
    ],
)
def test_who_judged_is_what_the_packet_says(kind: str, by: str | None, judge: Judge) -> None:
    data = scored(BOTH[0]) | {"judge_kind": kind, "judged_by": by}
    assert match(data).verdicts["run-1"].judge == judge


def test_several_outputs_become_one_verdict_of_means() -> None:
    c = candidate("run-1", "a", "a b c d", "b")
    data = packet(c)
    score(data, "run-1", 0, relevance=1, tone=0.2)
    score(data, "run-1", 1, relevance=2, tone=0.2, format_ok=False)
    score(data, "run-1", 2, relevance=5, tone=0.2)
    data["items"][0]["candidates"][0]["rationale"] = "first"
    data["items"][0]["candidates"][2]["rationale"] = "third"
    verdict = match(data, c).verdicts["run-1"]
    assert verdict.scores == pytest.approx({"relevance": 8 / 3, "tone": 0.2, "format_ok": 2 / 3, "overlong": 1 / 3})
    assert verdict.rationale == "first\nthird"


def test_applying_twice_changes_nothing() -> None:
    data = scored() | {"judged_by": "eva"}
    again = [
        candidate(c.run_id, *(c.outputs or ()), verdicts=(match(data, now="2026-01-01").verdicts[c.run_id],))
        for c in BOTH
    ]
    assert match(data, *again) == Matched(verdicts={}, unchanged=2, left=0, duplicates={})
    score(data, "run-1", relevance=5)
    assert match(data, *again).verdicts.keys() == {"run-1"}
    data["judged_by"] = "adam"
    assert match(data, *again).verdicts.keys() == {"run-1", "run-2"}, "another judge, another verdict"
    data |= {"judged_by": "eva", "judge_kind": "human"}
    assert match(data, *again).unchanged == 0, "another tier, another verdict"


@pytest.mark.parametrize(
    ("stored", "given_", "unchanged"),
    [
        (None, None, True),
        (None, "", False),
        ("good", "good", True),
        ("good", "bad", False),
        ("good…", "good and more", False),
        ("a" * 1300 + "…", "a" * 9000, True),
        ("a" * 1300 + "…", "b" + "a" * 9000, False),
    ],
)
def test_a_rationale_that_the_store_had_to_cut_is_no_change(
    stored: str | None, given_: str | None, unchanged: bool
) -> None:
    data = scored(BOTH[0])
    verdict = Verdict(
        scores=match(data).verdicts["run-1"].scores,
        judge=Judge(tier=Tier.CLAUDE_CODE, name="claude-code"),
        rationale=stored,
        at="2026-01-01",
    )
    data["items"][0]["candidates"][0]["rationale"] = given_
    assert match(data, candidate("run-1", verdicts=(verdict,))).unchanged == unchanged


def other_text(rubric: Rubric, text: str) -> Rubric:
    return Rubric(id=rubric.id, text=text, criteria=rubric.criteria, sha256=sha256(text))


ALLOWED = "the rubric tip-v1 allows"


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"relevance": 7}, f"relevance is 7; {ALLOWED} 1 to 5"),
        ({"relevance": 0.999}, f"relevance is 0.999; {ALLOWED} 1 to 5"),
        ({"tone": -1}, f"tone is -1; {ALLOWED} 0 to 1"),
        ({"relevance": True}, f"relevance is true; {ALLOWED} 1 to 5"),
        ({"relevance": "5"}, f'relevance is "5"; {ALLOWED} 1 to 5, without quotes'),
        ({"relevance": [5]}, f"relevance is [5]; {ALLOWED} 1 to 5"),
        ({"relevance": math.nan}, f"relevance is NaN; {ALLOWED} 1 to 5"),
        ({"relevance": math.inf}, f"relevance is Infinity; {ALLOWED} 1 to 5"),
        ({"relevance": 10**400}, f"relevance is 1{'0' * 78}…; {ALLOWED} 1 to 5"),
        ({"relevance": 10**5000}, f"relevance is <int>; {ALLOWED} 1 to 5"),
        ({"format_ok": 1}, f"format_ok is 1; {ALLOWED} true or false"),
        ({"format_ok": "true"}, f'format_ok is "true"; {ALLOWED} true or false, without quotes'),
        ({"overlong": True}, "overlong is true; a program found false, leave it at that"),
        ({"overlong": 0}, "overlong is 0; a program found false, leave it at that"),
        ({"overlong": None}, "overlong is null; a program found false, leave it at that"),
        ({"tone": None}, "tone is null and the rest is not; score all of it, or leave all of it null"),
        (
            {"tone": None, "format_ok": None},
            "tone, format_ok are null and the rest is not; score all of it, or leave all of it null",
        ),
        (
            {"wit": 3},
            "wit is 3, but the rubric tip-v1 has only relevance, tone, format_ok, overlong",
        ),
        (
            {"w\x1b": {}},
            '"w\\u001b" is {}, but the rubric tip-v1 has only relevance, tone, format_ok, overlong',
        ),
    ],
)
def test_a_score_that_the_rubric_does_not_allow_is_named(scores: dict[str, Any], message: str) -> None:
    data = scored()
    item(data, "run-1")["candidates"][0]["scores"] |= scores
    assert problems(data) == [f"item {ONE}: {message}"]


@pytest.mark.parametrize("value", [1, 1.0, 3.5, 5])
def test_any_number_in_range_is_a_score(value: float) -> None:
    data = packet(BOTH[0])
    score(data, "run-1", relevance=value)
    assert match(data).verdicts["run-1"].scores["relevance"] == value


def test_a_missing_criterion_is_named_even_where_the_rest_is_null() -> None:
    data = packet(BOTH[0])
    del data["items"][0]["candidates"][0]["scores"]["tone"]
    assert problems(data) == [f"item {ONE}: tone is missing; an item that is left pending has null there"]


@pytest.mark.parametrize(("which", "found"), [(0, False), (1, True)])
def test_a_flag_with_a_check_may_be_left_out(which: int, found: bool) -> None:
    data = scored(BOTH[which])
    del data["items"][0]["candidates"][0]["scores"]["overlong"]
    assert match(data).verdicts[BOTH[which].run_id].scores["overlong"] is found


def test_a_pending_item_without_its_check_stays_pending() -> None:
    data = packet(BOTH[0])
    del data["items"][0]["candidates"][0]["scores"]["overlong"]
    assert match(data).left == 1


def test_a_check_of_a_pending_item_is_not_for_editing_either() -> None:
    data = packet(BOTH[1])
    data["items"][0]["candidates"][0]["scores"]["overlong"] = False
    assert problems(data) == [f"item {TWO}: overlong is false; a program found true, leave it at that"]


@pytest.mark.parametrize("filled", [False, True])
def test_a_rationale_is_a_text(filled: bool) -> None:
    data = scored(BOTH[0]) if filled else packet(BOTH[0])
    data["items"][0]["candidates"][0]["rationale"] = ["why"]
    assert problems(data) == [f'item {ONE}: rationale is ["why"]; it must be a text or null']


def test_outputs_of_one_candidate_are_scored_together() -> None:
    c = candidate("run-1", "a", "b", "c")
    data = packet(c)
    score(data, "run-1", 1, relevance=9)
    assert problems(data, c) == [
        f"item {ONE}, output 2: relevance is 9; the rubric tip-v1 allows 1 to 5",
        f"item {ONE}: output 1, 3 of 3 is null while others are scored; score all of them, or leave all of them null",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            edit(*ENTRY, "output", to="drink run-1 "),
            f'item {ONE}: the output {EXPORT_AGAIN} ("drink run-1 "): export again',
        ),
        (edit("items", 0, "context", to={}), f"item {ONE}: the context {EXPORT_AGAIN}: export again"),
        (
            lambda data: data["items"][0]["candidates"].append(copy.deepcopy(data["items"][0]["candidates"][0])),
            f"item {ONE} has 2 outputs; 1 was exported",
        ),
        (lambda data: data["items"].append(copy.deepcopy(data["items"][0])), f"item {ONE} stands there 2 times"),
        (
            edit("items", 0, "item", to="x\x1b[2J"),
            'item "x\\u001b[2J" is unknown: no candidate of the experiment tip-bench has this id',
        ),
        (
            edit("rubric", "text", to=TEXT + "Be kind."),
            "the packet's text of the rubric tip-v1 was edited (its sha256 does not fit): export again",
        ),
        (
            edit(*CRITERION, "max", to=9),
            "the packet's criteria of the rubric tip-v1 are not those of its text: export again",
        ),
        (
            edit("rubric", "criteria", 3, "check", "max_words", to=1000),
            "the packet's criteria of the rubric tip-v1 are not those of its text: export again",
        ),
    ],
)
@pytest.mark.parametrize("known", [True, False], ids=["rubric at hand", "rubric not at hand"])
def test_what_changed_since_the_export_is_refused(
    change: Callable[[dict[str, Any]], None], message: str, known: bool
) -> None:
    data = scored(BOTH[0])
    change(data)
    assert problems(data, rubrics={"tip-v1": RUBRIC} if known else {}) == [message]


REFERENCE = "  - {name: right, type: flag, bad: false, penalty: 1, check: {equals_var: label}}\n---\n#"
BY_REFERENCE = other_text(
    replace(
        RUBRIC,
        criteria=(
            *CRITERIA,
            Criterion(name="right", type="flag", bad=False, penalty=1.0, check={"equals_var": "label"}),
        ),
    ),
    TEXT.replace("---\n#", REFERENCE),
)


def referring(label: Any, given: Any) -> tuple[dict[str, Any], LoggedCandidate]:
    """A scored packet on a candidate with this reference, which stands in the packet as ``given``; and the latter."""
    c = candidate("run-1", str(label), context={"label": label}, rubric_sha256=BY_REFERENCE.sha256)
    data = build_packet([c], BY_REFERENCE, experiment="tip-bench", seed=1)
    score(data, "run-1")
    data["items"][0]["context"]["label"] = given
    return data, c


@pytest.mark.parametrize("rounded", [12345678901234567000, 1.2345678901234567e19])
def test_a_reference_of_many_digits_may_come_back_as_a_browser_rounds_it(rounded: float) -> None:
    """The judging page sends back what it was sent, through JavaScript's JSON."""
    data, c = referring(12345678901234567890, rounded)
    (verdict,) = match(data, c, rubrics={"tip-v1": BY_REFERENCE}).verdicts.values()
    assert verdict.scores["right"] is True, "by the reference as it is stored"


def test_of_a_changed_reference_nobody_is_told_to_change_a_flag() -> None:
    data, c = referring("yes", "no")
    told = problems(data, c, rubrics={"tip-v1": BY_REFERENCE})
    assert told == [f"item {ONE}: the context {EXPORT_AGAIN}: export again"]
    data, c = referring(12345678901234567890, 12345678901234597000)
    assert problems(data, c, rubrics={"tip-v1": BY_REFERENCE}) == told


def test_a_rubric_that_is_not_at_hand_is_believed_where_its_text_says_the_same() -> None:
    assert match(scored(), rubrics={}) == match(scored())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no front matter",
        "---\nid: [\n---\n",
        "---\n- 1\n---\n",
        "---\ncriteria: {}\n---\n",
        f"---\n{'9' * 5000}\n---",
    ],
    ids=range(6),
)
def test_a_rubric_without_criteria_in_its_text_is_refused(text: str) -> None:
    rubric = other_text(RUBRIC, text)
    data = build_packet([candidate(rubric_sha256=rubric.sha256)], rubric, experiment="e", seed=1)
    expected = "the packet's criteria of the rubric tip-v1 are not those of its text: export again"
    assert problems(data, candidate(rubric_sha256=rubric.sha256), rubrics={}) == [expected]


def test_a_rubric_file_edited_since_the_export_is_refused() -> None:
    now = other_text(RUBRIC, TEXT + "Be kind.")
    assert problems(scored(), rubrics={"tip-v1": now}) == [
        f"the rubric tip-v1 {EXPORT_AGAIN}: export again",
    ]


def test_candidates_of_another_rubric_text_are_refused_in_one_line() -> None:
    moved = [candidate(c.run_id, *(c.outputs or ()), rubric_sha256="new") for c in BOTH]
    assert problems(scored(), *moved) == [
        f"the rubric tip-v1 {EXPORT_AGAIN}: 2 items belong to another text of it: export again"
    ]


def test_failed_candidates_match_nothing() -> None:
    failed = candidate("run-1", error="429")
    expected = f"item {ONE} is unknown: no candidate of the experiment tip-bench has this id"
    assert problems(scored(BOTH[0]), failed) == [expected]


def test_texts_that_could_not_be_read_are_no_match() -> None:
    assert problems(scored(BOTH[0]), candidate("run-1", outputs=None)) == [
        f"item {ONE}: its stored texts could not be read"
    ]


def test_all_problems_are_told_at_once_the_first_twenty_by_name() -> None:
    many = [candidate(f"run-{n}") for n in range(23)]
    data = scored(*many)
    for c in many:
        score(data, c.run_id, relevance=6)
    lines = problems(data, *many)
    assert len(lines) == 21
    assert all(line.endswith("relevance is 6; the rubric tip-v1 allows 1 to 5") for line in lines[:20])
    assert lines[20] == "and 3 more"
    assert len(problems(packet() | {"items": data["items"][:20]}, *many)) == 20


def test_problems_of_all_kinds_stand_in_one_list() -> None:
    data = scored()
    data["rubric"]["text"] += "!"
    item(data, "run-1")["candidates"][0]["scores"]["relevance"] = 0
    item(data, "run-2")["candidates"][0]["output"] = "x"
    text = "\n".join(problems(data))
    for part in ("rubric tip-v1 was edited", "relevance is 0", 'output changed since the export ("x")'):
        assert part in text


@pytest.mark.parametrize("forged", [False, True], ids=["edited", "forged with a text that fits"])
def test_a_pattern_that_no_stored_rubric_vouches_for_is_not_run(forged: bool) -> None:
    """It would take longer than the suite lets a test run."""
    c = candidate("run-1", "a" * 60)
    data = scored(c)
    data["rubric"]["criteria"][3]["check"] = {"matches": "(a+)+$b"}
    if forged:
        text = TEXT.replace("max_words: 3", 'matches: "(a+)+$b"')
        data["rubric"] |= {"text": text, "sha256": sha256(text)}
        data["items"][0]["item"] = "unknown"
    assert len(problems(data, c, rubrics={})) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(data=JSON)
def test_any_value_is_a_packet_or_a_packet_error(data: object) -> None:
    for value in (data, {"schema": "promptbench/packet/1", "x": data}):
        with pytest.raises(PacketError):
            match(value)


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [(*at, k) for k in keys] + [p for k in keys for p in paths(value[k], (*at, k))]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_edit_is_matched_or_refused_never_half(source: st.DataObject) -> None:
    c = candidate("run-1", "a", "b")
    data = scored(*BOTH[1:], c)
    for _ in range(source.draw(st.integers(1, 3))):
        where = source.draw(st.sampled_from(paths(data)))
        change = source.draw(st.sampled_from([edit(*where, to=source.draw(JSON)), drop(*where)]))
        change(data)
    rubrics = source.draw(st.sampled_from([{}, {"tip-v1": RUBRIC}]))
    try:
        matched = match(data, BOTH[1], c, rubrics=rubrics)
    except PacketError as error:
        refusal = str(error)
    else:
        refusal = "applied"
        for verdict in matched.verdicts.values():
            assert verdict.scores.keys() == {c.name for c in CRITERIA}
            assert all(v is not None and math.isfinite(v) for v in verdict.scores.values())
    assert refusal
    assert all(line.isprintable() for line in refusal.splitlines())
