"""The DAG bench_collect: what a request becomes, real ``dag.test()`` runs, and one Airflow with all its processes."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_promptbench.airflow.process import STOPPED, Ending, PytestProcess, ending
from pytest_promptbench.airflow.request import PARAMS, Project, Request, project, slug, unknown_keys
from pytest_promptbench.airflow.suites import find_evals
from pytest_promptbench.airflow.waiting import Exported, cleared, exported, pending
from pytest_promptbench.errors import TrackingError, UsageError

from . import forked
from .airflow_home import CHECKOUT, AirflowHome, airflow_python, memory_mb
from .project import TEST, children_of, migrated_database
from .project import Project as Evals
from .provider import Fault, ScriptedProvider
from .test_autojudge import project_in, reply
from .test_server import mlflow_server

AIRFLOW = airflow_python()
needs_airflow = [
    pytest.mark.airflow,
    pytest.mark.skipif(
        AIRFLOW is None,
        reason="no Airflow here: install pytest-promptbench[airflow] into an environment of its own, and name its "
        "interpreter in PROMPTBENCH_AIRFLOW_PYTHON",
    ),
]
needs_all_of_airflow = [*needs_airflow, pytest.mark.slow]


def request(**params: Any) -> Request:
    return Request.of(params, run_id="manual__2026-11-23T10:00:00+00:00", day="2026-11-23")


# -- without Airflow


def test_a_request_without_parameters_is_the_whole_suite() -> None:
    plain = request()
    assert plain.experiment == "bench-2026-11-23"
    assert plain.shard_names() == ["1/1"]
    folder = plain.folder
    assert plain.collect("1/1") == [
        "evals/",
        "--bench-experiment=bench-2026-11-23",
        f"--bench-report={folder}/shard-1",
        "--bench-tag=airflow.run_id=manual__2026-11-23T10:00:00+00:00",
        "--bench-concurrency=16",
        "--bench-shard=1/1",
    ]
    assert plain.export() == [
        "evals/",
        "--bench-experiment=bench-2026-11-23",
        f"--judge-export=.promptbench/packets/{slug(plain.run_id)}/packet.json",
    ]
    assert plain.compare() == [
        "evals/", "--bench-experiment=bench-2026-11-23", f"--bench-report={folder}/report", "--bench-read",
    ]  # fmt: skip
    here = plain.collect_at_once()
    assert here == [a.replace("/shard-1", "/collect") for a in plain.collect("1/1") if "shard=" not in a]


def test_every_parameter_reaches_pytest_as_one_argument() -> None:
    full = request(
        suite="evals/test_tips.py", models=["haiku", "my model"], prompts=["v1"], k="haiku and not v2",
        experiment="nightly", shards=4, concurrency=3, judge="both", baseline="evals/baseline.json",
        tolerances=["composite:5%"], strict=True, max_cost=2, allow_unpriced=True,
    )  # fmt: skip
    cells = [
        "evals/test_tips.py", "-k", "haiku and not v2", "--bench-models=haiku,my model", "--bench-prompts=v1",
        "--bench-experiment=nightly",
    ]  # fmt: skip
    assert full.collect("2/4")[:6] == cells
    assert {"--bench-shard=2/4", "--bench-max-cost=0.500000", "--bench-allow-unpriced"} <= set(full.collect("2/4"))
    assert {"--judge-auto", "--bench-max-cost=2.000000", "--bench-read"} <= set(full.judge_automatically())
    assert {"--numprocesses=4", "--bench-max-cost=2.000000"} <= set(full.collect_at_once())
    gate = ["--bench-compare=evals/baseline.json", "--bench-compare-fail=composite:5%", "--bench-strict"]
    assert full.compare()[-3:] == gate
    assert "--bench-strict" not in request(strict=True).compare(), "pytest refuses it without a baseline"


@pytest.mark.parametrize(
    ("judge", "automatic", "sits_down"), [("auto", True, False), ("sit-down", False, True), ("both", True, True)]
)
def test_who_judges(judge: str, automatic: bool, sits_down: bool) -> None:
    asked = request(judge=judge)
    assert (asked.automatic, asked.sits_down) == (automatic, sits_down)


def test_a_whole_number_with_a_point_is_that_number() -> None:
    """JSON's schema takes it for an integer, and some clients write every number so."""
    assert request(shards=2.0, concurrency=4.0, timeout=30.0) == request(shards=2, concurrency=4, timeout=30)
    assert request(shards=2.0, concurrency=4.0).collect("1/2") == request(shards=2, concurrency=4).collect("1/2")
    assert request(shards=2.0).shard_names() == ["1/2", "2/2"]


def test_unknown_keys_are_named() -> None:
    assert unknown_keys({"suite": "evals/", "shard": 2, "_": 1}) == ["_", "shard"]
    assert unknown_keys(None) == []


@pytest.mark.parametrize("run_id", ["..", "../../etc", "a/b", "manual__2026-11-23T10:00:00+00:00", "x" * 250, "é", ""])
def test_a_run_id_becomes_one_plain_file_name(run_id: str) -> None:
    name = slug(run_id)
    assert name == Path(name).name
    assert ".." not in name
    assert len(name) < 80
    assert slug(run_id + "!") != name


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        *((code, Ending.RESULT) for code in (0, 1)),
        *((code, Ending.MISTAKE) for code in (2, 3, 4)),
        (5, Ending.EMPTY),
        *((code, Ending.CRASH) for code in (-9, -15, 6, 137)),
    ],
)
def test_exit_codes(code: int, meaning: Ending) -> None:
    assert ending(code) is meaning


def test_settings_of_a_host(tmp_path: Path) -> None:
    given = {
        "PROMPTBENCH_ROOT": str(tmp_path),
        "PROMPTBENCH_PYTHON": sys.executable,
        "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db",
    }
    here = project(given)
    assert here.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert here.artifact_root == tmp_path / "mlartifacts"
    remote = project({**given, "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"})
    assert (remote.artifact_root, remote.keepable_uri) == (None, "http://127.0.0.1:5000")
    assert here.keepable_uri == here.tracking_uri
    assert project({**given, "MLFLOW_TRACKING_URI": "http://bench:hunter2@127.0.0.1:5000"}).keepable_uri is None
    with pytest.raises(UsageError, match="write postgresql://"):
        project({**given, "MLFLOW_TRACKING_URI": "postgres://127.0.0.1/mlflow"})
    for name in given:
        with pytest.raises(UsageError, match=f"{name} is not set on this host"):
            project({**given, name: None})
    for name, value in {"PROMPTBENCH_ROOT": "evals", "PROMPTBENCH_PYTHON": str(tmp_path / "no-python")}.items():
        with pytest.raises(UsageError, match=f"{name} is {value}"):
            project({**given, name: value})
    with pytest.raises(UsageError, match="suite: evals/ does not exist below"):
        here.prepared(request())
    with pytest.raises(UsageError, match="tolerances and strict: no baseline is named, so nothing would be compared"):
        here.prepared(request(tolerances=["composite:1"], strict=True))


SUITES = """
import pytest

@pytest.mark.promptbench("tips.yaml")
def test_tip(candidate):
    pass

@pytest.mark.promptbench("jokes.yaml")
def test_joke(candidate):
    pass

class TestMore:
    @pytest.mark.slow
    @pytest.mark.promptbench("jokes.yaml")
    async def test_pun(self, candidate):
        pass
"""


@pytest.mark.parametrize(
    ("text", "suite", "tests"),
    [
        (SUITES, "tips.yaml", ["evals/test_a.py::test_tip"]),
        (SUITES, "jokes.yaml", ["evals/test_a.py::test_joke", "evals/test_a.py::TestMore::test_pun"]),
        ("import pytest\npytestmark = pytest.mark.promptbench('tips.yaml')\n", "tips.yaml", ["evals/test_a.py"]),
        (SUITES + "pytestmark = pytest.mark.promptbench('tips.yaml')\n", "tips.yaml", "cannot be told"),
        (SUITES + "mine = pytest.mark.promptbench(FILE)\n", "jokes.yaml", "cannot be told"),
        (SUITES.replace("class", "@pytest.mark.promptbench('tips.yaml')\nclass"), "jokes.yaml", "cannot be told"),
        (SUITES, "models.yaml", "evals/models.yaml is named by no test"),
        (SUITES, "nowhere.yaml", "suite: evals/nowhere.yaml does not exist below"),
    ],
)
def test_a_suite_file_means_its_tests_alone(tmp_path: Path, text: str, suite: str, tests: list[str] | str) -> None:
    (tmp_path / "evals").mkdir()
    (tmp_path / "evals/test_a.py").write_text(text)
    for name in ("tips.yaml", "jokes.yaml", "models.yaml"):
        (tmp_path / "evals" / name).touch()
    here = Project(root=tmp_path, python=Path(sys.executable), tracking_uri="http://127.0.0.1:5000")
    asked = request(suite=f"evals/{suite}")
    if isinstance(tests, str):
        with pytest.raises(UsageError, match=tests):
            here.prepared(asked)
    else:
        prepared = here.prepared(asked)
        assert list(prepared.tests) == tests
        assert prepared.collect("1/1")[: len(tests)] == prepared.compare()[: len(tests)] == tests


@pytest.mark.parametrize("name", ["a\\0b.yaml", "circle.yaml", "\\ud800.yaml"])
def test_a_suite_file_that_cannot_be_hides_no_other(tmp_path: Path, name: str) -> None:
    (tmp_path / "evals").mkdir()
    (tmp_path / "evals/circle.yaml").symlink_to("circle.yaml")
    (tmp_path / "evals/test_a.py").write_text(SUITES)
    (tmp_path / "evals/test_b.py").write_text(SUITES.replace("tips.yaml", name))
    found = find_evals(tmp_path).files
    assert found == {
        "evals/test_a.py": ("evals/tips.yaml", "evals/jokes.yaml"),
        "evals/test_b.py": ("evals/jokes.yaml",),
    }


def test_pytest_gets_the_environment_without_airflow_and_without_pytest_settings(tmp_path: Path) -> None:
    here = Project(root=tmp_path, python=Path(sys.executable), tracking_uri="http://127.0.0.1:5000")
    environ = {
        "AIRFLOW_HOME": "x",
        "AIRFLOW__CORE__X": "x",
        "_AIRFLOW__AS_LIBRARY": "x",
        "PYTEST_ADDOPTS": "-x",
        "PROMPTBENCH_API_TOKEN": "t",
        "PROMPTBENCH_AIRFLOW_PASSWORD": "p",
        "PROMPTBENCH_ACCOUNT": "another's",
        "KEY": "k",
    }
    wanted = {"KEY": "k", "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000", "PYTHONUNBUFFERED": "1"}
    assert here.environment(environ) == wanted
    assert here.command(["evals/"]) == [sys.executable, "-m", "pytest", f"--rootdir={tmp_path}", "evals/"]


def test_the_tries_of_a_task_spend_together_what_one_of_them_may(evals: Evals, tmp_path: Path) -> None:
    model = f"{{model: openai/gpt-4o-mini, api_base: '{evals.provider.api_base}', api_key_env: SCRIPTED_KEY, "
    evals.file("evals/models.yaml", f"models:\n  haiku: {model}params: {{max_tokens: 200}}}}\n")
    asked = []
    with forked.stand_in(tmp_path / "python") as python:
        here = Project(root=evals.root, python=python, tracking_uri=evals.store.uri)
        for account in ("nightly/collect/1/1", "nightly/collect/1/1", "nightly/collect/2/2"):
            arguments = request(experiment="e", concurrency=1, max_cost=0.00016).collect("1/1")
            environ = here.environment(evals.environment(), account=account)
            PytestProcess(here.command(arguments), cwd=evals.root, env=environ).run(lambda _: None)
            asked.append(evals.provider.count)
    first, again, other = asked
    assert 0 < first < 8
    assert again == first, "what the first try spent counts"
    assert first < other


def test_a_process_is_heard_and_its_alarms_are_kept(tmp_path: Path) -> None:
    code = "import sys; print('one'); print('NOT IN MLFLOW: 3 candidates'); sys.stdout.flush()\n"
    code += r"sys.stdout.buffer.write(b'\xff\n'); sys.exit(1)"
    heard: list[str] = []
    done = PytestProcess([sys.executable, "-c", code], cwd=tmp_path, env=os.environ).run(heard.append)
    assert done.ending is Ending.CRASH, "to be tried again, whatever the exit code says"
    assert done.last_words == "NOT IN MLFLOW: 3 candidates"
    assert heard == ["one", "NOT IN MLFLOW: 3 candidates", r"\xff"]
    assert done.alarms == ("NOT IN MLFLOW: 3 candidates",)


def test_what_pytest_cut_to_a_terminals_width_is_told_whole(tmp_path: Path) -> None:
    said = "--bench-models: evals/tips.yaml has no 'nope'. Known: haiku, local"
    lines = [said, "= short test summary info =", "ERROR promptbench - --bench-models: evals/tips.yaml ..."]
    lines += ["E   NameError: name 'pytset' is not defined", "ERROR evals/test_x.py - NameError: name 'pyt..."]
    code = f"import sys; print({chr(10).join(lines)!r}); sys.exit(4)"
    done = PytestProcess([sys.executable, "-c", code], cwd=tmp_path, env=os.environ).run(lambda _: None)
    assert done.last_words.splitlines() == [
        f"ERROR promptbench - {said}",
        "E   NameError: name 'pytset' is not defined",
        "ERROR evals/test_x.py - NameError: name 'pytset' is not defined",
    ]


def test_a_command_that_is_not_there_is_no_result(tmp_path: Path) -> None:
    done = PytestProcess(["/nowhere/python", "-m", "pytest"], cwd=tmp_path, env=os.environ).run(lambda _: None)
    assert (done.code, done.ending) == (127, Ending.CRASH)
    assert done.last_words == "ERROR: cannot start /nowhere/python: No such file or directory"


def test_a_session_that_could_not_reach_mlflow_is_worth_another_try(tmp_path: Path) -> None:
    """A usage error by its code, as an export and --bench-read end with it."""
    code = "import sys; print('ERROR: MLflow at http://127.0.0.1:1: down'); sys.exit(4)"
    done = PytestProcess([sys.executable, "-c", code], cwd=tmp_path, env=os.environ).run(lambda _: None)
    assert (done.code, done.ending) == (4, Ending.CRASH)
    code = "import sys; print('ERROR: MLflow has no experiment e'); sys.exit(4)"
    done = PytestProcess([sys.executable, "-c", code], cwd=tmp_path, env=os.environ).run(lambda _: None)
    assert done.ending is Ending.MISTAKE


def test_a_run_waits_for_what_its_packets_offer_and_nothing_else(evals: Evals) -> None:
    def generate(text: str) -> None:
        evals.file("prompts/tip/v1.yaml", text)
        assert evals.pytest("--bench-experiment", "e").code in (0, 1)

    def export(name: str) -> Exported:
        (evals.root / name).mkdir()
        done = evals.pytest("--bench-experiment", "e", "--judge-export", f"{name}/packet.json")
        assert done.code == 0, done.text
        return exported(evals.store, "e", evals.root / name)

    def left(found: Exported) -> int:
        return pending(evals.store, "e", found.groups, found.left_out)

    text = (evals.root / "prompts/tip/v1.yaml").read_text()
    generate(text)
    generate(text.replace("be v1", "be kind"))
    kind = export("kind")
    assert (kind.items, left(kind), kind.left_out) == (8, 8, ())
    evals.score("kind/packet.json")
    assert "applied 8, unchanged 0, still pending 0" in evals.pytest("--judge-apply", "kind/packet.json").out
    assert left(kind) == 0, "nobody is offered what the edit superseded"

    # The edit is taken back: what is offered is older than what was judged.
    evals.file("prompts/tip/v1.yaml", text)
    back = export("back")
    assert (back.items, left(back), len(back.left_out)) == (8, 8, 8)
    assert pending(evals.store, "e", back.groups) == 0, "of a run that was started by an earlier version"

    # What an edit supersedes while the run waits, no further packet offers.
    evals.provider.script("be brief", Fault(status=400))
    generate(text.replace("be v1", "be brief"))
    assert left(back) == 0


def test_an_export_that_is_done_again_keeps_what_a_judge_has_scored_of_the_first(evals: Evals) -> None:
    folder = evals.root / ".promptbench/packets/nightly"

    def export() -> Exported:
        done = evals.pytest("--bench-experiment", "e", "--judge-export", str(folder / "packet.json"))
        assert done.code == 0, done.text
        return exported(evals.store, "e", folder)

    assert evals.pytest("--bench-experiment", "e").code == 0
    assert cleared(folder) == []
    first = export()
    assert cleared(folder) == []
    assert list(folder.iterdir()) == [], "nobody has scored it"
    assert export() == first

    for name in ("packet.json", "packet-2.json"):
        packet = folder / "packet.json"
        evals.score(str(packet.relative_to(evals.root)), only=3)
        scored = packet.read_bytes()
        (kept,) = cleared(folder)
        assert kept == folder / "scored" / name
        assert kept.read_bytes() == scored
        assert export() == first, "and offers nothing of the run"
    assert "applied 3" in evals.pytest("--judge-apply", str(kept)).out


def test_a_database_that_is_away_for_a_while_is_not_one_where_all_is_judged(evals: Evals) -> None:
    assert evals.pytest("--bench-experiment", "e").code == 0
    group = evals.store.read("e")[0].group
    for file in evals.root.glob("mlflow.db*"):
        file.rename(file.with_name(f"away-{file.name}"))
    with pytest.raises(TrackingError, match=r"MLflow at sqlite:///.*/mlflow\.db has no experiment 'e': bring it back"):
        pending(evals.store, "e", [group])
    assert list(evals.root.glob("mlflow.db*")) == [], "and none is made in its place"
    for file in evals.root.glob("away-*"):
        file.rename(file.with_name(file.name.removeprefix("away-")))
    assert pending(evals.store, "e", [group]) == 8


def test_what_waits_for_a_judge_in_another_group_keeps_no_run_waiting(evals: Evals) -> None:
    evals.second_suite(rubric="joke-v1")
    assert evals.pytest("--bench-experiment", "e").code == 0
    group = next(c.group for c in evals.store.read("e") if c.task == "joke")
    assert pending(evals.store, "e", [list(group)]) == 2
    assert pending(evals.store, "e", [["of nobody", group[1]]]) == 0
    assert pending(evals.store, "e", []) == 0


def test_ending_a_process_ends_its_children_too(tmp_path: Path) -> None:
    child = "import time; time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = PytestProcess([sys.executable, "-c", code], cwd=tmp_path, env=os.environ)
    threading.Timer(1.0, process.end).start()
    started = time.monotonic()
    assert process.run(lambda _: None).ending is Ending.CRASH
    assert time.monotonic() - started < 15
    assert children_of(tmp_path) == []


def test_a_process_that_its_runner_was_told_to_end_is_worth_another_try(tmp_path: Path) -> None:
    """An interrupted pytest ends with 2, as for a mistake in a file; a worker is shut down for other reasons."""
    for code, meaning in ((2, Ending.CRASH), (0, Ending.RESULT)):
        text = f"import signal, sys, time; signal.signal(signal.SIGINT, lambda *_: sys.exit({code}))"
        command = [sys.executable, "-c", f"{text}; print('ready', flush=True); time.sleep(60)"]
        process = PytestProcess(command, cwd=tmp_path, env=os.environ)
        done = process.run(lambda line: threading.Thread(target=process.end).start())  # noqa: B023 - it has ended by then
        assert (done.code, done.ending) == (code, meaning)
        assert (done.last_words == STOPPED) is (meaning is Ending.CRASH)


COUNTING = """
import signal, sys, time
def note(number, _):
    open("signals", "a").write(signal.Signals(number).name + " ")
signal.signal(signal.SIGINT, note)
signal.signal(signal.SIGTERM, note)
open("ready", "w").close()
while not open("signals", "a+").tell():
    time.sleep(0.05)
print("a line of its last words" * 10_000, flush=True)
deadline = time.monotonic() + 3
while time.monotonic() < deadline:
    time.sleep(0.05)
open("over", "w").close()
"""
RUNNING = """
import os, signal, sys
from pathlib import Path
from pytest_promptbench.airflow.process import PytestProcess
process = PytestProcess([sys.executable, "-c", sys.argv[1]], cwd=Path.cwd(), env=os.environ)
signal.signal(signal.SIGTERM, lambda *_: process.end())
process.run(print)
"""


@pytest.mark.parametrize("terminated", [True, False])
def test_a_runner_that_is_killed_is_one_interrupt_and_pytest_may_still_write(tmp_path: Path, terminated: bool) -> None:
    """Airflow gives a task that it ends 5 s; a second Ctrl-C would have pytest give up answers that are paid for.

    So would an output that nobody reads.
    """
    environ = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    runner = subprocess.Popen([sys.executable, "-c", RUNNING, COUNTING], cwd=tmp_path, env=environ)
    until(tmp_path / "ready")
    if terminated:
        runner.terminate()
        until(tmp_path / "signals", text="SIGINT ")
    runner.kill()
    runner.wait()
    until(tmp_path / "over")
    assert (tmp_path / "signals").read_text() == "SIGINT "


def until(path: Path, text: str = "") -> None:
    deadline = time.monotonic() + 30
    while not path.exists() or path.read_text() != text:
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


# -- with Airflow


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> AirflowHome:
    assert AIRFLOW is not None
    home = AirflowHome(tmp_path_factory.mktemp("airflow"), AIRFLOW)
    home.migrate()
    return home


@pytest.fixture
def evals(tmp_path: Path) -> Iterator[Evals]:
    """One model x one prompt x 8 scenarios: as many as a gate needs to find a drop significant."""
    root = tmp_path / "project"
    root.mkdir()
    migrated_database(root / "mlflow.db")
    with ScriptedProvider() as provider:
        yield Evals(root, provider, models=("haiku",), prompts=("v1",), scenarios=8).write()


@pytest.fixture
def home(installation: AirflowHome, evals: Evals) -> AirflowHome:
    return settled(installation, evals)


def settled(installation: AirflowHome, evals: Evals) -> AirflowHome:
    """The installation with the settings of one project."""
    settings = {
        "PROMPTBENCH_ROOT": str(evals.root),
        "PROMPTBENCH_PYTHON": sys.executable,
        "MLFLOW_TRACKING_URI": evals.store.uri,
        "SCRIPTED_KEY": "sk-scripted-key-123456",
    }
    return dataclasses.replace(installation, project=settings)


class Judge(threading.Thread):
    """Somebody who sits down: waits until the run waits, by its ``log``, scores the packets and applies them."""

    def __init__(self, evals: Evals, *, value: int) -> None:
        super().__init__(daemon=True)
        self.evals, self.value = evals, value
        self.log = evals.root / "dag.log"
        self.said: list[str] = []

    def run(self) -> None:
        deadline = time.monotonic() + 240
        while not (self.log.exists() and "wait for their verdict" in self.log.read_text(errors="replace")):
            if time.monotonic() > deadline:
                return
            time.sleep(0.5)
        found = self.evals.root.glob(".promptbench/packets/*/packet*.json")
        for packet in sorted(str(p.relative_to(self.evals.root)) for p in found):
            self.evals.score(packet, value=self.value)
            self.said.append(self.evals.pytest("--judge-apply", packet).text)


class TestDagTest:
    pytestmark = needs_airflow

    def test_structure_and_parameters(self, installation: AirflowHome) -> None:
        dag = installation.run("structure")
        assert dag["schedule"] is None
        tasks = dag["tasks"]
        chain = ["plan", "collect", "collected", "judge", "export", "how_to_wait"]
        for task, then in itertools.pairwise(chain):
            assert tasks[task]["downstream"] == [then]
        assert [t for t in tasks if tasks[t]["mapped"]] == ["collect"]
        assert tasks["how_to_wait"]["downstream"] == ["approve", "compare", "wait_for_verdicts"]
        assert tasks["compare"]["rule"].lower().endswith("none_failed_min_one_success")
        assert {name: task["retries"] for name, task in tasks.items() if task["retries"] != 2} == {"approve": 0}
        assert set(dag["params"]) == set(PARAMS)
        for name, schema in PARAMS.items():
            assert dag["params"][name] == {k: v for k, v in schema.items() if k != "description"}

    def test_the_schema_refuses_what_could_reach_a_path_or_a_shell(self, installation: AirflowHome) -> None:
        good: list[dict[str, Any]] = [
            {}, {"suite": "evals/test_tips.py"}, {"models": ["a b", "x/y:1"]}, {"k": "haiku and not (v1 or v2)"},
            {"experiment": "tip-bench 2026"}, {"baseline": "evals/baseline.json"}, {"max_cost": 0.5}, {"baseline": ""},
            {"tolerances": ["composite:0.5", "tone:5%"]}, {"k": "a\u00e9"},
        ]  # fmt: skip
        bad: list[dict[str, Any]] = [
            *({"suite": s} for s in ("../x", "/etc", "evals/../..", "-x", "evals/\n", "evals; ls", "$(ls)", "", "a'b")),
            *({"baseline": s} for s in ("../x.json", "/etc/passwd", "a\n", "-x", "<b>")),
            *({"experiment": s} for s in ("../x", "a\n", "-x", "a'b", "<script>", "$(ls)", "x" * 201)),
            *({"models": s} for s in (["a,b"], ["a]"], ["a\n"], [""], "haiku", [1])),
            *({"k": s} for s in ("--judge-apply=x", "-x", "a\nb", "x" * 501)),
            *({"shards": s} for s in (0, 65, 1.5, "2")),
            {"judge": "none"}, {"wait": "sensor"}, {"timeout": 0}, {"max_cost": -1}, {"concurrency": 0},
            {"tolerances": ["composite"]}, {"tolerances": ["composite:5%\n"]}, {"strict": "yes"},
        ]  # fmt: skip
        messages = installation.run("validate", values=good + bad)["messages"]
        assert messages[: len(good)] == [None] * len(good)
        accepted = [conf for conf, message in zip(bad, messages[len(good) :], strict=True) if message is None]
        assert accepted == []

    def test_unknown_keys_fail_the_first_task(self, home: AirflowHome) -> None:
        run = home.dag_test({"shard": 2})
        assert run["state"] == "failed"
        assert run["tasks"]["plan"] == "failed"
        assert "unknown keys in the configuration: shard; known: suite, models" in run["log"]
        assert set(run["tasks"].values()) == {"failed", "upstream_failed"}

    @pytest.mark.slow
    def test_what_would_end_the_run_later_fails_the_first_task(self, home: AirflowHome, evals: Evals) -> None:
        run = home.dag_test({"judge": "auto"})
        assert (run["state"], run["tasks"]["plan"]) == ("failed", "failed")
        assert "--judge-auto needs the suite's automatic judge, and there is none; name one" in run["log"]
        assert evals.provider.requests == []

    @pytest.mark.slow
    def test_two_shards_wait_for_verdicts_while_one_test_fails_and_one_shard_crashes_once(
        self, home: AirflowHome, evals: Evals
    ) -> None:
        evals.file("evals/test_tips.py", TEST + "    assert 0, 'a result'\n")
        crash = "import os, pathlib\nmark = pathlib.Path(__file__).with_name('crashed')\n"
        crash += "def pytest_sessionfinish(session):\n"
        crash += (
            "    if not (session.config.option.collectonly or mark.exists()):\n"  # that is the look of the first task
        )
        crash += "        mark.touch()\n        os.kill(os.getpid(), 9)\n"
        evals.file("evals/conftest.py", crash)
        judge = Judge(evals, value=4)
        judge.start()
        run = home.dag_test({"shards": 2, "experiment": "e"}, log=judge.log)
        judge.join(60)
        assert run["state"] == "success", run["log"][-5000:]
        assert "applied 8, unchanged 0, still pending 0" in judge.said[0]
        assert sorted(run["tries"][f"collect/{i}"] for i in (0, 1)) == [1, 2]
        assert [run["xcoms"][f"collect/{i}"] for i in (0, 1)] == [{"shard": f"{i}/2", "exit_code": 1} for i in (1, 2)]
        skipped = {t for t, state in run["tasks"].items() if state == "skipped"}
        assert skipped == {"judge", "approve"}
        assert len(evals.provider.requests) == 8, "a retried shard asks for nothing twice"
        runs = evals.runs("e")
        assert len(runs) == 8
        assert {r.data.tags["airflow.run_id"] for r in runs} == {run["run_id"]}
        compared = run["xcoms"]["compare"]
        assert compared["gates"] == {}
        (row,) = compared["leaderboards"][0]["rows"]
        assert (row["composite"], row["judged"], row["pending"]) == (12.0, 8, 0)
        papers = run["xcoms"]["export"]["mlflow_run"]
        assert papers == compared["mlflow_run"]
        kept = [p.relative_to(evals.root).as_posix() for p in evals.root.glob(f"mlartifacts/*/{papers}/artifacts/**/*")]
        assert {Path(p).name for p in kept} >= {"packet.json", "leaderboard.json", "leaderboard.html"}

    @pytest.mark.slow
    def test_a_regression_fails_the_run_and_an_empty_packet_waits_for_nobody(
        self, home: AirflowHome, evals: Evals
    ) -> None:
        for experiment, value in (("old", 5), ("new", 2)):
            evals.provider.reply = lambda body, e=experiment: f"{e} {body['messages'][-1]['content']}"
            assert evals.pytest("--bench-experiment", experiment, "--bench-no-cache").code == 0
            assert evals.pytest("--judge-export", "p.json", "--bench-experiment", experiment).code == 0
            evals.score("p.json", value=value)
            save = ["--bench-save"] if experiment == "old" else []
            assert "applied 8" in evals.pytest("--judge-apply", "p.json", *save).out
        run = home.dag_test({"experiment": "new", "baseline": "evals/baseline.json"})
        assert run["state"] == "failed"
        failed = {t for t, state in run["tasks"].items() if state == "failed"}
        assert failed == {"compare"}
        assert run["tries"]["compare"] == 1, "a regression is no reason to try again"
        assert "the gate against evals/baseline.json did not pass" in run["log"]
        assert "tip: fail" in run["log"]
        assert run["tasks"]["wait_for_verdicts"] == run["tasks"]["approve"] == "skipped"
        assert run["xcoms"]["export"]["pending"] == 0

    @pytest.mark.slow
    def test_two_suites_of_one_rubric_wait_for_both_packets_and_what_failed_is_not_generated_by_compare(
        self, home: AirflowHome, evals: Evals
    ) -> None:
        evals.second_suite()
        evals.provider.script("situation-3", Fault(status=400))
        judge = Judge(evals, value=4)
        judge.start()
        run = home.dag_test({"experiment": "two"}, log=judge.log)
        judge.join(60)
        assert run["state"] == "success", run["log"][-5000:]
        assert judge.said[-1].count("still pending 0") == 1
        exported = run["xcoms"]["export"]
        assert [Path(p).name for p in exported["packets"]] == ["packet-joke.json", "packet-tip.json"]
        assert (exported["pending"], sorted(g[0] for g in exported["groups"])) == (9, ["joke", "tip"])
        boards = {b["task"]: b["rows"][0] for b in run["xcoms"]["compare"]["leaderboards"]}
        assert {t: (r["judged"], r["pending"], r["failed"]) for t, r in boards.items()} == {
            "tip": (7, 0, 1), "joke": (2, 0, 0),
        }  # fmt: skip
        assert len(evals.provider.requests) == 10, "compare asks for nothing, not even for what had failed"

    @pytest.mark.slow
    def test_the_automatic_judge_scores_and_nobody_sits_down(self, installation: AirflowHome, tmp_path: Path) -> None:
        with ScriptedProvider(reply=reply) as provider:
            evals = project_in(tmp_path, provider)
            run = settled(installation, evals).dag_test({"judge": "auto", "experiment": "auto", "prompts": ["v1"]})
        assert run["state"] == "success", run["log"][-5000:]
        skipped = {t for t, state in run["tasks"].items() if state == "skipped"}
        assert skipped == {"export", "approve", "wait_for_verdicts"}
        (row,) = run["xcoms"]["compare"]["leaderboards"][0]["rows"]
        assert row["auto_composite"] is not None
        assert sum("judge" in r["model"] for r in provider.requests) == 3
        assert len(provider.requests) == 6, "collected once, judged once"

    @pytest.mark.slow
    def test_the_trigger_ends_when_its_time_is_up_and_when_mlflow_stays_away(
        self, installation: AirflowHome, evals: Evals
    ) -> None:
        assert evals.pytest("--bench-experiment", "t").code == 0
        group = list(evals.store.read("t")[0].group)
        uri = f"sqlite:///{evals.root}/mlflow.db"
        late = {"tracking_uri": uri, "artifact_root": None, "experiment": "t", "groups": [group], "poll_s": 0.01}
        far = time.time() + 600
        waits = [
            late | {"deadline": time.time() - 1},
            late | {"deadline": far, "groups": [["of nobody", group[1]]]},
            late | {"deadline": far, "left_out": [c.run_id for c in evals.store.read("t")]},
            late | {"deadline": far, "tracking_uri": f"sqlite:///{evals.root}/evals/tips.yaml"},
            late | {"deadline": far, "tracking_uri": None},
        ]
        found = installation.run("wait", waits=waits)
        timeout, judged, left_out, error, unset = found["events"]
        assert unset["status"] == "error"
        assert "MLFLOW_TRACKING_URI is not set on the triggerer's host" in unset["message"]
        assert timeout == {"status": "timeout", "pending": 8}
        assert judged == left_out == {"status": "judged"}
        assert error["status"] == "error"
        assert "tips.yaml" in error["message"]
        assert "poll failed, 9 of 10 in a row" in found["log"]
        assert "poll failed, 10 of 10 in a row" in found["log"]

    @pytest.mark.slow
    def test_nothing_selected_is_no_success(self, home: AirflowHome, evals: Evals) -> None:
        run = home.dag_test({"k": "no_such_cell", "shards": 2})
        assert run["state"] == "failed"
        assert [run["tasks"][f"collect/{i}"] for i in (0, 1)] == ["skipped", "skipped"]
        assert "no test was selected by this suite" in run["log"]
        assert evals.provider.requests == []

    @pytest.mark.slow
    def test_a_shard_that_somebody_marks_as_a_success_is_one(self, home: AirflowHome) -> None:
        run = home.dag_test({"shards": 2}, mark_success="(?!plan|collected).*")
        assert (run["state"], run["tasks"]["collected"], run["xcoms"]["collected"]) == ("success", "success", 2)

    @pytest.mark.slow
    def test_a_mistake_in_a_file_is_not_tried_again(self, home: AirflowHome, evals: Evals) -> None:
        evals.file("evals/tips.yaml", "task: tip\nrubric: no-such-rubric\nscenarios: [{id: a, vars: {situation: x}}]\n")
        run = home.dag_test({})
        assert run["state"] == "failed"
        assert (run["tasks"]["plan"], run["tries"]["plan"]) == ("failed", 1), run["tasks"]
        assert "pytest ended with 2, a mistake to mend" in run["log"]
        assert "no-such-rubric" in run["log"]

    @pytest.mark.slow
    def test_a_host_without_settings_says_which(self, installation: AirflowHome) -> None:
        run = installation.dag_test({})
        assert run["tasks"]["plan"] == "failed"
        assert "PROMPTBENCH_ROOT is not set on this host: the absolute path of the project" in run["log"]


@pytest.fixture(scope="class")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AirflowHome, Evals]]:
    assert AIRFLOW is not None
    folder = tmp_path_factory.mktemp("rest")
    root = folder / "project"
    root.mkdir()
    with ScriptedProvider() as provider, mlflow_server(folder, f"sqlite:///{folder}/mlflow.db") as uri:
        evals = Evals(root, provider, models=("haiku",), environ={"MLFLOW_TRACKING_URI": uri})
        evals.write()
        home = settled(AirflowHome(folder / "airflow", AIRFLOW), evals)
        home.root.mkdir()
        home.migrate()
        try:
            home.start()
            home.until_ready()
            yield home, evals
        finally:
            home.stop()


class TestOverRest:
    """One Airflow with its processes, one tracking server, one provider: everything over HTTP."""

    pytestmark = needs_all_of_airflow

    def test_two_shards_wait_deferred_for_verdicts_and_end_with_a_leaderboard(
        self, place: tuple[AirflowHome, Evals]
    ) -> None:
        home, evals = place
        started = time.monotonic()
        conf = {"shards": 2, "experiment": "over-rest", "prompts": ["v1"], "timeout": 30}
        assert home.trigger("verdicts-1", conf)[0] == 200
        assert home.trigger("verdicts-1", conf)[0] == 409, "a run id is an idempotency key"
        assert home.trigger("wrong", {"shards": 65})[0] == 400
        states = home.until("verdicts-1", "wait_for_verdicts", "deferred")
        waits = time.monotonic() - started
        assert states["collect/0"] == states["collect/1"] == "success"
        exported = home.xcom("verdicts-1", "export")
        assert exported["pending"] == 3
        packet = evals.root / "from-mlflow"
        command = [sys.executable, "-m", "mlflow", "artifacts", "download", "-u",
                   f"runs:/{exported['mlflow_run']}/packet.json", "-d", str(packet)]  # fmt: skip
        done = subprocess.run(command, env=evals.environment(), check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        evals.score("from-mlflow/packet.json")
        assert "applied 3, unchanged 0, still pending 0" in evals.pytest("--judge-apply", "from-mlflow/packet.json").out
        judged = time.monotonic()
        states = home.until("verdicts-1", "", "success")
        ends = time.monotonic() - judged
        assert states["approve"] == states["judge"] == "skipped"
        (board,) = home.xcom("verdicts-1", "compare")["leaderboards"]
        assert [(r["composite"], r["judged"], r["pending"]) for r in board["rows"]] == [(12.0, 3, 0)]
        memory = {name: memory_mb(process.pid) for name, process in home.processes.items()}
        print(f"waits after {waits:.0f} s, ends {ends:.0f} s after the verdicts; MB: {memory}")

    def test_a_person_approves_in_airflow(self, place: tuple[AirflowHome, Evals]) -> None:
        home, _ = place
        conf = {"experiment": "approved", "prompts": ["v2"], "k": "s0 or s1", "wait": "approval"}
        assert home.trigger("approval-1", conf)[0] == 200
        home.until("approval-1", "approve", "awaiting_input")
        # Airflow 3.3 fails a task that is answered before its scheduler has heard of the process that paused it.
        heard = re.compile(r"executor event with state success for task instance .*task_id='approve'")
        deadline = time.monotonic() + 30
        while not heard.search((home.root / "scheduler.log").read_text(errors="replace")):
            assert time.monotonic() < deadline, home.logs()
            time.sleep(0.2)
        base = "/api/v2/dags/bench_collect/dagRuns/approval-1"
        _, waiting = home.api("GET", f"{base}/hitlDetails?response_received=false")
        (detail,) = waiting["hitl_details"]
        assert "pytest --judge-apply" in detail["body"]
        assert home.xcom("approval-1", "export")["packets"][0] in detail["body"]
        answer = {"chosen_options": ["Approve"], "params_input": {}}
        path = f"{base}/taskInstances/approve/-1/hitlDetails"
        assert home.api("PATCH", path, answer)[0] == 200
        assert home.api("PATCH", path, answer)[0] == 409
        states = home.until("approval-1", "", "success")
        assert states["wait_for_verdicts"] == "skipped"

    def test_a_run_that_is_failed_ends_its_pytest(self, place: tuple[AirflowHome, Evals]) -> None:
        home, evals = place
        evals.provider.latency_s = 120
        try:
            assert home.trigger("killed-1", {"experiment": "killed"})[0] == 200
            deadline = time.monotonic() + 120
            while not any("--bench-experiment=killed" in c for c in children_of(evals.root)):
                assert time.monotonic() < deadline, home.states("killed-1")
                time.sleep(0.5)
            path = "/api/v2/dags/bench_collect/dagRuns/killed-1"
            assert home.api("PATCH", path, {"state": "failed"})[0] == 200
            deadline = time.monotonic() + 60
            while children_of(evals.root):
                assert time.monotonic() < deadline, children_of(evals.root)
                time.sleep(0.5)
        finally:
            evals.provider.latency_s = 0
