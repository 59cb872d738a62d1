"""--bench-promote and --bench-rollback through real sessions and MLflow's own prompt registry."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_promptbench.catalog import load_prompt, placeholders, render
from pytest_promptbench.champions import filled_otherwise, settle
from pytest_promptbench.errors import TrackingError, UsageError
from pytest_promptbench.promotion import Condition, Policy, Promotion
from pytest_promptbench.records import Message, Prompt, sha256
from pytest_promptbench.tracking.registry import HISTORY, OvertakenError, PromptRegistry, Registered
from pytest_promptbench.tracking.store import TrackingStore

from .project import Project, migrated_database
from .provider import ScriptedProvider

LOAD = """
import mlflow, sys
mlflow.set_tracking_uri(sys.argv[1])
prompt = mlflow.genai.load_prompt("prompts:/tip@champion")
print(prompt.format(situation="rain"))
"""


def judge(project: Project, scores: dict[str, int]) -> None:
    """Give every pending candidate of a prompt its score, in a packet that names the prompts."""
    assert project.pytest("--judge-export", "packet.json", "--judge-reveal").code == 0
    packet = project.packet()
    for number, item in enumerate(packet["items"]):
        given = item["candidates"][0]["scores"]
        value = scores[item["prompt"]]
        given |= {"relevance": value, "actionability": max(1, value - number % 2), "tone": value, "format_ok": True}
    (project.root / "packet.json").write_text(json.dumps(packet))
    applied = project.pytest("--judge-apply", "packet.json")
    assert applied.code == 0, applied.text


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """v1 and v2 on ten scenarios; v1 is judged better at first."""
    root = tmp_path_factory.mktemp("champions")
    migrated_database(root / "mlflow.db")
    with ScriptedProvider() as provider:
        project = Project(root, provider, models=("haiku",), scenarios=10).write()
        project.pytest("--bench-experiment", "first")
        project.environ = {"PYTEST_ADDOPTS": "--bench-experiment=first"}
        judge(project, {"v1": 4, "v2": 2})
        yield project


def text_prompt(version: str, text: str | None = None) -> Prompt:
    """A prompt of one message, by default its own name."""
    messages = (Message(role="user", content=text or version),)
    content = {"messages": [m.to_json() for m in messages], "params": {}}
    return Prompt(task="tip", version=version, messages=messages, sha256=sha256(content))


def receipt(project: Project) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((project.root / ".promptbench/report/promotion.json").read_text())
    return value


def first_champion(version: str, *, met: bool = True) -> Promotion:
    """A decision on a task without a champion, with one condition. The prompt's hash is its version."""
    return Promotion(
        task="tip", experiment="e", rubric="r", rubric_sha256="x", policy=Policy.AUTO, winner=version,
        winner_sha256=version, champion=None, champion_sha256=None,
        conditions=(Condition(name="rivals", met=met, found="some"),),
    )  # fmt: skip


def test_the_whole_life_of_a_champion(project: Project) -> None:
    """Refused, promoted, loaded by an application, followed by a better one, and rolled back."""
    refused = project.pytest("--bench-promote", "tip")
    assert refused.code == 1, refused.text
    assert "REFUSED: v1 does not become champion of tip" in refused.out
    assert "NOT MET  automatic: the automatic judge has not scored it" in refused.out
    assert receipt(project)["granted"] is False

    promoted = project.pytest("--bench-promote", "tip", "--bench-promote-policy", "sit-down")
    assert promoted.code == 0, promoted.text
    assert (
        'v1 is champion of tip: version 1 in MLflow, mlflow.genai.load_prompt("prompts:/tip@champion")' in promoted.out
    )
    uri = f"sqlite:///{project.root}/mlflow.db"
    loaded = project.python("-c", LOAD, uri)
    assert loaded.code == 0, loaded.text
    assert "be v1" in loaded.out
    assert "Tip: rain" in loaded.out

    again = project.pytest("--bench-promote", "tip", "--bench-promote-policy", "sit-down")
    assert again.code == 0
    assert "v1 is the champion of tip already" in again.out

    project.file("prompts/tip/v3.yaml", "messages:\n  - {role: user, content: 'Better tip: {{ situation }}'}\n")
    project.pytest()
    judge(project, {"v3": 5})
    followed = project.pytest(
        "--bench-promote", "tip", "--bench-promote-policy", "sit-down", "--bench-promote-within", "latency:1000x"
    )
    assert followed.code == 0, followed.text
    assert "v3 is champion of tip: version 2" in followed.out
    found = receipt(project)
    assert found["granted"] is True
    assert (found["winner"], found["champion"], found["registry_version"]) == ("v3", "v1", 2)
    assert found["comparison"]["mean_difference"] > 2

    champion = PromptRegistry(project.store).champion("tip")
    assert champion is not None
    assert (champion.version, champion.number, champion.previous) == ("v3", 2, 1)
    tags = project.store.client.get_prompt_version("tip", "2").tags
    assert tags["promptbench.experiment"] == "first"
    assert json.loads(tags["promptbench.comparison"])["mean_difference"] > 2
    assert project.store.client.get_run(tags["promptbench.receipt_run"]).info.status == "FINISHED"
    kept = project.store.client.download_artifacts(tags["promptbench.receipt_run"], "promotion.json")
    assert json.loads(Path(kept).read_text())["winner"] == "v3"

    back = project.pytest("--bench-rollback", "tip")
    assert back.code == 0, back.text
    assert "v1 is champion of tip again (version 1 in MLflow); it was v3 (version 2)" in back.out
    assert "be v1" in project.python("-c", LOAD, uri).out
    further = project.pytest("--bench-rollback", "tip")
    assert further.code == 4
    assert "v1 (version 1) is the first champion; there is none to go back to" in further.text

    forth = project.pytest(
        "--bench-promote", "tip", "--bench-promote-policy", "sit-down", "--bench-promote-within", "latency:1000x"
    )
    assert "v3 is champion of tip: version 2" in forth.out, forth.text  # the same text is not registered twice


@pytest.mark.slow
def test_what_was_not_weighed_against_a_champion_that_came_meanwhile_does_not_follow_it(tmp_path: Path) -> None:
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, models=("haiku",), scenarios=8).write()
        project.pytest("--bench-experiment", "e")
        project.environ = {"PYTEST_ADDOPTS": "--bench-experiment=e"}
        judge(project, {"v1": 4, "v2": 2})
        meanwhile = """
            from pytest_promptbench import champions
            from pytest_promptbench.records import Message, Prompt, sha256
            from pytest_promptbench.tracking.registry import PromptRegistry

            def before(candidates, *args, _decide=champions.decide, **more):
                hi = Message(role="user", content="hi")
                content = sha256({"messages": [hi.to_json()], "params": {}})
                other = Prompt(task="tip", version="v9", messages=(hi,), sha256=content)
                PromptRegistry(STORE).promote("tip", other, lineage={}, message="from elsewhere")
                return _decide(candidates, *args, **more)

            champions.decide = before
            from pytest_promptbench.tracking.store import TrackingStore
            STORE = TrackingStore(URI, artifact_root=None)
            """
        project.file("evals/conftest.py", meanwhile.replace("URI", f'"sqlite:///{tmp_path}/mlflow.db"'))
        promoted = project.pytest("--bench-promote", "tip", "--bench-promote-policy", "sit-down")
    assert promoted.code == 4, promoted.text
    assert "v9 has become champion of tip meanwhile, and v1 was not weighed against it; do it again" in promoted.text
    found = PromptRegistry(project.store).champion("tip")
    assert (found and found.version) == "v9"
    assert "tip-promotions" not in project.store.experiments(), "nor is there a receipt of it"


def test_rollbacks_go_back_through_the_whole_history_and_end(tmp_path: Path) -> None:
    """A, B, A: back to B, back to A, and no further; and a champion that was made by hand is one to go back to."""
    migrated_database(tmp_path / "mlflow.db")
    registry = PromptRegistry(TrackingStore(f"sqlite:///{tmp_path}/mlflow.db", artifact_root=tmp_path / "artifacts"))

    for version in ("a", "b", "a"):
        registry.promote("tip", text_prompt(version), lineage={}, message="test")
    assert [registry.roll_back("tip")[1].version for _ in range(2)] == ["b", "a"]
    with pytest.raises(UsageError, match="there is none to go back to"):
        registry.roll_back("tip")
    registry.promote("tip", text_prompt("c"), lineage={}, message="test")
    registry._store.client.set_prompt_alias("tip", "champion", 2)
    assert registry.roll_back("tip")[1].version == "c"
    assert registry.roll_back("tip")[1].version == "a"
    for version in ("d", "e"):
        registry.promote("tip", text_prompt(version), lineage={}, message="test")
    registry._store.client.delete_prompt_version("tip", "4")  # d: not one to go back to any more
    assert registry.roll_back("tip")[1].version == "a"
    for version in ("f", "a", "g"):
        registry.promote("tip", text_prompt(version), lineage={}, message="test")
    registry._store.client.delete_prompt_version("tip", "6")  # f, between a and a
    assert registry.roll_back("tip")[1].version == "a"
    with pytest.raises(UsageError, match=r"a \(version 1\) is the first champion; there is none"):
        registry.roll_back("tip")


def test_a_champion_that_was_registered_by_hand_is_known_by_its_text(tmp_path: Path) -> None:
    """What the refusal asks for can be done: the same messages in a file, run and judged, are the champion's."""
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1",), scenarios=8).write()
        project.pytest("--bench-experiment", "e")
        project.environ = {"PYTEST_ADDOPTS": "--bench-experiment=e"}
        judge(project, {"v1": 4})
        client = project.store.client
        client.register_prompt(name="tip", template=[{"role": "user", "content": "By hand: {{situation}}"}])
        client.set_prompt_alias("tip", "champion", 1)
        options = ("--bench-promote-policy", "sit-down", "--bench-promote-within", "latency:1000x")
        refused = project.pytest("--bench-promote", "tip", *options)
        assert refused.code == 1, refused.text
        assert "the champion version 1 has no sit-down score in e to compare with" in refused.out
        assert "from a file with the very messages that MLflow's prompt registry shows" in refused.out

        project.file("prompts/tip/hand.yaml", "messages:\n  - {role: user, content: 'By hand: {{situation}}'}\n")
        assert project.pytest().code == 0
        judge(project, {"hand": 1})
        promoted = project.pytest("--bench-promote", "tip", *options)
        assert promoted.code == 0, promoted.text
        assert "v1 is champion of tip: version 2" in promoted.out
        assert receipt(project)["comparison"]["mean_difference"] > 2


@pytest.mark.parametrize("template", ["Tip: {{ x }}", [{"role": "user", "content": "Tip: {{ x }}"}]])
def test_a_prompt_that_was_registered_by_hand_is_that_of_a_file_with_its_messages(
    tmp_path: Path, template: Any
) -> None:
    migrated_database(tmp_path / "mlflow.db")
    registry = PromptRegistry(TrackingStore(f"sqlite:///{tmp_path}/mlflow.db", artifact_root=tmp_path / "artifacts"))
    client = registry._store.client
    client.register_prompt(name="tip", template=template)
    client.set_prompt_alias("tip", "champion", 1)
    (tmp_path / "a.yaml").write_text("messages: [{role: user, content: 'Tip: {{ x }}'}]\n")
    champion = registry.champion("tip")
    assert champion is not None
    assert champion.sha256 == load_prompt(tmp_path / "a.yaml", "tip").sha256
    assert registry.text("tip", champion).messages == (Message(role="user", content="Tip: {{ x }}"),)

    registry.promote("tip", load_prompt(tmp_path / "a.yaml", "tip"), lineage={}, message="test")
    now = client.get_prompt_version_by_alias("tip", "champion")
    assert now.version == (2 if isinstance(template, str) else 1), "messages get the alias again; a text is none"
    assert now.template == [{"role": "user", "content": "Tip: {{ x }}"}]


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"role": "user", "content": [{"type": "text", "text": "hi"}]}, "messages.0.content is .* expected a text"),
        ({"role": "user", "content": "hi", "name": "ann"}, "unknown key 'messages.0.name'"),
        ({"role": "user"}, "the key 'messages.0.content' is missing"),
        ({"role": "human", "content": "hi"}, "messages.0.role is 'human'; expected one of"),
        ({"role": "user", "content": "Tip: {{ x"}, "'{{ x' is no placeholder"),
        ({"role": "placeholder", "content": "So far: {{ x }}"}, "content is 'So far.*; it must be one {{ name }}"),
        ({"role": "placeholder", "content": "x"}, "messages.0.content is 'x'; it must be one {{ name }}"),
    ],
)
def test_a_champion_that_no_file_can_hold_is_named_as_such(tmp_path: Path, message: dict[str, Any], why: str) -> None:
    migrated_database(tmp_path / "mlflow.db")
    registry = PromptRegistry(TrackingStore(f"sqlite:///{tmp_path}/mlflow.db", artifact_root=tmp_path / "artifacts"))
    client = registry._store.client
    client.register_prompt(name="tip", template=[message])
    client.set_prompt_alias("tip", "champion", 1)
    champion = registry.champion("tip")
    assert champion is not None
    with pytest.raises(UsageError, match=f"{why}.* by hand: move the alias champion to another"):
        registry.text("tip", champion)


def test_a_text_with_the_tags_of_another_is_not_that_champion(tmp_path: Path) -> None:
    """Who registers an edited prompt by hand may well copy the tags; what an application loads is the edited one."""
    migrated_database(tmp_path / "mlflow.db")
    registry = PromptRegistry(TrackingStore(f"sqlite:///{tmp_path}/mlflow.db", artifact_root=tmp_path / "artifacts"))
    good = text_prompt("good")
    registry.promote("tip", good, lineage={}, message="test")
    client = registry._store.client
    tags = dict(client.get_prompt_version("tip", "1").tags)
    client.register_prompt("tip", [{"role": "user", "content": "edited"}], tags=tags)
    client.set_prompt_alias("tip", "champion", 2)
    edited = text_prompt("edited")
    assert registry.champion("tip") == Registered(number=2, version="version 2", sha256=edited.sha256, previous=1)
    assert registry.promote("tip", good, lineage={}, message="test").number == 1, "not the edited one"
    assert client.get_prompt_version_by_alias("tip", "champion").template[0]["content"] == "good"


def test_a_history_outlives_an_alias_that_was_deleted_by_hand(tmp_path: Path) -> None:
    migrated_database(tmp_path / "mlflow.db")
    registry = PromptRegistry(TrackingStore(f"sqlite:///{tmp_path}/mlflow.db", artifact_root=tmp_path / "artifacts"))

    def promote(version: str) -> Registered:
        return registry.promote("tip", text_prompt(version), lineage={}, message="test")

    assert [promote(version).previous for version in "abc"] == [None, 1, 2]
    registry._store.client.delete_prompt_alias("tip", "champion")
    assert registry.champion("tip") is None
    assert promote("d").previous == 3
    assert [registry.roll_back("tip")[1].version for _ in range(3)] == ["c", "b", "a"]


@pytest.mark.parametrize(("deleted", "back"), [("version", "v1"), ("alias", "v2")])
def test_a_champion_that_was_deleted_in_mlflow_leaves_one_to_go_back_to(
    tmp_path: Path, deleted: str, back: str
) -> None:
    """The alias goes with its version, and whoever loads the champion has none: that is when a rollback is wanted."""
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, models=("haiku",), scenarios=1).write()
        registry = PromptRegistry(project.store)
        for version in ("v1", "v2"):
            prompt = load_prompt(tmp_path / f"prompts/tip/{version}.yaml", "tip")
            registry.promote("tip", prompt, lineage={}, message="test")
        client = project.store.client
        if deleted == "version":
            client.delete_prompt_version("tip", "2")
        else:
            client.delete_prompt_alias("tip", "champion")
        rolled = project.pytest("--bench-rollback", "tip")
        assert rolled.code == 0, rolled.text
        assert f"{back} is champion of tip again (version {back[1]} in MLflow); there was none any more" in rolled.out
        champion = registry.champion("tip")
        assert (champion and champion.version) == back


def test_a_rollback_without_a_database_makes_none(tmp_path: Path) -> None:
    store = TrackingStore(f"sqlite:///{tmp_path}/mlflow.db", artifact_root=tmp_path / "artifacts")
    with pytest.raises(UsageError, match="the task has no champion"):
        PromptRegistry(store).roll_back("tip")
    assert not any(tmp_path.iterdir())


def test_a_history_that_mlflow_does_not_show_just_now_is_not_replaced(tmp_path: Path) -> None:
    """Of a prompt that it fails to read, MLflow says that there is none."""
    migrated_database(tmp_path / "mlflow.db")
    store = TrackingStore(f"sqlite:///{tmp_path}/mlflow.db", artifact_root=tmp_path / "artifacts")
    registry = PromptRegistry(store)

    def promote(version: str) -> Registered:
        return registry.promote("tip", text_prompt(version), lineage={}, message="test")

    for version in ("a", "b"):
        promote(version)

    class Failing:
        """MLflow's client, whose store fails at reading the prompt itself."""

        def __getattr__(self, name: str) -> Any:
            return (lambda _: None) if name == "get_prompt" else getattr(client, name)

    client, store._client = store.client, Failing()
    for step in (lambda: promote("c"), lambda: registry.roll_back("tip")):
        with pytest.raises(TrackingError, match="did not show the prompt tip and its champions; try again"):
            step()
    store._client = client
    assert client.get_prompt("tip").tags[HISTORY] == "[1, 2]"
    assert promote("c").previous == 2


def test_a_promotion_whose_receipts_were_deleted_says_how_to_bring_them_back(tmp_path: Path) -> None:
    """They have one experiment a task, so that another name is no way out."""
    migrated_database(tmp_path / "mlflow.db")
    store = TrackingStore(f"sqlite:///{tmp_path}/mlflow.db", artifact_root=tmp_path / "artifacts")
    kept = PromptRegistry(store).keep_receipt("tip", {"winner": "a", "champion": None})
    experiment = store.client.get_run(kept).info.experiment_id
    store.client.delete_experiment(experiment)
    again = TrackingStore(store.uri, artifact_root=tmp_path / "artifacts")
    with pytest.raises(TrackingError, match=rf"'tip-promotions' is deleted .* restore --experiment-id {experiment} "):
        PromptRegistry(again).keep_receipt("tip", {"winner": "b", "champion": "a"})


@pytest.mark.parametrize("history", ["nonsense", '{"a": 1}', '["1"]', "null"])
def test_a_history_that_somebody_has_broken_is_named_with_what_mends_it(tmp_path: Path, history: str) -> None:
    migrated_database(tmp_path / "mlflow.db")
    registry = PromptRegistry(TrackingStore(f"sqlite:///{tmp_path}/mlflow.db", artifact_root=tmp_path))
    registry.promote("tip", text_prompt("a"), lineage={}, message="test")
    client = registry._store.client
    client.set_prompt_tag("tip", HISTORY, history)
    for step in (registry.champion, registry.roll_back):
        with pytest.raises(UsageError, match=r"tag promptbench.champions of the registered prompt tip .* as in \[1, 2"):
            step("tip")
    client.delete_prompt_tag("tip", HISTORY)
    champion = registry.champion("tip")
    assert champion is not None
    assert champion.number == 1


def test_long_params_are_part_of_a_champion(tmp_path: Path) -> None:
    """A JSON schema of the reply has thousands of characters."""
    migrated_database(tmp_path / "mlflow.db")
    registry = PromptRegistry(TrackingStore(f"sqlite:///{tmp_path}/mlflow.db", artifact_root=tmp_path / "artifacts"))
    messages = (Message(role="user", content="hi"),)
    params = {"response_format": {"type": "json_schema", "schema": {f"field-{i}": "x" * 90 for i in range(100)}}}
    content = {"messages": [m.to_json() for m in messages], "params": params}
    prompt = Prompt(task="tip", version="v1", messages=messages, params=params, sha256=sha256(content))
    registered = registry.promote("tip", prompt, lineage={}, message="test")
    assert registry.text("tip", registered) == prompt


def test_mlflows_list_of_prompts_says_nothing_of_the_version_that_was_registered_last(tmp_path: Path) -> None:
    """After a rollback it would be that of another than the champion."""
    migrated_database(tmp_path / "mlflow.db")
    registry = PromptRegistry(TrackingStore(f"sqlite:///{tmp_path}/mlflow.db", artifact_root=tmp_path / "artifacts"))
    for version in ("a", "b"):
        prompt = dataclasses.replace(text_prompt(version), params={"temperature": 0.5})
        registry.promote("tip", prompt, lineage={"promptbench.task": "tip"}, message="test")
    registry.roll_back("tip")
    (listed,) = registry._store.client.search_prompts()
    assert {k: v for k, v in listed.tags.items() if k.startswith("promptbench.")} == {HISTORY: "[1]"}
    assert registry._store.client.get_prompt_version("tip", "2").tags["promptbench.version"] == "b"


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("bedtime tip", "can only contain alphanumeric characters"),
        ("taken", "is registered as a model, not a prompt"),
        ("long", "exceeds max length"),
    ],
)
def test_a_prompt_that_mlflow_does_not_take_has_no_receipt(tmp_path: Path, task: str, said: str) -> None:
    """Suites may give a task a name with spaces, and models and prompts share their names in MLflow."""
    migrated_database(tmp_path / "mlflow.db")
    store = TrackingStore(f"sqlite:///{tmp_path}/mlflow.db", artifact_root=tmp_path / "artifacts")
    store.client.create_registered_model("taken")
    text = "x" * 100_000 if task == "long" else "hi"
    prompt = Prompt(task=task, version="v1", messages=(Message(role="user", content=text),), sha256="v1")
    decision = Promotion(
        task=task, experiment="e", rubric="r", rubric_sha256="x", policy=Policy.AUTO, winner="v1", winner_sha256="p",
        champion=None, champion_sha256=None, conditions=(Condition(name="rivals", met=True, found="some"),),
    )  # fmt: skip
    with pytest.raises(UsageError, match=rf"v1 cannot be registered as MLflow's prompt '{task}': .*{said}.* another,"):
        settle(PromptRegistry(store), decision, prompt, tmp_path / "report", weighed=None)
    assert f"{task}-promotions" not in store.experiments()
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ situation }} 100 % {x} {%", None),
        ("{{situation}} {{ Report text }}", None),
        ("{{ Price (EUR) }}", r"does not fill in \{\{ Price \(EUR\) \}\}: name the var"),
        ("{{ C++ }} {{ a|b }}", r"does not fill in \{\{ C\+\+ \}\}, \{\{ a\|b \}\}: name the var"),
        ("{{ situation }} {% if x %}", "takes the prompt for Jinja2"),
    ],
)
def test_a_champion_that_mlflow_fills_in_otherwise_than_the_evals_is_said_to_be_one(
    text: str, said: str | None
) -> None:
    from mlflow.entities.model_registry.prompt_version import PromptVersion

    messages = (Message(role="user", content=text),)
    lines = filled_otherwise(Prompt(task="tip", version="v1", messages=messages, sha256="v1"))
    values = dict.fromkeys(placeholders(messages), "rain")
    ours = [m.to_json() for m in render(messages, values)]
    try:
        theirs = PromptVersion(name="tip", version=1, template=[m.to_json() for m in messages]).format(**values)
    except Exception:  # a name that is no regular expression, or no Jinja2
        theirs = None
    assert (theirs == ours) == (said is None)
    assert [bool(said and re.search(said, line)) for line in lines] == ([True] if said else [])


def test_a_champion_with_a_conversation_says_that_mlflow_places_none() -> None:
    from mlflow.entities.model_registry.prompt_version import PromptVersion

    messages = (Message(role="placeholder", content="{{ so_far }}"), Message(role="user", content="{{ x }}"))
    turns = [{"role": "user", "content": "Hi"}]
    template = [m.to_json() for m in messages]
    theirs = PromptVersion(name="tip", version=1, template=template).format(so_far=turns, x="y")
    assert theirs != [m.to_json() for m in render(messages, {"so_far": turns, "x": "y"})]
    (line,) = filled_otherwise(Prompt(task="tip", version="v1", messages=messages, sha256="v1"))
    assert "leaves one message of the role placeholder for {{ so_far }}: put the conversation's messages there" in line


def test_a_promotion_says_what_mlflow_will_not_fill_in(tmp_path: Path) -> None:
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1",), scenarios=6).write()
        prompt = tmp_path / "prompts/tip/v1.yaml"
        prompt.write_text(prompt.read_text().replace("be v1", "what does {% if %} do?"))
        assert project.pytest().code == 0
        judge(project, {"v1": 4})
        promoted = project.pytest("--bench-promote", "tip", "--bench-promote-policy", "sit-down")
        assert promoted.code == 0, promoted.text
        assert "  BUT      MLflow's format() takes the prompt for Jinja2, because of {% and %} in it" in promoted.out


def test_a_receipt_is_finished_only_once_the_alias_has_moved(tmp_path: Path) -> None:
    """Where MLflow fails just then, the run that says granted is of a promotion that is under way, and no more."""
    migrated_database(tmp_path / "mlflow.db")
    store = TrackingStore(f"sqlite:///{tmp_path}/mlflow.db", artifact_root=tmp_path / "artifacts")
    prompt = text_prompt("v1")
    decision = first_champion("v1")

    class Failing:
        """MLflow's client, whose server fails as the alias is moved."""

        def __getattr__(self, name: str) -> Any:
            if name == "set_prompt_alias":
                raise OSError("503")
            return getattr(client, name)

    client, store._client = store.client, Failing()
    with pytest.raises(TrackingError, match="503"):
        settle(PromptRegistry(store), decision, prompt, tmp_path / "report", weighed=None)
    store._client = client
    assert settle(PromptRegistry(store), decision, prompt, tmp_path / "report", weighed=None) is not None
    runs = client.search_runs([store.experiment("tip-promotions")], order_by=["attributes.start_time ASC"])
    assert [r.info.status for r in runs] == ["RUNNING", "FINISHED"]


@pytest.mark.parametrize("other", ["v1", "v2"])
def test_two_promotions_at_once_are_one_after_the_other(tmp_path: Path, other: str) -> None:
    """The second finds the first one's champion, which it was not weighed against, though both began without one."""
    migrated_database(tmp_path / "mlflow.db")
    second: list[threading.Thread] = []
    refused: list[OvertakenError] = []

    def promote(version: str, between: Callable[[], None] | None = None) -> None:
        store = TrackingStore(f"sqlite:///{tmp_path}/mlflow.db", artifact_root=tmp_path / "artifacts")
        keep = store.artifacts.keep
        if between is not None:
            store.artifacts.keep = lambda *a, **k: (between(), keep(*a, **k))[1]  # type: ignore[method-assign]
        try:
            settle(
                PromptRegistry(store), first_champion(version), text_prompt(version), tmp_path / version, weighed=None
            )
        except OvertakenError as error:
            refused.append(error)

    def meanwhile() -> None:
        second.append(threading.Thread(target=promote, args=(other,)))
        second[0].start()
        second[0].join(2)
        assert second[0].is_alive(), "it waits"

    promote("v1", meanwhile)
    second[0].join()
    assert [str(e) for e in refused] == ["v1 has become champion of tip"]
    registry = PromptRegistry(TrackingStore(f"sqlite:///{tmp_path}/mlflow.db", artifact_root=None))
    assert registry.champion("tip") == Registered(number=1, version="v1", sha256=text_prompt("v1").sha256)
    assert [v.version for v in registry._store.client.search_prompt_versions("tip")] == [1], "registered once"
    assert not (tmp_path / "v2").exists(), "nor is there a receipt of it"


@pytest.mark.parametrize("granted", [False, True])
def test_a_receipt_that_cannot_be_written_is_said_with_what_became_of_the_alias(tmp_path: Path, granted: bool) -> None:
    migrated_database(tmp_path / "mlflow.db")
    registry = PromptRegistry(TrackingStore(f"sqlite:///{tmp_path}/mlflow.db", artifact_root=tmp_path / "artifacts"))
    prompt = text_prompt("v1")
    decision = first_champion("v1", met=granted)
    (tmp_path / "report" / "promotion.json").mkdir(parents=True)
    outcome = r"v1 is champion of tip, with its receipt in MLflow's run \w+$" if granted else "no champion of tip was"
    with pytest.raises(UsageError, match=rf"report/promotion\.json: cannot be written: Is a directory; {outcome}"):
        settle(registry, decision, prompt, tmp_path / "report", weighed=None)
    assert (registry.champion("tip") is not None) == granted


def test_under_the_policy_both_the_automatic_judge_has_its_say(tmp_path: Path) -> None:
    """From generating to a granted promotion: a person's scores, the automatic judge's, and the alias."""

    def answer(body: dict[str, Any]) -> str:
        text = "".join(str(m["content"]) for m in body["messages"])
        if "Score it now" not in text:
            return f"Tip of {'v1' if 'be v1' in text else 'v2'}, {len(text) % 3}."
        score = 5 if "Tip of v2" in text else 3
        return json.dumps(
            {"rationale": "", "relevance": score, "actionability": score, "tone": score, "format_ok": True}
        )

    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider(reply=answer) as provider:
        project = Project(tmp_path, provider, models=("haiku",), scenarios=8, suite="judge: {model: haiku}\n").write()
        collected = project.pytest("--judge-auto")
        assert collected.code == 0, collected.text
        judge(project, {"v1": 2, "v2": 5})
        granted = project.pytest("--bench-promote", "tip")
        assert granted.code == 0, granted.text
        assert "v2 is champion of tip: version 1" in granted.out
        for line in ("scenarios: the first champion", "rivals: it is behind none", "automatic: the automatic judge"):
            assert f"met      {line}" in granted.out
        assert receipt(project)["policy"] == "both"


def test_every_suite_of_a_task_has_its_prompts_weighed(tmp_path: Path) -> None:
    """v3 is of a second suite of the same task and rubric: one leaderboard, and one champion. Two rubrics are two."""
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1", "v2", "v3"), scenarios=8).write()
        suite = (tmp_path / "evals/tips.yaml").read_text()
        for name, prompts in (("tips", "v1, v2"), ("more", "v3")):
            project.file(f"evals/{name}.yaml", f"prompts: [{prompts}]\n{suite}")
        test = (tmp_path / "evals/test_tips.py").read_text()
        more = test.replace("tips.yaml", "more.yaml").replace("test_tip", "test_more").replace("import pytest", "")
        project.file("evals/test_tips.py", test + more)
        assert project.pytest().outcomes() == {"passed": 24}
        judge(project, {"v1": 2, "v2": 3, "v3": 5})
        granted = project.pytest("--bench-promote", "tip", "--bench-promote-policy", "sit-down")
        assert "v3 is champion of tip: version 1" in granted.out, granted.text
        assert "it is behind none of the other prompts (2)" in granted.out
        rubric = (tmp_path / "rubrics/tip-v1.md").read_text()
        project.file("rubrics/tip-v2.md", rubric.replace("tip-v1", "tip-v2"))
        project.file("evals/more.yaml", (tmp_path / "evals/more.yaml").read_text().replace("tip-v1", "tip-v2"))
        result = project.pytest("--bench-promote", "tip")
        assert result.code == 4
        assert "the task has 2 leaderboards: " in result.text
        assert "by tip-v2 (" in result.text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--bench-promote", "tips"], "--bench-promote tips: there is no such task; there are: tip"),
        (["--bench-rollback", "other"], "--bench-rollback other: the task has no champion"),
        (["--bench-promote-policy", "auto"], "says how --bench-promote is done: give it together with --bench-promote"),
        (["--bench-promote", "tip", "--bench-promote-within", "price:2"], "expected cost or latency, a colon"),
        (["--bench-promote", "tip", "--judge-export", "p.json"], "--judge-export and --bench-promote are two steps"),
        (["--bench-promote", "tip", "--judge-auto"], "--judge-auto belongs to a session that runs tests"),
    ],
)
def test_mistakes(project: Project, args: list[str], message: str) -> None:
    result = project.pytest(*args)
    assert result.code == 4, result.text
    assert message in result.text
    assert "Traceback" not in result.text
