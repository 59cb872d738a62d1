"""Files that a user writes: what is read, and that every mistake is named with its place and remedy."""

from __future__ import annotations

import os
import re
import socket
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_promptbench.catalog import load_prompt, load_suite, render, server_answers
from pytest_promptbench.errors import CatalogError
from pytest_promptbench.records import Message, Suite

SUITE = """
    task: tip
    rubric: tip-v1
    scenarios:
      - {id: bad-sleep, vars: {situation: Slept 4 hours}, tags: [health]}
      - {id: exam, vars: {situation: Exam tomorrow}}
"""
MODELS = """
    models:
      a: {model: openai/a, params: {temperature: 0.5}, api_base: "http://127.0.0.1:1/v1"}
      b: {model: openai/b, api_base: "http://127.0.0.1:1/v1"}
"""
PROMPT = "messages:\n  - {role: user, content: 'Tip for {{ situation }}'}\n"
RUBRIC = """
    ---
    id: tip-v1
    criteria:
      - {name: relevance, type: scale, min: 1, max: 5, weight: 1}
      - {name: overlong, type: flag, bad: true, penalty: 1, check: {max_words: 60}}
    ---
    # Anchors
"""
BY_CHECKS = RUBRIC.replace("      - {name: relevance, type: scale, min: 1, max: 5, weight: 1}\n", "")
MORE = "\n      - {{name: criterion_{}, type: scale, min: 1, max: 5}}"


def write(root: Path, **files: str) -> Path:
    """A project; ``files`` replace the good ones: suite, models, rubric, v1, v2 or any other name under evals/."""
    texts = {"suite": SUITE, "models": MODELS, "rubric": RUBRIC, "v1": PROMPT, "v2": PROMPT, **files}
    places = {
        "suite": "evals/tips.yaml", "models": "evals/models.yaml", "rubric": "rubrics/tip-v1.md",
        "v1": "prompts/tip/v1.yaml", "v2": "prompts/tip/v2.yaml",
    }  # fmt: skip
    for name, text in texts.items():
        file = root / places.get(name, f"evals/{name.replace('_', '.')}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
    return root / "evals" / "tips.yaml"


def load(root: Path, environ: dict[str, str] | None = None, reachable: bool = False, **files: str) -> Suite:
    return load_suite(write(root, **files), root=root, environ=environ or {}, reachable=lambda _: reachable)


def test_a_rubric_may_be_of_flags_alone(tmp_path: Path) -> None:
    flags = "\n".join(
        f"  - {{name: {name}, type: flag, bad: {bad}, penalty: {points}}}"
        for name, bad, points in (("correct", "false", 2), ("rude", "true", 0.5), ("odd", "true", 0))
    )
    rubric = load(tmp_path, rubric=f"---\nid: tip-v1\ncriteria:\n{flags}\n---\n# Anchors\n").rubric
    assert (rubric.top, rubric.bottom) == (0, -2.5)
    assert rubric.point == 0.5, "what the smallest penalty that counts takes off"


def test_a_reference_that_a_check_compares_with_is_missing_where_it_is_missing(tmp_path: Path) -> None:
    rubric = RUBRIC.replace("{max_words: 60}", "{max_words: 60, not_contains_var: banned}")
    with pytest.raises(CatalogError) as refused:
        load(tmp_path, rubric=rubric, suite=SUITE.replace("Slept 4 hours", "Slept 4 hours, banned: [sleep, bed]"))
    assert str(refused.value) == (
        f"{tmp_path}/evals/tips.yaml:5: scenario 'exam': not_contains_var of the rubric tip-v1 fills the flag overlong "
        "by the var 'banned', which is missing; its vars are: situation. Give it a text, a whole number, or "
        "a list of these"
    )


def test_a_suite_is_read_with_all_that_it_names(tmp_path: Path) -> None:
    suite = load(tmp_path)
    assert [m.name for m in suite.models] == ["a", "b"]
    assert [p.version for p in suite.prompts] == ["v1", "v2"]
    assert [s.id for s in suite.scenarios] == ["bad-sleep", "exam"]
    assert suite.scenarios[0].tags == ("health",)
    assert suite.rubric.top == 5
    assert suite.rubric.bottom == 0
    assert suite.rubric.body.strip() == "# Anchors"
    assert suite.samples == 1


@pytest.mark.parametrize("closed", ["rubrics", "prompts", "prompts/tip"])
def test_a_folder_that_may_not_be_read_is_not_called_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    """Root may read everything, so the system's answer stands in for chmod 000."""
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, how: Path(path) != tmp_path / closed and allowed(path, how))
    with pytest.raises(
        CatalogError, match=rf"^{re.escape(str(tmp_path / closed))}: cannot be read: Permission denied$"
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cases.yaml", "- {id: a, vars: {situation: x}}\n- {id: b, vars: {situation: y}}\n"),
        ("cases.jsonl", '{"id": "a", "vars": {"situation": "x"}}\n\n{"id": "b", "vars": {"situation": "y"}}\n'),
        ("cases.csv", 'id,situation,tags\na,x,"one;two, three"\n\nb,"y, with a comma",\n'),
        ("cases.csv", ',,\nid,situation,tags\na,x,"one;two, three"\n,,\nb,y,\n , ,\n,,,,\n'),  # as spreadsheets save
    ],
)
def test_scenarios_may_stand_in_a_file_of_their_own(tmp_path: Path, name: str, text: str) -> None:
    suite = load(tmp_path, suite=f"task: tip\nrubric: tip-v1\nscenarios: {name}\n", **{name.replace(".", "_"): text})
    assert [s.id for s in suite.scenarios] == ["a", "b"]
    assert suite.scenarios[0].vars == {"situation": "x"}
    assert suite.scenarios[0].tags == (("one", "two", "three") if name == "cases.csv" else ())


@pytest.mark.parametrize(
    ("tag", "problem"),
    [
        ("''", "is ''; it must not be empty nor begin or end with a space"),
        ("' health'", "is ' health'; it must not be empty nor begin or end with a space"),
        ("x" * 1001, r"it must not have more than 1,000 characters, and has 1,001"),
        ("2024", r"is 2024; expected a text (put it in quotes)"),
    ],
)
def test_a_tag_that_a_report_could_not_show_is_refused(tmp_path: Path, tag: str, problem: str) -> None:
    """A row without a name, or one that looks like that of another tag."""
    with pytest.raises(CatalogError, match=rf"tips\.yaml:\d+: scenarios\.0\.tags\.1 .*{re.escape(problem)}$"):
        load(tmp_path, suite=SUITE.replace("tags: [health]", f"tags: [health, {tag}]"))


def test_yaml_that_surprises_stays_text(tmp_path: Path) -> None:
    values = "{situation: no, day: 2026-01-01, n: 7, t: true, o: 010}"
    text = f"task: tip\nrubric: tip-v1\nscenarios:\n  - {{id: a, vars: {values}}}\n"
    assert load(tmp_path, suite=text).scenarios[0].vars == {
        "situation": "no", "day": "2026-01-01", "n": 7, "t": True, "o": 10
    }  # fmt: skip


@pytest.mark.parametrize("key", ["sk-hunter2\n", "sk-hunter2\r", "\tsk-hunter2", "sk-hünter2"])
@pytest.mark.parametrize("optional", ["true", "false"])
def test_a_key_that_no_header_can_carry_is_told_before_it_is_used(tmp_path: Path, key: str, optional: str) -> None:
    """As a secret pasted with its line break: no request would leave, and the address would be said not to answer."""
    models = f"models:\n  a: {{model: anthropic/x, api_key_env: SOME_KEY, optional: {optional}}}\n"
    with pytest.raises(CatalogError, match=r"models\.yaml:2: model a: .* SOME_KEY holds a line break or .* key alone$"):
        load(tmp_path, models=models, environ={"SOME_KEY": key})


def test_optional_models_are_left_out_with_the_reason(tmp_path: Path) -> None:
    models = """
        models:
          a: {model: openai/a}
          hosted: {model: anthropic/x, api_key_env: SOME_KEY, optional: true}
          ollama: {model: ollama/x, api_base: "http://127.0.0.1:11434", optional: true}
    """
    suite = load(tmp_path, models=models)
    assert [m.name for m in suite.models] == ["a"]
    assert suite.skipped == {
        "hosted": "the environment variable SOME_KEY is not set",
        "ollama": "nothing answers at http://127.0.0.1:11434",
    }
    everyone = load(tmp_path, models=models, environ={"SOME_KEY": "x"}, reachable=True)
    assert [m.name for m in everyone.models] == ["a", "hosted", "ollama"]


def test_an_embedded_model_needs_neither_key_nor_server(tmp_path: Path) -> None:
    models = "models:\n  a: {model: embedded/x, api_key_env: NO_KEY}\n  b: {model: embedded/y, optional: true}\n"
    assert [m.name for m in load(tmp_path, models=models).models] == ["a", "b"]


HOSTED = """
    models:
      a: {model: openai/a}
      hosted: {model: anthropic/x, api_key_env: SOME_KEY, optional: true, params: {top_p: 0.5}}
"""


def test_an_optional_model_that_the_suite_names_is_left_out_too(tmp_path: Path) -> None:
    suite = load(tmp_path, models=HOSTED, suite=SUITE + "    models: [hosted, a]\n")
    assert [m.name for m in suite.models] == ["a"]
    assert set(suite.skipped) == {"hosted"}


def test_a_judge_takes_its_models_params_and_its_own(tmp_path: Path) -> None:
    text = SUITE + "    models: [a]\n    judge: {model: hosted, params: {temperature: 0}}\n"
    judge = load(tmp_path, models=HOSTED, suite=text, environ={"SOME_KEY": "x"}).judge
    assert judge is not None
    assert judge.params == {"top_p": 0.5, "temperature": 0}
    suite = load(tmp_path, models=HOSTED, suite=text)
    assert suite.judge is None
    assert suite.judge_skipped == {"hosted": "the environment variable SOME_KEY is not set"}
    assert suite.skipped == {}


@pytest.mark.parametrize("name", ["human", "claude-code"])
def test_a_judge_is_not_called_as_a_tier_is(tmp_path: Path, name: str) -> None:
    with pytest.raises(CatalogError, match=f"a judge cannot be called '{name}', which names a tier of judges"):
        load(tmp_path, models=f"models:\n  {name}: {{model: x}}\n", suite=SUITE + f"    judge: {{model: {name}}}\n")


def test_an_optional_embedded_model_is_left_out_where_it_cannot_run(tmp_path: Path) -> None:
    models = "models:\n  a: {model: openai/a}\n  b: {model: embedded/b, optional: true}\n  c: {model: embedded/c}\n"
    suite = load_suite(
        write(tmp_path, models=models), root=tmp_path, environ={}, lacking=lambda name: f"{name} is not here"
    )
    assert [m.name for m in suite.models] == ["a", "c"], "c is no option: whoever asks it is told"
    assert suite.skipped == {"b": "embedded/b is not here"}


def test_a_server_is_asked_once_however_many_models_it_has(tmp_path: Path) -> None:
    names = "".join(f"  m{i}: {{model: x, api_base: 'http://h:1', optional: true}}\n" for i in range(3))
    suite = write(tmp_path, models=f"models:\n{names}", suite=SUITE + "    judge: {model: m0}\n")
    asked: list[str] = []
    load_suite(suite, root=tmp_path, environ={}, reachable=lambda a: not asked.append(a))
    assert asked == ["http://h:1"]


def test_a_server_answers_where_something_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert server_answers(f"http://127.0.0.1:{port}/v1")
    assert not server_answers(f"http://127.0.0.1:{port}/v1")
    assert not server_answers("http://a..b/v1")


def test_models_are_looked_for_up_to_the_root_and_no_further(tmp_path: Path) -> None:
    suite = write(tmp_path / "project")
    (tmp_path / "project" / "evals" / "models.yaml").rename(tmp_path / "project" / "models.yaml")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "project")
    assert len(load_suite(suite, root=link, environ={}).models) == 2
    (tmp_path / "project" / "models.yaml").rename(tmp_path / "models.yaml")
    with pytest.raises(
        CatalogError, match=r"no models\.yaml beside it, nor in a folder above it up to \S+project; write one, as in"
    ):
        load_suite(suite, root=link, environ={})


def test_a_prompts_hash_covers_what_is_sent_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, v2="description: x\nlineage: {parent: v1}\n" + PROMPT, v1=PROMPT)
    folder = tmp_path / "prompts" / "tip"
    plain, described = (load_prompt(folder / f"{v}.yaml", "tip") for v in ("v1", "v2"))
    assert plain.sha256 == described.sha256
    (folder / "v1.yaml").write_text(PROMPT + "params: {top_p: 1}\n")
    assert load_prompt(folder / "v1.yaml", "tip").sha256 != plain.sha256


def test_hidden_files_are_no_prompts_and_bad_versions_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "prompts" / "tip" / ".#v1.yaml").write_text("an editor's")
    assert [p.version for p in load(tmp_path).prompts] == ["v1", "v2"]
    (tmp_path / "prompts" / "tip" / "v3[a].yaml").write_text(PROMPT)
    with pytest.raises(
        CatalogError, match=r"v3\[a\]\.yaml: the version 'v3\[a\]' must not hold '\['.*; rename the file"
    ):
        load(tmp_path)


def test_a_suite_whose_name_is_too_long_is_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="cannot be read: File name too long"):
        load_suite(tmp_path / ("x" * 400), root=tmp_path, environ={})


@pytest.mark.parametrize("name", ["", "evals", "evals/test_tips.py"])
def test_a_test_file_and_a_folder_are_no_suites(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    with pytest.raises(CatalogError, match=r"is no suite; name the \.yaml file"):
        load_suite(tmp_path / name, root=tmp_path, environ={})


@pytest.mark.parametrize(
    ("kind", "what"), [("link", "a link that leads to no file"), ("folder", "a folder"), ("pipe", "no regular file")]
)
@pytest.mark.parametrize(
    "name", ["evals/tips.yaml", "evals/models.yaml", "evals/cases.csv", "prompts/tip/v2.yaml", "rubrics/tip-v1.md"]
)
def test_what_has_a_files_name_and_is_none_is_named(tmp_path: Path, name: str, kind: str, what: str) -> None:
    """Left out, a prompt would be missing from the leaderboard, and a models.yaml further up be read instead."""
    suite = write(
        tmp_path, suite=SUITE[: SUITE.index("scenarios:")] + "scenarios: cases.csv\n", cases_csv="id,situation\na,x\n"
    )
    (tmp_path / "models.yaml").write_text(textwrap.dedent(MODELS))
    file = tmp_path / name
    file.unlink()
    {"link": lambda: file.symlink_to("nowhere"), "folder": file.mkdir, "pipe": lambda: os.mkfifo(file)}[kind]()
    with pytest.raises(CatalogError, match=rf"^{re.escape(str(file))}: is ({what}|no suite)"):
        load_suite(suite, root=tmp_path, environ={})


@pytest.mark.parametrize("ending", ["yml", "YAML", "yaml.txt", "yml.TXT"])
def test_a_prompt_of_another_ending_is_not_passed_over(tmp_path: Path, ending: str) -> None:
    write(tmp_path)
    folder = tmp_path / "prompts" / "tip"
    (folder / "v1.yaml").rename(folder / f"v1.{ending}")
    with pytest.raises(CatalogError, match=rf"v1\.{ending}: a prompt's file ends in \.yaml; rename it to v1\.yaml"):
        load(tmp_path)


# An optional key without a value: file, place, path and name of the key, the file's text.
EMPTY = [
    ("suite", "tips.yaml:6", "", "models", SUITE + "    models:\n      # - a\n"),
    ("suite", "tips.yaml:6", "", "prompts", SUITE + "    prompts:\n"),
    ("suite", "tips.yaml:6", "", "judge", SUITE + "    judge: ~\n"),
    ("models", "models.yaml:2", "models.a.", "api_key_env", "models:\n  a: {model: x, api_key_env: }\n"),
    ("models", "models.yaml:2", "models.a.", "api_base", "models:\n  a: {model: x, api_base: }\n"),
    ("rubric", "tip-v1.md:4", "criteria.0.", "weight", RUBRIC.replace("weight: 1", "weight: ")),
    ("rubric", "tip-v1.md:5", "criteria.1.", "check", RUBRIC.replace("check: {max_words: 60}", "check: ")),
]
CASES: list[tuple[str, dict[str, str], list[str]]] = [
    ("unknown model", {"suite": SUITE + "    models: [a, c]\n"}, ["tips.yaml:6", "no model 'c'", "has: a, b"]),
    ("unknown prompt", {"suite": SUITE + "    prompts: [v1, v3]\n"}, ["tips.yaml:6", "no prompt 'v3'", "has: v1, v2"]),
    ("prompt twice", {"suite": SUITE + "    prompts: [v1, v1]\n"}, ["tips.yaml:6", "'v1' stands twice"]),
    (
        "missing placeholder",
        {"v2": "messages:\n  - {role: user, content: '{{ situaton }}'}\n"},
        ["prompt tip/v2", "{{ situaton }}", "'bad-sleep'", "yaml:4) (did you mean 'situation'?)"],
    ),
    (
        "a var without a value",
        {"suite": SUITE.replace("Exam tomorrow", "")},
        ["v1.yaml:2: prompt tip/v1", "no value in scenario 'exam' (", "tips.yaml:5), where it is empty or null; write"],
    ),
    (
        "no var of that name, whatever is in the braces",
        {"v2": "messages:\n  - {role: user, content: '{{ situation | upper }}'}\n"},
        [
            "{{ situation | upper }} has no value",
            "a placeholder is the name of a var and nothing more, no part or filter",
        ],
    ),
    (
        "a part of a var",
        {"v2": "messages:\n  - {role: user, content: '{{ situation.place }}'}\n"},
        ["prompt tip/v2", "a placeholder is the name of a var and nothing more", "its vars are: situation"],
    ),
    (
        "placeholder without an end",
        {"v2": "messages:\n  - {role: user, content: 'Tip: {{ situation }'}\n"},
        ["v2.yaml:2", "'{{ situation }' is no placeholder", "expected {{ name }}"],
    ),
    (
        "a role that is none",
        {"v2": "messages:\n  - {role: history, content: '{{ situation }}'}\n"},
        ["v2.yaml:2", "'history'", "one of 'system', 'developer', 'user', 'assistant' or 'placeholder'"],
    ),
    (
        "a conversation within a text",
        {"v2": "messages:\n  - {role: placeholder, content: 'So far: {{ situation }}'}\n"},
        ["v2.yaml:2: messages.0.content is 'So far", "it must be one {{ name }} and nothing else"],
    ),
    (
        "a conversation that is a text",
        {"v2": "messages:\n  - {role: placeholder, content: '{{ situation }}'}\n"},
        [
            "tips.yaml:4: scenario 'bad-sleep': situation, the conversation in prompt tip/v2, is the text ",
            "'Slept 4 hours'; expected a list of messages, as in [{role: user, content: Hi}, {role: assistant, c",
        ],
    ),
    *(
        (
            f"a conversation with a message that is none, {wrong}",
            {
                "v2": "messages:\n  - {role: placeholder, content: '{{ so_far }}'}\n",
                "suite": SUITE.replace(
                    "situation: Exam tomorrow", f"situation: x, so_far: [{{role: user, content: Hi}}, {wrong}]"
                ).replace("Slept 4 hours", "x, so_far: []"),
            },
            [f"tips.yaml:5: scenario 'exam': so_far, the conversation in prompt tip/v2, has {said}"],
        )
        for wrong, said in (
            ("Hello", "'Hello' as message 2; expected a list of messages, as in [{role: user, content: Hi}, "),
            ("{role: user}", "the keys ['role'] in message 2; expected role and content, and no other"),
            ("{role: tool, content: x}", "the role 'tool' in message 2; expected one of system, developer, user, assi"),
            ("{role: [user], content: x}", "the role ['user'] in message 2; expected one of system, "),
            ("{role: user, content: 7}", "7 as the content of message 2; expected a text"),
            (
                f"{{role: user, content: {'long ' * 20}, name: Ann}}",
                "the keys ['role', 'content', 'name'] in message 2;",
            ),
        )
    ),
    (
        "a conversation that is null",
        {
            "v2": "messages:\n  - {role: placeholder, content: '{{ so_far }}'}\n",
            "suite": SUITE.replace("situation: Exam tomorrow", "situation: x, so_far: null").replace(
                "Slept 4 hours", "x, so_far: []"
            ),
        },
        ["{{ so_far }} has no value in scenario 'exam'", "write [] for no message"],
    ),
    (
        "a conversation in a CSV",
        {
            "v2": "messages:\n  - {role: placeholder, content: '{{ so_far }}'}\n",
            "suite": "task: tip\nrubric: tip-v1\nscenarios: cases.csv\n",
            "cases_csv": 'id,situation,so_far\na,x,"[{""role"": ""user"", ""content"": ""Hi""}]"\n',
        },
        [
            "cases.csv:2: scenario 'a': so_far, ",
            " is the text '[{",
            "; a CSV has no lists: write its scenarios as a .jsonl",
        ],
    ),
    (
        "nothing to ask",
        {
            "v1": "messages:\n  - {role: placeholder, content: '{{ so_far }}'}\n",
            "v2": "messages:\n  - {role: user, content: hi}\n",
            "suite": SUITE.replace("Slept 4 hours", "x, so_far: [{role: user, content: Hi}]").replace(
                "Exam tomorrow", "x, so_far: []"
            ),
        },
        ["tips.yaml:5: scenario 'exam': its conversation is empty, and prompt tip/v1 has no message of its own"],
    ),
    (
        "duplicate scenario id",
        {"suite": SUITE + "      - {id: exam, vars: {situation: again}}\n"},
        ["tips.yaml:6", "'exam' stands twice", "tips.yaml:5"],
    ),
    (
        "a task whose name is too long for the system",
        {"suite": SUITE.replace("task: tip", "task: " + "x" * 400)},
        ["tips.yaml:1", "there are no prompts for task 'xxx"],
    ),
    ("empty suite", {"suite": "task: tip\nrubric: tip-v1\nscenarios: []\n"}, ["tips.yaml:3", "at least one"]),
    ("empty file", {"suite": ""}, ["tips.yaml", "expected keys with values: task, rubric, scenarios"]),
    ("broken yaml", {"suite": "task: tip\nrubric: [tip\nscenarios: x\n"}, ["tips.yaml:3", "not valid YAML"]),
    ("duplicate key", {"suite": "task: tip\nrubric: a\ntask: tip\n"}, ["tips.yaml:3", "'task' stands twice", "line 1"]),
    ("unknown key", {"suite": SUITE + "    sample: 2\n"}, ["tips.yaml:6", "unknown key 'sample'", "'samples'"]),
    ("missing key", {"suite": "task: tip\nscenarios: []\n"}, ["tips.yaml", "'rubric' is missing"]),
    ("samples", {"suite": SUITE + "    samples: 0\n"}, ["tips.yaml:6", "samples is 0", "at least 1"]),
    ("samples text", {"suite": SUITE + "    samples: two\n"}, ["tips.yaml:6", "samples is 'two'", "whole number"]),
    (
        "unknown rubric",
        {"suite": SUITE.replace("tip-v1", "tip-v9")},
        ["tips.yaml:2", "'tip-v9'", "did you mean 'tip-v1'"],
    ),
    (
        "task without prompts",
        {"suite": SUITE.replace("task: tip", "task: tips")},
        ["tips.yaml:1", "no prompts for task 'tips' (did you mean 'tip'?); write one as <version>.yaml; looked for /"],
    ),
    (
        "no such scenarios file",
        {"suite": "task: tip\nrubric: tip-v1\nscenarios: x.csv\n"},
        ["tips.yaml:3", "does not exist"],
    ),
    (
        "scenarios of another kind",
        {"suite": "task: tip\nrubric: tip-v1\nscenarios: x.xls\n"},
        ["tips.yaml:3", ".jsonl or .csv"],
    ),
    ("scenario id", {"suite": SUITE.replace("id: exam", 'id: "a[0]"')}, ["tips.yaml:5", "must not hold '['"]),
    ("model name", {"models": "models:\n  'a[1]': {model: x}\n"}, ["models.yaml:2", "must not hold '['"]),
    (
        "a model's own key below params",
        {"models": "models:\n  a: {model: x, params: {timeout: 5}}\n"},
        ["models.yaml:2: models.a.params must not hold 'timeout'", "a key of the model in models.yaml, beside"],
    ),
    (
        "several outputs by params",
        {"v2": PROMPT + "params: {n: 2}\n"},
        ["v2.yaml", "params must not hold 'n'", "write samples into the suite"],
    ),
    (
        "a bound that is no number",
        {"models": "models:\n  a: {model: x, params: {max_tokens: many}}\n"},
        ["models.yaml:2: models.a.params max_tokens is 'many'", "a whole number, without quotes"],
    ),
    (
        "a bound in quotes",
        {"v2": PROMPT + "params: {max_completion_tokens: '200'}\n"},
        ["v2.yaml", "params max_completion_tokens is '200'"],
    ),
    *(
        (
            f"no value behind {key}",
            {name: text},
            [f"{place}: {path}{key}", "must have a value; write one, or take the key"],
        )
        for name, place, path, key, text in EMPTY
    ),
    (
        "model without a model",
        {"models": "models:\n  a: {params: {}}\n"},
        ["models.yaml:2", "'models.a.model' is missing"],
    ),
    (
        "parameter beside params",
        {"models": "models:\n  a: {model: x, temperature: 0}\n"},
        ["models.yaml:2: unknown key 'models.a.temperature'; known keys: model, params, ", "stands below params"],
    ),
    (
        "judge's parameter beside params",
        {"suite": SUITE + "    judge: {model: haiku, max_tokens: 900}\n"},
        ["tips.yaml:6: unknown key 'judge.max_tokens'; known keys: model, params; what", "stands below params"],
    ),
    (
        "model key",
        {"models": "models:\n  a: {model: x, api_key: sk-123456}\n"},
        ["models.yaml:2", "unknown key", "api_key_env"],
    ),
    (
        "secret",
        {"models": "models:\n  a: {model: x, params: {api_key: sk-123456}}\n"},
        ["models.yaml:2", "environment only"],
    ),
    (
        "password in address",
        {"models": "models:\n  a: {model: x, api_base: 'http://me:hunter2@h/v1'}\n"},
        ["models.yaml:2", "must not hold a user or password"],
    ),
    (
        "address",
        {"models": "models:\n  a: {model: x, api_base: nowhere}\n"},
        ["models.yaml:2", "'nowhere'", "not an address"],
    ),
    (
        "key not set",
        {"models": "models:\n  a: {model: x, api_key_env: NO_KEY}\n"},
        ["model a", "NO_KEY is not set", "optional"],
    ),
    (
        "nothing left",
        {"models": "models:\n  a: {model: x, api_key_env: NO_KEY, optional: true}\n"},
        ["no model is left", "NO_KEY is not set"],
    ),
    (
        "role",
        {"v1": "messages:\n  - {role: robot, content: x}\n"},
        ["v1.yaml:2", "messages.0.role is 'robot'", "'system'"],
    ),
    ("no messages", {"v1": "messages: []\n"}, ["v1.yaml:1", "messages is []", "at least one"]),
    ("rubric without front matter", {"rubric": "# Anchors\n"}, ["tip-v1.md:1", "between two lines '---'"]),
    (
        "rubric without anchors",
        {"rubric": RUBRIC.replace("# Anchors", "")},
        ["tip-v1.md", "describe what each score means"],
    ),
    ("rubric of another name", {"rubric": RUBRIC.replace("id: tip-v1", "id: tip-v2")}, ["tip-v1.md:2", "'tip-v2'"]),
    (
        "range",
        {"rubric": RUBRIC.replace("min: 1, max: 5", "min: 5, max: 1")},
        ["tip-v1.md:4", "relevance", "min must be below max"],
    ),
    ("weight", {"rubric": RUBRIC.replace("weight: 1", "weight: -1")}, ["tip-v1.md:4", "weight is -1", "below 0"]),
    (
        "no weight",
        {"rubric": RUBRIC.replace("weight: 1", "weight: 0")},
        ["tip-v1.md:3", "at least one", "must count: a scale with a weight, or a flag with a penalty, above 0"],
    ),
    (
        "a weight whose figures would overflow",
        {"rubric": RUBRIC.replace("weight: 1", "weight: 1.0e+104")},
        ["tip-v1.md:4", "relevance", "weight is 1e+104", "to 1,000,000"],
    ),
    (
        "a weight below what figures show",
        {"rubric": RUBRIC.replace("weight: 1", "weight: 1.0e-120")},
        ["tip-v1.md:4", "weight is 1e-120", "expected 0, or a number from 0.000001"],
    ),
    (
        "composites that are too large",
        {"rubric": RUBRIC.replace("weight: 1", "weight: 250000")},
        ["tip-v1.md:3", "to 1.25e+06 points", "within 1,000,000"],
    ),
    (
        "more criteria than a verdict has room for",
        {"rubric": RUBRIC.replace("criteria:", "criteria:" + "".join(map(MORE.format, range(200))))},
        ["tip-v1.md:3", "the scores of 20", "characters", "fewer criteria"],
    ),
    ("infinite", {"rubric": RUBRIC.replace("max: 5", "max: .inf")}, ["tip-v1.md:4", "not a finite number"]),
    ("penalty", {"rubric": RUBRIC.replace("penalty: 1", "penalty: -1")}, ["tip-v1.md:5", "penalty is -1"]),
    ("bad", {"rubric": RUBRIC.replace("bad: true", "bad: 1")}, ["tip-v1.md:5", "bad is 1", "true or false"]),
    ("check", {"rubric": RUBRIC.replace("max_words", "max_word")}, ["tip-v1.md:5", "'max_word' is no check"]),
    ("two of a name", {"rubric": RUBRIC.replace("overlong", "relevance")}, ["tip-v1.md:5", "two of this name"]),
    ("taken name", {"rubric": RUBRIC.replace("overlong", "composite")}, ["tip-v1.md:5", "taken by promptbench"]),
    (
        "nothing for a judge",
        {"rubric": RUBRIC.replace("type: scale, min: 1, max: 5, weight: 1", "type: flag, bad: true, penalty: 0")},
        ["tip-v1.md:3", "at least one criterion that a judge fills must count"],
    ),
    (
        "nothing that counts",
        {"rubric": BY_CHECKS.replace("penalty: 1", "penalty: 0")},
        ["tip-v1.md:3: at least one criterion must count"],
    ),
    (
        "a judge with nothing to judge",
        {"rubric": BY_CHECKS, "suite": SUITE + "    judge: {model: a}\n"},
        ["tips.yaml:6: programs fill all of the rubric tip-v1", "remove it, or add a criterion without a check"],
    ),
    ("judge", {"suite": SUITE + "    judge: {model: zzz}\n"}, ["tips.yaml:6", "no model 'zzz'"]),
    (
        "scenarios of no kind",
        {"suite": "task: tip\nrubric: tip-v1\nscenarios: 5\n"},
        ["tips.yaml:3: scenarios is 5; expected a list, or the path of a .yaml, .jsonl or .csv file"],
    ),
    (
        "a number for an id",
        {"suite": SUITE.replace("id: exam", "id: 5")},
        ["tips.yaml:5: scenarios.1.id is 5; expected a text (put it in quotes)"],
    ),
    (
        "vars left empty",
        {"suite": "task: tip\nrubric: tip-v1\nscenarios:\n  - {id: a, vars: }\n"},
        ["tips.yaml:4: scenarios.0.vars is empty; expected keys with values, as in {situation: "],
    ),
    (
        "a name too long for the system",
        {"suite": f"task: tip\nrubric: tip-v1\nscenarios: {'x' * 400}.csv\n"},
        ["tips.yaml:3", "does not exist; the path is relative to the suite"],
    ),
    (
        "a folder too long for the system",
        {"suite": f"task: tip\nrubric: tip-v1\nscenarios: {'x' * 400}/cases.csv\n"},
        ["tips.yaml:3", "does not exist; the path is relative to the suite"],
    ),
    (
        "unknown placeholder's line",
        {"v2": "messages:\n  - {role: system, content: x}\n  - {role: user, content: '{{ no }}'}\n"},
        ["v2.yaml:3: prompt tip/v2", "its vars are: situation"],
    ),
    ("min", {"rubric": RUBRIC.replace("min: 1", "min: low")}, ["tip-v1.md:4: criteria.0.min is 'low'; expected a num"]),
    (
        "end of the criteria",
        {"rubric": RUBRIC.replace("    ---\n    # A", "    ----\n    # A")},
        ["tip-v1.md:6: the line '----' ends the criteria", "write '---' and nothing else"],
    ),
    (
        "rubric in a folder",
        {"suite": SUITE.replace("tip-v1", "../rubrics/tip-v1")},
        ["tips.yaml:2: rubric is '../rubrics/tip-v1'; write its id, 'tip-v1'"],
    ),
    (
        "port",
        {"models": "models:\n  a: {model: x, api_base: 'http://h:99999/v1'}\n"},
        ["models.yaml:2", "'http://h:99999/v1'; it is not an address such as"],
    ),
    (
        "an address of an embedded model",
        {"models": "models:\n  a: {model: embedded/x, api_base: 'http://h:8080/v1'}\n"},
        ["models.yaml:2: models.a.api_base is 'http://h:8080/v1'; it would not be asked", "there write openai/x"],
    ),
    (
        "space in an address",
        {"models": "models:\n  a: {model: x, api_base: 'http://h :8080/v1'}\n"},
        ["models.yaml:2", "'http://h :8080/v1'; it is not an address such as"],
    ),
    (
        "key not set, with its line",
        {"models": "models:\n  a:\n    model: x\n    api_key_env: NO_KEY\n"},
        ["models.yaml:4: model a: the environment variable NO_KEY is not set; set it, or add 'optional: true'"],
    ),
]

# Mistakes of plain values, as the var n of a scenario at line 4.
VALUES: list[tuple[str, str]] = [
    (".nan", ".nan is not a finite number"),
    ("1e999", "1e999 is not a finite number"),
    ("9" * 5000, "a number of 5,000 digits is too large"),
    ("!!int abc", "'abc' does not fit its tag !!int; write plain values"),
    ("!!bool maybe", "'maybe' does not fit its tag !!bool"),
    ("!!python/object:os.system x", "the tag !!python/object:os.system is not supported"),
    ("!!set {a, b}", "the tag !!set is not supported; write plain values"),
    ("!mine {a: 1}", "the tag !mine is not supported"),
    ("&z [*z]", "the alias *z names nothing that ends above it"),
    ("*nowhere", "the alias *nowhere names nothing"),
    ("{<<: {a: 1}}", "merge keys (<<) are not supported; write the keys out"),
    ("{? [a] : 1}", "a key must be plain text"),
    ("{{ situation }}", "put a text that begins with { or [ in quotes"),
    ("{a: 1, a: 2}", "the key 'a' stands twice, first at line 4; remove one"),
    ("x\x07", "holds the control character U+0007; remove it"),
    ("@x", "put a text that begins with @"),
    ("a: b", "put a text that holds ': ' or a quote in quotes"),
]


@pytest.mark.parametrize(("value", "message"), VALUES, ids=[v[:12].replace("\x07", "BEL") for v, _ in VALUES])
def test_values_that_surprise_are_refused_with_their_line(tmp_path: Path, value: str, message: str) -> None:
    with pytest.raises(CatalogError) as caught:
        load(tmp_path, suite=f"task: tip\nrubric: tip-v1\nscenarios:\n  - {{id: a, vars: {{n: {value}}}}}\n")
    assert "tips.yaml:4: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("value", ["off", "0x1F", "1_000", "12:30", "!!str 5", "! 6", "'true'"])
def test_only_core_numbers_and_true_and_false_are_no_text(tmp_path: Path, value: str) -> None:
    text = f"task: tip\nrubric: tip-v1\nscenarios:\n  - id: a\n    vars: {{situation: {value}}}\n"
    assert isinstance(load(tmp_path, suite=text).scenarios[0].vars["situation"], str)


def test_an_alias_stands_for_its_value(tmp_path: Path) -> None:
    vars_ = "{situation: &s [x, {y: 1}], again: *s}"
    suite = load(tmp_path, suite=f"task: tip\nrubric: tip-v1\nscenarios:\n  - {{id: a, vars: {vars_}}}\n")
    assert suite.scenarios[0].vars == {"situation": ["x", {"y": 1}], "again": ["x", {"y": 1}]}


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ("api_key_env: sk-hunter2-hunter2", "must be the name of an environment variable, such as OPENAI_API_KEY"),
        ("api_base: 'me:hunter2@host'", "is not an address such as"),
        ("api_base: ['http://me:hunter2@host']", "api_base: expected a text"),
        ("api_base: 'http://host/v1?api_key=hunter2'", "nor a key in its query"),
        ("params: api_key=hunter2", "params: expected keys with values"),
        ("params: {api_key: hunter2}", "must not hold 'api_key'"),
        ("params: {apiKey: hunter2}", "must not hold 'apiKey'"),
        ("params: {aws_secret_access_key: hunter2}", "must not hold 'aws_secret_access_key'"),
        ("params: {extra_headers: {Ocp-Apim-Subscription-Key: hunter2}}", "Ocp-Apim-Subscription-Key"),
        ("params: {extra_headers: {x-functions-key: hunter2}}", "x-functions-key"),
        ("params: {extra_headers: {X-Auth: hunter2}}", "X-Auth"),
        ("params: {extra_body: {gateway: {api_key: hunter2}}}", "extra_body.gateway.api_key"),
        ("params: {extra_body: {routes: [{password: hunter2}]}}", "extra_body.routes.password"),
        ("params: {tools: [{type: mcp, headers: {X-Auth: hunter2}}]}", "must not hold 'tools.headers.X-Auth'"),
        ("params: {tools: [{type: mcp, authorization: hunter2}]}", "must not hold 'tools.authorization'"),
        ("params: {tools: [{type: mcp, server_url: 'https://me:hunter2@h'}]}", "must not hold 'tools.server_url'"),
        ("params: {mcp_servers: [{authorization_token: hunter2}]}", "mcp_servers.authorization_token"),
        ("params: {data_sources: [{parameters: {api_key: hunter2}}]}", "data_sources.parameters.api_key"),
        ("api_base: 'http://h/v1?key=hunter2'", "api_base"),
        ("api_base: 'http://h/v1?sig=hunter2'", "api_base"),
        ("params: {aws_session_token: hunter2}", "must not hold 'aws_session_token'"),
        ("params: {extra_headers: {Authorization: Bearer hunter2}}", "must not hold 'extra_headers.Authorization'"),
        ("params: {extra_headers: {x-api-key: hunter2}}", "must not hold 'extra_headers.x-api-key'"),
        ("params: {extra_body: {password: hunter2}}", "must not hold 'extra_body.password'"),
        ("api_key: hunter2", "unknown key 'models.a.api_key'; did you mean 'api_key_env'?"),
    ],
)
def test_keys_in_files_are_refused_and_never_shown(tmp_path: Path, definition: str, message: str) -> None:
    with pytest.raises(CatalogError) as caught:
        load(tmp_path, models=f"models:\n  a: {{model: x, {definition}}}\n")
    assert "models.yaml:2: " in str(caught.value)
    assert message in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "params",
    [
        {"max_tokens": 5, "stop_token_ids": [1]},
        {"extra_headers": {"anthropic-beta": "x"}},
        {"response_format": {"properties": {"password": {"type": "string"}}}},
        {"tools": [{"function": {"name": "login", "parameters": {"properties": {"password": {}, "api_key": {}}}}}]},
        {"tools": [{"name": "login", "input_schema": {"$defs": {"password": {}}, "required": ["password"]}}]},
        {"tools": [{"type": "mcp", "server_url": "https://h/mcp?v=2"}, {"server_url": "https://[h"}]},
    ],
)
def test_params_that_only_sound_like_keys_are_kept(tmp_path: Path, params: dict[str, Any]) -> None:
    assert load(tmp_path, models=f"models:\n  a: {{model: x, params: {params}}}\n").models[0].params == params


@pytest.mark.parametrize(("files", "parts"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_mistakes_are_named(tmp_path: Path, files: dict[str, str], parts: list[str]) -> None:
    with pytest.raises(CatalogError) as caught:
        load(tmp_path, **files)
    for part in parts:
        assert part in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "pydantic" not in str(caught.value).lower()


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("cases.csv", "name,situation\na,x\n", ["cases.csv:1", "'id' is missing", "name, situation"]),
        ("cases.csv", "id,situation\na,x\nb\n", ["cases.csv:3", "'situation' is missing"]),
        ("cases.csv", "id,situation\na,x,y\n", ["cases.csv:2", "more cells than there are columns"]),
        ("cases.csv", f"id,situation\n{'a' * 1001},x\n", ["cases.csv:2", "more than 1,000 characters, and has 1,001"]),
        ("cases.csv", "id,id\na,x\n", ["cases.csv:1", "name of its own"]),
        ("cases.jsonl", '{"id": "a"}\n{"id": \n', ["cases.jsonl:2", "not valid JSON"]),
        ("cases.jsonl", '{"vars": {}}\n', ["cases.jsonl:1", "'id' is missing"]),
        ("cases.csv", "", ["cases.csv:1", "is empty; the first row names the columns"]),
        ("cases.csv", "id,situation\n", ["tips.yaml:3", "no scenarios in ", "cases.csv; a suite needs"]),
        ("cases.csv", "id;situation\na;x\n", ["cases.csv:1", "'id' is missing", "separated by commas"]),
        ("cases.csv", 'id,situation\na,"x\ny"\n\n,z\n', ["cases.csv:5", "id is ''"]),
        ("cases.jsonl", "5\n", ["cases.jsonl:1", "the scenario is 5; expected keys with values: id, vars, tags"]),
        ("cases.jsonl", '{"id": "a", "vars": {"n": NaN}}\n', ["cases.jsonl:1", "NaN is not a finite number"]),
        ("cases.jsonl", '{"id": "a", "vars": {"n": 1e999}}\n', ["cases.jsonl:1", "1e999 is not a finite number"]),
        ("cases.jsonl", '{"id": "a", "id": "b"}\n', ["cases.jsonl:1", "'id' stands twice; remove one"]),
        ("cases.jsonl", '{"id": "a", "vars": {"n": "\\ud800"}}\n', ["cases.jsonl:1", "half a character"]),
        ("cases.jsonl", '{"id": "a", "vars": {"n": ' + "[" * 99 + "]" * 99 + "}}\n", ["cases.jsonl:1", "40 levels"]),
        ("cases.yaml", "- id: a\n- id: b\n  tag: x\n", ["cases.yaml:3: unknown key 'scenarios.1.tag'", "'tags'"]),
        ("cases.yaml", "- id: a\n- id: a\n", ["cases.yaml:2", "'a' stands twice"]),
        ("cases.yaml", "a: 1\n", ["cases.yaml:1", "expected a list"]),
    ],
)
def test_mistakes_in_scenario_files_are_named(tmp_path: Path, name: str, text: str, parts: list[str]) -> None:
    with pytest.raises(CatalogError) as caught:
        load(tmp_path, suite=f"task: tip\nrubric: tip-v1\nscenarios: {name}\n", **{name.replace(".", "_"): text})
    for part in parts:
        assert part in str(caught.value)


def test_a_scenario_file_that_is_missing_is_named_with_the_one_that_was_meant(tmp_path: Path) -> None:
    suite = "task: tip\nrubric: tip-v1\nscenarios: case.csv\n"
    with pytest.raises(
        CatalogError, match=r"case\.csv, which does not exist \(did you mean 'cases\.csv'\?\); the path"
    ):
        load(tmp_path, suite=suite, cases_csv="id,situation\na,x\n")


def bomb() -> str:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    return "\n".join(levels) + "\n"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (bomb(), "once its aliases are expanded"),
        ("a: &a [" + "x" * 100_000 + "]\nb: [" + "*a, " * 9_999 + "]\n", "once its aliases are expanded"),
        ("a: &a " + "[" * 39 + "]" * 39 + "\nb: [[*a]]\n", "nested too deeply"),
        ("a: " + "[" * 60 + "]" * 60, "nested too deeply"),
        ("a: " + "[" * 1_000_000, "nested too deeply"),
        ("".join(" " * i + "a:\n" for i in range(1500)), "nested too deeply"),
    ],
    ids=["laughs", "long text", "deep alias", "deep", "deep and open", "deep block"],
)
def test_yaml_bombs_end_soon_in_a_clear_error(tmp_path: Path, text: str, part: str) -> None:
    suite = write(tmp_path)
    suite.write_text(text)
    start = time.process_time()
    with pytest.raises(CatalogError, match=rf"tips\.yaml:\d+: .*{part}"):
        load_suite(suite, root=tmp_path, environ={})
    assert time.process_time() - start < 2


def test_a_file_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    suite = write(tmp_path)
    suite.write_bytes(b"task: tip\nrubric: \xff\n")
    with pytest.raises(CatalogError, match=r"tips\.yaml:2: is not UTF-8"):
        load_suite(suite, root=tmp_path, environ={})


UNMERGED = "<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> theirs\n"


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("rubric", textwrap.dedent(RUBRIC) + UNMERGED.format("5: works", "5: works today"), "tip-v1.md:8"),
        ("v2", PROMPT + UNMERGED.format("params: {top_p: 1}", "params: {top_p: 0.5}"), "v2.yaml:"),
        ("v2", 'messages:\n  - {role: user, content: "a\n' + UNMERGED.format("b", "c") + '"}\n', "v2.yaml:3"),
        ("models", UNMERGED.format("models: {}", "models: {a: {}}"), "models.yaml:1"),
        ("cases_csv", "id,situation\na,x\n" + UNMERGED.format("b,x", "c,x"), "cases.csv:3"),
        ("cases_csv", "id\na\n" + UNMERGED.format("b", "c"), "cases.csv:3"),
        ("cases_csv", UNMERGED.format("id,situation", "id,situation,mood") + "a,x,y\n", "cases.csv:1"),
        ("cases_jsonl", UNMERGED.format('{"id": "b"}', '{"id": "c"}').replace("\n", "\r\n"), "cases.jsonl:1"),
    ],
)
def test_a_merge_that_was_left_undone_is_no_text(tmp_path: Path, name: str, text: str, place: str) -> None:
    files = {"v1": "messages:\n  - {role: user, content: Hi}\n", name: text}
    if name.startswith("cases"):
        files["suite"] = f"task: tip\nrubric: tip-v1\nscenarios: {name.replace('_', '.')}\n"
    with pytest.raises(
        CatalogError, match=rf"{place}.*: holds a merge conflict; keep what belongs, and remove the lines"
    ):
        load(tmp_path, **files)


def test_marks_that_are_no_conflict_are_text(tmp_path: Path) -> None:
    cell = UNMERGED.format("a", "b")
    suite = load(
        tmp_path,
        suite="task: tip\nrubric: tip-v1\nscenarios: cases.csv\n",
        cases_csv=f'id,situation\nsolve-it,"{cell}"\n',
        rubric=textwrap.dedent(RUBRIC) + "Scores\n=======\n\n    <<<<<<< HEAD\n",
    )
    assert suite.scenarios[0].vars["situation"] == cell


@pytest.mark.parametrize(
    ("template", "values", "expected"),
    [
        ("{{ a }} and {{a}}", {"a": "x"}, "x and x"),
        ("{{ a }}", {"a": "{{ b }}", "b": "no"}, "{{ b }}"),
        ("{{ a }}", {"a": {"k": [1, None, True]}}, '{"k": [1, null, true]}'),
        ("{{ a }}", {"a": True}, "true"),
        ("{{ a }}", {"a": 1.5}, "1.5"),
        ("{a} {% x %} } }} { {", {}, "{a} {% x %} } }} { {"),
        ("{{user-name}} {{ größe }} {{\ta b }}", {"user-name": "Ann", "größe": "XL", "a b": 7}, "Ann XL 7"),
        ("{{ a.b }} {{ 7*7 }}", {"a.b": "x", "7*7": "y"}, "x y"),
        ("{{" + " " * 100_000 + "x", {}, "{{" + " " * 100_000 + "x"),  # in linear time
        ("{{ a }}", {"a": r"\1 \g<0>"}, r"\1 \g<0>"),
    ],
)
def test_the_template_language_is_one_placeholder_and_nothing_else(
    template: str, values: dict[str, Any], expected: str
) -> None:
    assert render([Message(role="user", content=template)], values)[0].content == expected


def test_line_endings_and_a_byte_order_mark_do_not_change_a_rubric(tmp_path: Path) -> None:
    plain = load(tmp_path / "a").rubric
    suite = write(tmp_path / "b")
    file = tmp_path / "b" / "rubrics" / "tip-v1.md"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert load_suite(suite, root=tmp_path / "b", environ=dict(os.environ)).rubric.sha256 == plain.sha256
