"""Cells, narrowing, shards."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pytest_promptbench.errors import UsageError
from pytest_promptbench.grid import cells, select, shard
from pytest_promptbench.settings import Identity, as_names, names_in, parse_shard, resolve

from .test_catalog import SUITE, load


def test_cells_are_models_times_prompts_times_scenarios_in_a_stable_order(tmp_path: Path) -> None:
    grid = cells(load(tmp_path))
    assert [c.names for c in grid][:3] == [("a", "v1", "bad-sleep"), ("a", "v1", "exam"), ("a", "v2", "bad-sleep")]
    assert len(grid) == 8
    assert grid[0].messages[0].content == "Tip for Slept 4 hours"


def test_a_prompts_params_go_over_the_models(tmp_path: Path) -> None:
    suite = load(tmp_path, v1="params: {temperature: 1.0, top_p: 0.5}\nmessages:\n  - {role: user, content: hi}\n")
    assert cells(suite)[0].params == {"temperature": 1.0, "top_p": 0.5}


def test_a_cells_id_changes_with_what_is_asked_and_not_with_names(tmp_path: Path) -> None:
    one = cells(load(tmp_path))[0]
    assert cells(load(tmp_path))[0].id == one.id
    assert cells(load(tmp_path, v1="messages:\n  - {role: user, content: hi}\n"))[0].id != one.id
    models = "models:\n  renamed: {model: openai/a, params: {temperature: 0.5}, api_base: 'http://127.0.0.1:1/v1'}\n"
    assert (
        cells(load(tmp_path, models=models, v1="messages:\n  - {role: user, content: 'Tip for {{ situation }}'}\n"))[
            0
        ].id
        == one.id
    )


def test_the_messages_of_a_scenario_stand_where_its_conversation_is_placed(tmp_path: Path) -> None:
    suite = """
        task: tip
        rubric: tip-v1
        scenarios:
          - id: begun
            vars:
              situation: Slept {{ hours }} hours
              history: [{role: user, content: "I am {{ tired }}"}, {role: assistant, content: Why?}]
          - {id: new, vars: {situation: Exam tomorrow, history: []}}
    """
    prompt = """
        messages:
          - {role: system, content: Be brief}
          - {role: placeholder, content: " {{ history }}\\n"}
          - {role: user, content: "{{ situation }}"}
    """
    begun, new = cells(load(tmp_path, suite=suite, v1=prompt), models=["a"], prompts=["v1"])
    assert [(m.role, m.content) for m in begun.messages] == [
        ("system", "Be brief"), ("user", "I am {{ tired }}"), ("assistant", "Why?"), ("user", "Slept {{ hours }} hours")
    ]  # fmt: skip
    assert [m.role for m in new.messages] == ["system", "user"]


def test_select_narrows_and_refuses_unknown_names(tmp_path: Path) -> None:
    suite = select(load(tmp_path), ["b"], ["v2"])
    assert {c.names[:2] for c in cells(suite)} == {("b", "v2")}
    assert cells(load(tmp_path), models=["b", "b"], prompts=["v2"]) == cells(suite)
    with pytest.raises(UsageError, match=r"--bench-models: .*tips\.yaml has no 'bb'\. Did you mean 'b'\? Known: a, b"):
        select(load(tmp_path), ["bb"], None)
    with pytest.raises(UsageError, match=r"--bench-prompts: .*has no 'v3'"):
        select(load(tmp_path), None, ["v3"])


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_shards_are_disjoint_and_together_everything(count: int) -> None:
    parts = [shard(range(10), i, count) for i in range(1, count + 1)]
    assert sorted(x for p in parts for x in p) == list(range(10))


@pytest.mark.parametrize("text", ["", "2", "0/3", "4/3", "a/b", "1/0", "-1/2", "1/2/3"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected I/N"):
        parse_shard(text)


def test_samples_are_the_suites(tmp_path: Path) -> None:
    (cell, *_) = cells(load(tmp_path, suite=SUITE + "    samples: 3\n"))
    assert cell.samples == 3
    assert [r.sample for r in cell.requests] == [0, 1, 2]


def test_a_model_that_is_left_out_says_why(tmp_path: Path) -> None:
    models = "models:\n  a: {model: x}\n  b: {model: y, api_key_env: NO_KEY, optional: true}\n"
    with pytest.raises(UsageError, match="--bench-models: 'b' cannot be used: the environment variable NO_KEY is not"):
        select(load(tmp_path, models=models), ["b"], None)


def test_an_empty_report_folder_is_the_default_and_not_the_root(tmp_path: Path) -> None:
    for value in ("", None):
        settings = resolve({"bench_report": value}.get, root=tmp_path, cwd=tmp_path, identity=Identity.new())
        assert settings.report == tmp_path / ".promptbench" / "report"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("haiku,local", ("haiku", "local")),
        (' "gpt, big" , haiku', ("gpt, big", "haiku")),
        ("haiku,\nlocal\n", ("haiku", "local")),
        ('the 7" one', ('the 7" one',)),
        ('"the ""big"" one",', ('the "big" one',)),
        (" , ", ()),
    ],
)
def test_a_name_that_holds_a_comma_stands_in_quotes(text: str, names: tuple[str, ...]) -> None:
    assert names_in(text) == names
    assert names_in(as_names(names)) == names


def test_sessions_sort_by_when_they_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also within a second, and where one began in another time zone: the newest rubric is the last session's."""
    begun = []
    for zone in ("Pacific/Auckland", "UTC", "America/Los_Angeles"):
        with monkeypatch.context() as patched:
            patched.setenv("TZ", zone)
            time.tzset()
            begun.append(Identity.new().session)
            time.sleep(0.002)
    time.tzset()
    assert begun == sorted(begun)
