"""Packets where several suites stand side by side, and what taking one in costs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_promptbench.errors import TrackingError
from pytest_promptbench.experiments import Experiments
from pytest_promptbench.packet import item_id, parse_packet
from pytest_promptbench.records import LoggedCandidate
from pytest_promptbench.sitdown import take_in
from pytest_promptbench.tracking.store import TrackingStore

from .project import JOKES, TEST, Project, migrated_database
from .provider import ScriptedProvider
from .test_api import client_of

EXPERIMENT = ("--bench-experiment", "e")


@pytest.fixture
def two(tmp_path: Path, request: pytest.FixtureRequest) -> Iterable[Project]:
    """Two suites of one experiment, tip with 3 cells and joke with 2; ``param`` is the joke's rubric."""
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1",)).write()
        project.second_suite(rubric=request.param)
        assert project.pytest(*EXPERIMENT).code == 0
        yield project


@pytest.mark.parametrize("two", ["tip-v1", "joke-v1"], indirect=True)
def test_each_suite_gets_its_packet_and_no_candidate_is_lost(two: Project) -> None:
    exported = two.pytest("--judge-export", "p.json", *EXPERIMENT)
    assert exported.code == 0, exported.text
    assert not (two.root / "p.json").exists()
    offered = {name: [i["item"] for i in two.packet(name)["items"]] for name in ("p-tip.json", "p-joke.json")}
    pending = two.store.read("e")
    for name, items in offered.items():
        task = name.removeprefix("p-").removesuffix(".json")
        assert set(items) == {item_id(c.run_id) for c in pending if c.task == task}, task
        assert f"{len(items)} pending candidates of e to {two.root / name}" in exported.out
    for name in offered:
        two.score(name)
    assert "applied 3, unchanged 0, still pending" in two.pytest("--judge-apply", "p-tip.json").out
    # Of one group alone, the packet is where it was asked for.
    assert two.pytest("--judge-export", "rest.json", *EXPERIMENT).code == 0
    assert {i["item"] for i in two.packet("rest.json")["items"]} == set(offered["p-joke.json"])
    assert "applied 2, unchanged 0, still pending 0" in two.pytest("--judge-apply", "p-joke.json").out
    assert not any(c.pending for c in two.store.read("e"))


@pytest.mark.parametrize("two", ["tip-v1"], indirect=True)
def test_taking_in_one_verdict_reads_the_experiment_once_and_one_text(two: Project) -> None:
    read: list[str] = []
    loaded: list[str] = []

    class Counting(TrackingStore):
        def read(self, experiment: str, **options: Any) -> list[LoggedCandidate]:
            read.append(experiment)
            return super().read(experiment, **options)

        def texts(self, candidates: Sequence[LoggedCandidate], **options: Any) -> list[LoggedCandidate]:
            loaded.extend(c.run_id for c in candidates)
            return super().texts(candidates, **options)

    uri, artifacts = two.store.uri, two.root / "mlartifacts"
    experiments = Experiments(lambda: Counting(uri, artifact_root=artifacts))
    assert two.pytest("--judge-export", "p.json", *EXPERIMENT).code == 0
    two.score("p-tip.json", only=1)
    packet = two.packet("p-tip.json")
    packet["items"] = packet["items"][:1]
    _, applied = experiments.apply(packet)
    assert (applied.applied, applied.pending) == (1, 4), "pending of the rubric, over both suites"
    assert read == ["e"]
    assert [item_id(run) for run in loaded] == [packet["items"][0]["item"]]
    assert sum(c.pending for c in two.store.read("e")) == 4


@pytest.mark.parametrize("two", ["joke-v1"], indirect=True)
def test_a_packet_is_taken_in_and_its_board_shown_where_no_suite_is_collected(two: Project) -> None:
    assert two.pytest("--judge-export", "p.json", *EXPERIMENT).code == 0
    two.score("p-joke.json")
    two.file("evals_of_others/test_plain.py", "def test_plain():\n    assert True\n")
    (two.root / ".promptbench/report").rename(two.root / "old")
    result = two.pytest("evals_of_others/", "--judge-apply", "p-joke.json")
    assert result.code == 0, result.text
    assert "applied 2, unchanged 0, still pending 0" in result.out
    assert "joke: composite of joke-v1" in result.out
    board = two.leaderboard()
    assert (board["task"], [row["judged"] for row in board["rows"]]) == ("joke", [2])


@pytest.mark.parametrize("two", ["joke-v1"], indirect=True)
@pytest.mark.parametrize(
    ("options", "tips", "jokes"),
    [
        ((), 3, 2),
        (("-k", "s1 or joke"), 1, 2),
        (("-k", "not test_joke", "-n", "2"), 3, 0),
        (("--bench-prompts", "v1"), 3, 2),
    ],
)
def test_a_packet_holds_what_is_selected(two: Project, options: tuple[str, ...], tips: int, jokes: int) -> None:
    exported = two.pytest("--judge-export", "p.json", *EXPERIMENT, *options)
    assert exported.code == 0, exported.text
    found: dict[str, int] = {}
    for path in two.root.glob("p*.json"):
        packet = two.packet(path.name)
        found[packet["rubric"]["id"]] = len(packet["items"])
    assert (found.get("tip-v1", 0), found.get("joke-v1", 0)) == (tips, jokes)


@pytest.mark.parametrize("two", ["tip-v1"], indirect=True)
def test_an_export_of_nothing_selected_is_a_mistake(two: Project) -> None:
    refused = two.pytest("--judge-export", "packet.json", "-k", "nonsense", *EXPERIMENT)
    assert (refused.code, (two.root / "packet.json").exists()) == (4, False), refused.text
    assert "--judge-export: no promptbench test was selected" in refused.text


@pytest.mark.parametrize("two", ["tip-v1"], indirect=True)
def test_a_rationale_without_scores_is_not_dropped_without_a_word(two: Project) -> None:
    two.pytest("--judge-export", "packet.json", "-k", "not test_joke", *EXPERIMENT)
    packet = two.packet()
    packet["items"][0]["candidates"][0]["rationale"] = "cannot tell"
    (two.root / "packet.json").write_text(json.dumps(packet), encoding="utf-8")
    applied = two.pytest("--judge-apply", "packet.json")
    assert "applied 0, unchanged 0" in applied.out
    assert "1 item with a rationale and no scores: what it says is kept in the packet alone" in applied.out


@pytest.mark.parametrize("two", ["tip-v1"], indirect=True)
def test_who_signs_half_of_a_packet_alone_is_told_of_being_two_judges(two: Project) -> None:
    two.pytest("--judge-export", "p.json", "-k", "not test_joke", *EXPERIMENT)
    two.score("p.json", only=1)
    first = two.pytest("--judge-apply", "p.json").out
    assert "another judge" not in first, "there is no other"
    two.score("p.json", judged_by="opus")
    signed = two.pytest("--judge-apply", "p.json").out
    assert "applied 3, unchanged 0" in signed
    assert "\nclaude-code: opus is another judge than claude-code, who judged here before; if they are one" in signed
    assert "another judge" not in two.pytest("--judge-apply", "p.json").out, "it applied nothing"
    two.pytest("--judge-export", "q.json", *EXPERIMENT)
    two.score("q.json", judge_kind="human")
    assert "another judge" not in two.pytest("--judge-apply", "q.json").out, "a person is no other Claude Code"
    two.score("p.json", judge_kind="human", judged_by="ann")
    named = two.pytest("--judge-apply", "p.json").out
    assert "human: ann is another judge than human, who judged here before; if they are one, sign the packet" in named
    two.score("p.json", judge_kind="human", judged_by="human")
    assert "another judge" not in two.pytest("--judge-apply", "p.json").out, "the remedy"


@pytest.mark.parametrize("two", ["tip-v1"], indirect=True)
def test_an_unsigned_packet_is_told_of_as_such_beside_one_that_was_signed(two: Project) -> None:
    two.pytest("--judge-export", "p.json", *EXPERIMENT)
    two.score("p-tip.json", judged_by="opus")
    two.pytest("--judge-apply", "p-tip.json")
    two.score("p-joke.json")
    said = "the packet is not signed: claude-code is another judge than claude-code: opus, who judged here before"
    assert said in two.pytest("--judge-apply", "p-joke.json").out


@pytest.mark.parametrize("two", ["joke-v1"], indirect=True)
def test_what_is_applied_below_a_persons_verdict_is_said_not_to_count(two: Project) -> None:
    two.pytest("--judge-export", "p.json", "-k", "not test_joke", *EXPERIMENT)
    blank = two.packet("p.json")
    two.score("p.json", value=3, only=2, judge_kind="human", judged_by="ann")
    assert "not count" not in two.pytest("--judge-apply", "p.json").out
    (two.root / "p.json").write_text(json.dumps(blank), encoding="utf-8")
    two.score("p.json", value=5, judged_by="opus")
    applied = two.pytest("--judge-apply", "p.json").out
    assert "applied 3, unchanged 0, still pending 0" in applied
    assert "\n2 of the applied do not count: a person has judged there, who comes first" in applied


@pytest.mark.parametrize("two", ["joke-v1"], indirect=True)
@pytest.mark.parametrize("what", [TrackingError("MLflow at x: gone"), KeyboardInterrupt()])
def test_what_ends_the_recording_midway_says_how_far_it_came_and_the_same_once_more_goes_on(
    two: Project, monkeypatch: pytest.MonkeyPatch, what: BaseException
) -> None:
    assert two.pytest("--judge-export", "p.json", *EXPERIMENT).code == 0
    two.score("p-tip.json")
    judged, left = TrackingStore._judged, [None]

    def once(self: TrackingStore, *args: Any) -> None:
        if not left:
            raise what
        left.pop()
        judged(self, *args)

    monkeypatch.setattr(TrackingStore, "_judged", once)
    with pytest.raises(type(what), match="1 of 3 verdicts are recorded, the same once more records the rest"):
        take_in(two.store, parse_packet(two.packet("p-tip.json")), two.store.read("e"), rubrics={})
    monkeypatch.undo()
    assert "applied 2, unchanged 1, still pending 0" in two.pytest("--judge-apply", "p-tip.json").out


def test_what_is_set_pending_in_mlflow_is_judged_anew_also_by_who_says_the_same(tmp_path: Path) -> None:
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1",), scenarios=2).write()
        assert project.pytest(*EXPERIMENT).code == 0
        assert project.pytest("--judge-export", "p.json", *EXPERIMENT).code == 0
        project.score("p.json")
        assert "applied 2, unchanged 0" in project.pytest("--judge-apply", "p.json").out
        project.store.client.set_tag(project.runs("e")[0].info.run_id, "judge_pending", "true")
        assert "exported 1 pending candidate" in project.pytest("--judge-export", "again.json", *EXPERIMENT).out
        project.score("again.json")
        for outcome in ("applied 1, unchanged 0, still pending 0", "applied 0, unchanged 1, still pending 0"):
            assert outcome in project.pytest("--judge-apply", "again.json").out


@pytest.mark.parametrize("two", ["tip-v1"], indirect=True)
def test_shards_of_a_packet_are_disjoint_and_the_whole(two: Project) -> None:
    items: list[str] = []
    for shard in ("1/2", "2/2"):
        exported = two.pytest("--judge-export", "p.json", *EXPERIMENT, "-k", "not test_joke", "--bench-shard", shard)
        assert exported.code == 0, exported.text
        items += [i["item"] for i in two.packet("p.json")["items"]]
    assert len(items) == len(set(items)) == 3


@pytest.mark.parametrize("two", ["tip-v1"], indirect=True)
def test_an_export_keeps_the_scores_that_stand_in_its_place(two: Project) -> None:
    export = ("--judge-export", "out/a packet.json", *EXPERIMENT, "-k", "not test_joke")
    first = two.pytest(*export)
    assert "--judge-apply 'out/a packet.json'" in first.out, first.text
    assert "kept as" not in two.pytest(*export).out  # nobody has scored it
    two.score("out/a packet.json")
    scored = (two.root / "out/a packet.json").read_text()
    again = two.pytest(*export)
    assert again.code == 0
    assert "a packet.json was there already and is kept as a packet.scored.json" in again.out
    assert (two.root / "out/a packet.scored.json").read_text() == scored
    (two.root / "out/a packet.json").write_text(scored + ",")  # one comma too many
    assert "is kept as a packet.scored-2.json" in two.pytest(*export).out
    applied = two.pytest("--judge-apply", "out/a packet.scored.json")
    assert "applied 3, unchanged 0, still pending" in applied.out, applied.text
    (two.root / "out/a packet.json").write_text(scored + ",", encoding="utf-16")  # as some editors save
    assert "is kept as a packet.scored-3.json" in two.pytest(*export).out
    (two.root / "out/a packet.json").write_text(scored.replace("/", "\\/"))  # as some programs write JSON
    assert "is kept as a packet.scored-4.json" in two.pytest(*export).out


@pytest.mark.parametrize("two", ["tip-v1"], indirect=True)
def test_an_export_takes_the_place_of_no_other_file(two: Project) -> None:
    suite = (two.root / "evals/tips.yaml").read_text()
    export = *EXPERIMENT, "-k", "not test_joke"
    refused = two.pytest("--judge-export", "evals/tips.yaml", *export)
    assert refused.code == 4
    assert "evals/tips.yaml: what stands there is no packet; name another file, or move it away" in refused.text
    assert (two.root / "evals/tips.yaml").read_text() == suite
    (two.root / "made.json").touch()  # as mktemp makes one
    assert two.pytest("--judge-export", "made.json", *export).code == 0


@pytest.mark.parametrize("two", ["tip-v1"], indirect=True)
def test_nothing_is_taken_in_of_a_wrong_packet_or_where_the_reports_cannot_go(two: Project) -> None:
    assert two.pytest("--judge-export", "p.json", *EXPERIMENT, "-k", "not test_joke").code == 0
    two.score("p.json")
    refused = two.pytest("--judge-apply", "p.json", "--bench-report", "evals/tips.yaml")
    assert refused.code == 4
    assert "evals/tips.yaml is a file, not a folder" in refused.err
    assert "Traceback" not in refused.text
    two.score("p.json", judge_kind="Human")
    refused = two.pytest("--judge-apply", "p.json")
    assert (refused.code, f'{two.root}/p.json: judge_kind is "Human"; a packet is' in refused.err) == (4, True)
    assert all(c.pending for c in two.store.read("e"))


@pytest.mark.parametrize("two", ["joke-v1"], indirect=True)
def test_what_an_edited_rubric_has_no_candidates_of_is_said(two: Project) -> None:
    """It is not that nothing waits: all of it does, once the evals have run."""
    rubric = two.root / "rubrics/tip-v1.md"
    rubric.write_text(rubric.read_text() + "\nA tie goes to the shorter one.\n")
    line = (
        f"e holds no candidate of {two.root}/evals/tips.yaml under the rubric tip-v1 as it is now; run the evals first"
    )
    beside = two.pytest("--judge-export", "p.json", *EXPERIMENT)
    assert (beside.code, line in beside.out, "exported 2 pending" in beside.out) == (0, True, True), beside.text
    alone = two.pytest("--judge-export", "p.json", *EXPERIMENT, "-k", "not test_joke")
    assert (alone.code, line in alone.out, "nothing is pending in e" in alone.out) == (0, True, True), alone.text
    asked = two.provider.count
    assert two.pytest(*EXPERIMENT).code == 0
    assert two.provider.count == asked
    now = two.pytest("--judge-export", "p.json", *EXPERIMENT, "-k", "not test_joke")
    assert ("exported 3 pending" in now.out, line in now.out) == (True, False), now.text


def test_scores_stand_where_the_artifacts_are_gone(tmp_path: Path) -> None:
    migrated_database(tmp_path / "mlflow.db")
    suite = "judge: {model: haiku}\n"
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1",), scenarios=2, suite=suite).write()
        project.pytest()
        project.pytest("--judge-export", "p.json")
        project.score("p.json", value=4, only=1)
        project.pytest("--judge-apply", "p.json")
        shutil.rmtree(tmp_path / "mlartifacts")
        own = project.pytest("--bench-read")
        assert "No texts" not in own.out, "who made them has them"
        shutil.rmtree(tmp_path / ".promptbench")
        read = project.pytest("--bench-read")
        said = "No texts of 2 candidates on the page, as artifacts cannot be read"
        assert (read.code, said in read.out) == (0, True), read.text
        assert project.leaderboard()["rows"][0]["composite"] == 12
        assert (tmp_path / ".promptbench/report/leaderboard.html").read_text().count("text not loaded") == 2
        refused = project.pytest("--judge-export", "p.json")
        assert refused.code == 4
        assert "candidate_outputs.json'; bring the artifacts back, or delete the run" in refused.text
        # As a colleague, whose project has not made these candidates and whose session adds one.
        ran = project.pytest("-k", "s1", "--judge-auto")
        assert "No texts of 1 candidate on the page" in ran.out, ran.text
        assert "NOT JUDGED: the texts of 1 candidate cannot be read, so nobody can score them" in ran.out
        assert project.leaderboard()["rows"][0]["judged"] >= 1
        page = client_of(tmp_path).get("/experiment", params={"name": project.experiment(), "scenario": "s0"})
        assert (page.status_code, page.text.count("Its artifact cannot be read.")) == (200, 1)


def test_a_suite_that_never_ran_holds_no_packet_up(tmp_path: Path) -> None:
    """Each task has an experiment of its own, and there is none of jokes yet."""
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1",)).write().second_suite()
        nothing = project.pytest("--judge-export", "p.json")
        assert nothing.code == 4
        assert "MLflow has no experiment 'tip-bench-" in nothing.text
        assert f"or start pytest where they ran: the store here is sqlite:///{tmp_path}/mlflow.db" in nothing.text
        assert project.pytest("-k", "not test_joke").outcomes()["passed"] == 3
        for narrowed in ((), ("-k", "not test_joke")):
            exported = project.pytest("--judge-export", "p.json", *narrowed)
            assert "exported 3 pending candidates of tip-bench-" in exported.out, exported.text
            assert len(project.packet("p.json")["items"]) == 3
        assert "has no experiment 'joke-bench-" in project.pytest("--judge-export", "p.json", "-k", "test_joke").text


def test_an_experiment_that_was_renamed_in_mlflow_is_found_by_its_new_name(tmp_path: Path) -> None:
    """Whoever reads is told the name; and a packet from before can have it written into it, and is applied."""
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1",)).write()
        project.pytest()
        project.pytest("--judge-export", "packet.json")
        store = project.store
        store.client.rename_experiment(store.experiment(project.experiment()), "Tipps für alle")
        for args in ((), ("--bench-experiment", "elsewhere")):
            read = project.pytest("--bench-read", *args)
            assert read.code == 4
            assert "The newest candidate of tip is in 'Tipps für alle'. Run the evals first" in read.text
        project.score()
        refused = project.pytest("--judge-apply", "packet.json")
        assert "If it was renamed in MLflow, write its new name in the packet" in refused.text
        project.score(experiment="Tipps für alle")
        applied = project.pytest("--judge-apply", "packet.json", "--bench-experiment", "Tipps für alle")
        assert "applied 3, unchanged 0, still pending 0" in applied.out, applied.text


def test_a_scenario_that_was_renamed_counts_twice_and_is_named(tmp_path: Path) -> None:
    """Until the next day's experiment, or another that is named; the session that renamed it asks nobody anew."""
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1",)).write()
        assert "no collected suite has" not in project.pytest().out
        suite = project.root / "evals/tips.yaml"
        suite.write_text(suite.read_text().replace("id: s1,", "id: walk,"))
        again = project.pytest()
        assert "1 scenario counts that no collected suite has: s1." in " ".join(again.out.split()), again.text
        assert (project.leaderboard()["rows"][0]["candidates"], provider.count) == (4, 3)
        assert "no collected suite has" not in project.pytest("--bench-experiment", "afresh").out


def test_a_packet_goes_to_the_suite_whose_rubric_it_holds(tmp_path: Path) -> None:
    """Two tasks, each with an experiment of its own; two folders, each with a rubric of one id and another text."""
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1",)).write().second_suite()
        project.file("jokes/rubrics/tip-v1.md", (tmp_path / "rubrics/tip-v1.md").read_text() + "Other anchors.\n")
        project.file("jokes/evals/jokes.yaml", (tmp_path / "evals/jokes.yaml").read_text())
        project.file("jokes/evals/models.yaml", (tmp_path / "evals/models.yaml").read_text())
        project.file("jokes/evals/test_jokes.py", "import pytest\n" + JOKES)
        project.file("evals/test_tips.py", TEST)
        both = ("evals", "jokes/evals")
        assert project.pytest(*both).outcomes() == {"passed": 5}
        assert project.pytest(*both, "--judge-export", "p.json").code == 0
        boards = {name: tmp_path / ".promptbench/report" / name / "leaderboard.json" for name in ("tip", "joke")}
        for name, value in (("tip", 4), ("joke", 2)):
            project.score(f"p-{name}.json", value=value)
            applied = project.pytest(*both, "--judge-apply", f"p-{name}.json")
            assert "still pending 0" in applied.out, applied.text
            assert "no candidates yet" not in applied.out
        composites = {n: [r["composite"] for r in json.loads(f.read_text())["rows"]] for n, f in boards.items()}
        assert composites == {"tip": [12.0], "joke": [6.0]}


def test_without_an_experiment_of_today_the_newest_date_is_meant(tmp_path: Path) -> None:
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1",)).write()
        for name in ("tip-bench-2026-01-02", "tip-bench-2025-12-31", "tip-bench-smoke"):
            assert project.pytest("--bench-experiment", name).code == 0
        assert "candidates of tip-bench-2026-01-02 to" in project.pytest("--judge-export", "packet.json").out
        project.score()
        shown = project.pytest("--judge-apply", "packet.json", "--collect-only")
        assert "3 tests collected" in shown.out, shown.text
        assert "NOT DONE: --judge-apply; pytest was to show what there is" in shown.out
        assert all(c.pending for c in project.store.read("tip-bench-2026-01-02")), "it was only to be shown"


def test_what_is_still_pending_is_so_on_the_board_after_an_edit_was_taken_back(tmp_path: Path) -> None:
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1",), scenarios=2).write()
        prompt = tmp_path / "prompts/tip/v1.yaml"
        for text in (prompt.read_text(), prompt.read_text().replace("be v1", "be kind")):
            before = prompt.read_text()
            prompt.write_text(text)
            assert project.pytest().code == 0
        prompt.write_text(before)
        assert project.pytest("--judge-export", "packet.json").code == 0
        project.score()
        applied = project.pytest("--judge-apply", "packet.json")
        assert "applied 2, unchanged 0, still pending 0" in applied.out, applied.text
        assert project.leaderboard()["rows"][0]["pending"] == 0
