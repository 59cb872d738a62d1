"""An experiment from the tracking store alone: no suite, prompt or rubric file at hand."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pytest_promptbench.experiments import (
    AmbiguousError,
    Experiment,
    Experiments,
    NotFoundError,
    RubricTextError,
    parse_rubric,
)
from pytest_promptbench.leaderboard import leaderboard_json
from pytest_promptbench.records import Judge, LoggedCandidate, Tier, Verdict, sha256
from pytest_promptbench.tracking.changes import Changes
from pytest_promptbench.tracking.store import TrackingStore

from .project import RUBRIC, Project, migrated_database
from .provider import ScriptedProvider
from .test_tracking import RUBRIC as TIP
from .test_tracking import logged

LONG = "\n" + "A level that needs many words. é\n" * 400


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One model and prompt, two scenarios: first under a short rubric, then under one longer than a tag holds."""
    root = tmp_path_factory.mktemp("experiments")
    migrated_database(root / "mlflow.db")
    with ScriptedProvider() as provider:
        project = Project(root, provider, models=("haiku",), prompts=("v1",), scenarios=2).write()
        assert project.pytest("--bench-experiment", "e").code == 0
        (root / "rubrics/tip-v1.md").write_text(RUBRIC.lstrip("\n") + LONG, encoding="utf-8")
        assert project.pytest("--bench-experiment", "e").code == 0
        yield project


def experiments(project: Project) -> Experiments:
    return Experiments(lambda: project.store)


def test_rubrics_come_back_from_tag_and_artifact(project: Project) -> None:
    found = experiments(project)
    newest, oldest = found.read("e").groups
    assert found.rubric(oldest).text == RUBRIC.lstrip("\n")
    assert found.rubric(newest).text == RUBRIC.lstrip("\n") + LONG
    assert [len(g.pending) for g in (newest, oldest)] == [2, 2]
    assert found.read("e").group("tip", oldest.rubric_sha256) == oldest


def test_the_newest_rubric_is_meant_unless_another_is_named(project: Project) -> None:
    found = experiments(project)
    newest, oldest = found.read("e").groups
    board = leaderboard_json(found.leaderboard("e"))
    assert (board["task"], board["rubric_sha256"]) == ("tip", newest.rubric_sha256)
    assert found.leaderboard("e", rubric_sha256=oldest.rubric_sha256).rubric.sha256 == oldest.rubric_sha256
    assert found.agreement("e").pairs == ()
    packet = found.packet("e")
    assert packet["rubric"]["sha256"] == newest.rubric_sha256
    assert [i["item"] for i in found.packet("e")["items"]] == [i["item"] for i in packet["items"]]


def test_a_packet_under_an_old_rubric_is_refused(project: Project) -> None:
    found = experiments(project)
    oldest = found.read("e").groups[1]
    old = found.packet("e") | {"rubric": {**found.packet("e")["rubric"], "sha256": oldest.rubric_sha256}}
    with pytest.raises(Exception, match=r"its sha256 does not fit\): export again$"):
        found.apply(old)
    rubric = found.rubric(oldest).to_json()
    old["rubric"] = {k: rubric[k] for k in ("id", "sha256", "text", "criteria")}
    with pytest.raises(Exception, match="the rubric tip-v1 changed since the export: export again"):
        found.apply(old)


def test_what_is_not_there_is_named(project: Project) -> None:
    found = experiments(project)
    with pytest.raises(NotFoundError, match=r"MLflow has no experiment nightly; there are: e, Default"):
        found.read("nightly")
    with pytest.raises(NotFoundError, match="the experiment e has no task tips; there are: tip"):
        found.leaderboard("e", task="tips")
    with pytest.raises(NotFoundError, match="no candidate of the task tip was logged under a rubric of sha256 00"):
        found.leaderboard("e", rubric_sha256="00")


def test_a_deleted_experiment_is_not_there(project: Project, tmp_path: Path) -> None:
    store = project.store
    store.open()
    store._client.delete_experiment(store._client.create_experiment("gone"))
    with pytest.raises(NotFoundError, match="no experiment gone"):
        experiments(project).read("gone")


def candidate(task: str, started_at: int) -> LoggedCandidate:
    return LoggedCandidate(
        run_id=f"{task}{started_at}", experiment="e", task=task, model="m", prompt="p", scenario="s", cell="c",
        candidate=f"{task}{started_at}", rubric="r", rubric_sha256="x", pending=True, started_at=started_at,
    )  # fmt: skip


class Counting(TrackingStore):
    """Notes each experiment that it reads."""

    seen: ClassVar[list[str]] = []

    def read(self, experiment: str, **options: Any) -> list[LoggedCandidate]:
        self.seen.append(experiment)
        return super().read(experiment, **options)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The experiments that were read from the store, in order."""
    monkeypatch.setattr(Counting, "seen", [])
    return Counting.seen


def stored(root: Path, **cells: int) -> str:
    """The address of a store with so many candidates by experiment."""
    migrated_database(root / "mlflow.db")
    uri = f"sqlite:///{root}/mlflow.db"
    TrackingStore(uri, artifact_root=root).log([logged(f"s{i}").entry(n) for n, m in cells.items() for i in range(m)])
    return uri


def test_what_did_not_change_is_read_once_by_all_who_ask_at_once(tmp_path: Path, read: list[str]) -> None:
    uri = stored(tmp_path, a=2, b=1)
    found = Experiments(lambda: Counting(uri, artifact_root=tmp_path))
    with ThreadPoolExecutor(4) as pool:
        boards = list(pool.map(lambda name: found.read(name).group().leaderboard(TIP), ["a"] * 4))
    assert all(board is boards[0] for board in boards)
    assert (found.summary("a").counts["pending"], found.summary("b").counts["pending"]) == (2, 1)
    assert read == ["a", "b"]


def test_what_others_write_shows_at_once(tmp_path: Path, read: list[str]) -> None:
    uri = stored(tmp_path, a=2)
    found = Experiments(lambda: Counting(uri, artifact_root=tmp_path))
    judged = found.read("a").group("tip").pending[0]
    other = TrackingStore(uri, artifact_root=None)
    scores = {c.name: 4 if c.type == "scale" else True for c in TIP.criteria}
    for value in (4, 5):  # the second changes no count and no length
        scores["relevance"] = value
        verdict = Verdict(scores=dict(scores), judge=Judge(tier=Tier.HUMAN, name="me"), at="2026-01-01T00:00:00Z")
        other.record(judged, verdict, TIP)
        assert found.summary("a").counts["judged"] == 1
        (row,) = found.read("a").group("tip").leaderboard(TIP).rows
        assert row.criteria["relevance"] == value
    assert read == ["a"] * 3


def test_another_database_in_the_same_place_is_a_change(tmp_path: Path) -> None:
    file, other = tmp_path / "mlflow.db", tmp_path / "other.db"
    changes = Changes(f"sqlite:///{file}")
    assert changes.mark() is None
    for path in (file, other):
        with closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE t (x)")
    before = changes.mark()
    assert before is not None
    assert changes.mark() == before
    assert Changes(f"sqlite:///{file}").mark() != before, "each connection has a count of its own"
    other.replace(file)
    assert changes.mark() != before


def test_a_backup_that_was_put_in_the_databases_place_is_read_and_written(tmp_path: Path) -> None:
    uri = stored(tmp_path, a=2)
    found = Experiments(lambda: TrackingStore(uri, artifact_root=tmp_path))
    with (
        closing(sqlite3.connect(tmp_path / "mlflow.db")) as database,
        closing(sqlite3.connect(tmp_path / "backup.db")) as backup,
    ):
        database.backup(backup)
    scores = {c.name: 4 if c.type == "scale" else True for c in TIP.criteria}
    verdict = Verdict(scores=scores, judge=Judge(tier=Tier.HUMAN, name="me"), at="2026-01-01T00:00:00Z")
    for candidate in found.read("a").candidates:
        found.store().record(candidate, verdict, TIP)
    assert found.summary("a").counts["pending"] == 0
    for name in ("mlflow.db-wal", "mlflow.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "backup.db").replace(tmp_path / "mlflow.db")
    assert found.summary("a").counts["pending"] == 2
    found.store().record(found.read("a").candidates[0], verdict, TIP)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        judged = database.execute("SELECT count(*) FROM tags WHERE key = 'judge_pending' AND value = 'false'")
        assert judged.fetchone() == (1,)
    assert found.summary("a").counts["pending"] == 1


def test_no_more_is_kept_than_there_is_room_for(tmp_path: Path, read: list[str]) -> None:
    uri = stored(tmp_path, a=2, b=2, c=2)
    found = Experiments(lambda: Counting(uri, artifact_root=tmp_path), most_kept=4)
    for name in "abcb":
        found.read(name)
    assert read == ["a", "b", "c"]
    found.read("a")
    assert read == ["a", "b", "c", "a"]
    for i in range(5):
        with pytest.raises(NotFoundError):
            found.read(f"none-{i}")
    assert len(found._kept) <= 3, "the names, and two experiments"


def test_of_several_tasks_one_must_be_named() -> None:
    both = Experiment(name="e", candidates=(candidate("tip", 1), candidate("reply", 2)))
    assert both.tasks == ("reply", "tip")
    with pytest.raises(AmbiguousError, match="holds several tasks: name one as task; there are: reply, tip"):
        both.group()
    assert both.group("tip").task == "tip"


@pytest.mark.parametrize(
    ("text", "name", "sha", "message"),
    [
        (RUBRIC, "tip-v1", "0" * 64, "is not the text of that hash"),
        ("", "", sha256(""), "its name is none"),
        (RUBRIC, "../tip-v1", None, "its name is none"),
        ("no rubric", "tip-v1", None, "a rubric begins with its criteria"),
        (RUBRIC.lstrip("\n"), "other", None, "id is 'tip-v1'; the file's name says 'other'"),
        ("\ud800", "tip-v1", None, "surrogates not allowed"),
    ],
)
def test_a_text_that_is_no_rubric(text: str, name: str, sha: str | None, message: str) -> None:
    with pytest.raises(RubricTextError, match=message) as raised:
        parse_rubric(text, name, sha or sha256(text))
    assert "/tmp" not in str(raised.value)


def test_a_store_whose_rubric_was_cut_says_so(project: Project) -> None:
    with sqlite3.connect(project.root / "mlflow.db") as db:
        db.execute("UPDATE tags SET value = 'cut' WHERE key = 'rubric_text' AND length(value) < 8000")
    found = experiments(project)
    oldest = found.read("e").groups[1]
    with pytest.raises(RubricTextError, match="the text that MLflow holds is not the text of that hash"):
        found.leaderboard("e", rubric_sha256=oldest.rubric_sha256)


def test_what_an_edited_prompt_superseded_waits_for_no_judge(tmp_path: Path) -> None:
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1",), scenarios=2).write()
        assert project.pytest("--bench-experiment", "e").code == 0
        text = (tmp_path / "prompts/tip/v1.yaml").read_text(encoding="utf-8")
        (tmp_path / "prompts/tip/v1.yaml").write_text(text.replace("be v1", "be another"), encoding="utf-8")
        assert project.pytest("--bench-experiment", "e").code == 0
        found = experiments(project)
        assert len(found.read("e").candidates) == 4
        assert len(found.packet("e")["items"]) == 2
        queued = project.pytest("--bench-experiment", "e", "--judge-queue", "first")
        assert "2 pending candidates of e are in MLflow's review queue" in queued.out, queued.text
