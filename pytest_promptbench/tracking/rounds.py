"""A prompt loop in MLflow: a parent run with the plan, a nested run a round, and the results as their artifacts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..settings import TAG_LIMIT
from .address import translated
from .artifacts import as_file
from .entry import storable
from .store import TrackingStore
from .tables import Run

LOOP = "promptbench.optimize"
"""On the parent run: the loop's id."""
ROUND = "promptbench.optimize.round"
STATE = "promptbench.optimize.state"
TASK = "promptbench.optimize.task"
SPLIT = "promptbench.optimize.split"
"""The id of the loop that drew the train and test scenarios which this one uses."""
TESTED = "promptbench.optimize.tested"
"""``true`` once the loop has looked at its test scenarios."""
PLAN_FILE = "plan.json"
ROUND_FILE = "round.json"
DECISION_FILE = "decision.json"
COST = "cost_usd"
SEARCHED = "searched_within_usd"
"""The limit on cost within which the search has come to its end."""
LOOKS = "looks_before"
"""How many other loops had looked at the test scenarios when this one did."""


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A loop that was begun some time. ``tested``: whether it has looked at its test scenarios."""

    loop: str
    split: str
    tested: bool
    plan: Mapping[str, Any]


class Rounds:
    """One loop's runs. TrackingError where MLflow cannot be reached or refuses."""

    def __init__(self, store: TrackingStore, experiment: str, run_id: str) -> None:
        self._store, self.experiment, self.run_id = store, experiment, run_id
        self._runs: dict[int, str] = {}
        self._data: dict[int, dict[str, Any]] = {}
        self._decisions: dict[int, dict[str, Any]] = {}
        self._ended: set[int] = set()
        experiment_id = store.experiment(experiment)
        assert experiment_id is not None
        self._experiment_id = experiment_id

    @classmethod
    def create(
        cls, store: TrackingStore, experiment: str, loop: str, plan: Mapping[str, Any], *, split: str = ""
    ) -> Rounds:
        """Begin a loop: its experiment, its parent run, its plan."""
        experiment_id = store.experiment(experiment, create=True)
        tags = {LOOP: loop, STATE: "running", TASK: storable(str(plan.get("task", "")))[:TAG_LIMIT], SPLIT: split}
        with translated(store.uri):
            run = store.client.create_run(experiment_id, run_name=f"optimize {loop}", tags=tags)
            rounds = cls(store, experiment, str(run.info.run_id))
            rounds._keep(rounds.run_id, PLAN_FILE, plan)
        return rounds

    @classmethod
    def find(cls, store: TrackingStore, loop: str) -> Rounds:
        """The loop of this id; ``load`` brings what it kept of its rounds. UsageError where there is none."""
        loops = _parents(store)
        found = next(((name, run) for name, run in loops if run.tags[LOOP] == loop), None)
        if found is None:
            there = ", ".join(sorted({run.tags[LOOP] for _, run in loops})[:10]) or "none"
            raise UsageError(f"--resume {loop}: MLflow has no such loop; there are: {there}")
        name, run = found
        return cls(store, name, run.run_id)

    @classmethod
    def begun(cls, store: TrackingStore, task: str) -> list[Begun]:
        """The loops of a task, the newest first; those that ended before they had a plan are left out."""
        loops = []
        for name, run in _parents(store):
            tags = run.tags
            if tags.get(TASK) != storable(task)[:TAG_LIMIT]:
                continue
            one = cls(store, name, run.run_id)
            with translated(store.uri):
                plan = one._read(run.run_id, PLAN_FILE)
            if isinstance(plan, Mapping):
                loop = tags[LOOP]
                loops.append(Begun(loop=loop, split=_split(tags), tested=tags.get(TESTED) == "true", plan=plan))
        return loops

    def load(self) -> None:
        """Read what earlier processes kept of the loop's rounds."""
        with translated(self._store.uri):
            for run in self._store.runs.find([self._experiment_id], {ROUND: None}):
                if run.tags.get("mlflow.parentRunId") == self.run_id:
                    number = int(run.tags[ROUND])
                    self._runs[number] = run.run_id
                    for file, known in ((ROUND_FILE, self._data), (DECISION_FILE, self._decisions)):
                        data = self._read(run.run_id, file)
                        if data is not None:
                            known[number] = data
                    if run.status == "FINISHED":
                        self._ended.add(number)

    def _read(self, run_id: str, file: str) -> Any:
        """An artifact as JSON; None where it was not written, or not to its end, before a crash."""
        artifacts = self._store.artifacts
        if not artifacts.has(self.experiment, run_id, file):
            return None
        try:
            return json.loads(artifacts.text(self.experiment, run_id, file))
        except json.JSONDecodeError:
            return None

    def _keep(self, run_id: str, file: str, data: Mapping[str, Any]) -> None:
        self._store.artifacts.keep(self.experiment, run_id, {file: as_file(dict(data))})

    def plan(self) -> Any:
        """As it was kept, whatever that is. UsageError where there is none."""
        with translated(self._store.uri):
            plan = self._read(self.run_id, PLAN_FILE)
        if plan is None:
            raise UsageError(f"the loop {self.run_id} in {self.experiment} was ended before it had a plan: begin anew")
        return plan

    def proposal(self, number: int) -> dict[str, Any] | None:
        """What ``keep`` was given for a round, in this process or in an earlier one."""
        return self._data.get(number)

    def decision(self, number: int) -> dict[str, Any] | None:
        """What ``close`` was given for a round, in this process or in an earlier one."""
        return self._decisions.get(number)

    def keep(self, number: int, name: str, proposal: Mapping[str, Any]) -> None:
        """Remember a round's proposal for good."""
        with translated(self._store.uri):
            self._keep(self._run(number, name), ROUND_FILE, proposal)
        self._data[number] = dict(proposal)

    def _run(self, number: int, name: str) -> str:
        if number not in self._runs:
            tags = {"mlflow.parentRunId": self.run_id, ROUND: str(number)}
            run = self._store.client.create_run(self._experiment_id, run_name=storable(name)[:250], tags=tags)
            self._runs[number] = str(run.info.run_id)
        return self._runs[number]

    def close(
        self,
        number: int,
        name: str,
        decision: Mapping[str, Any],
        *,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> None:
        """End a round with what was decided, for good, and its figures. Doing so again changes nothing."""
        from mlflow.entities import Metric, RunTag

        if number in self._ended:
            return
        client = self._store.client
        with translated(self._store.uri):
            run_id = self._run(number, name)
            if number not in self._decisions:
                self._keep(run_id, DECISION_FILE, decision)
                self._decisions[number] = dict(decision)
            client.log_batch(
                run_id,
                metrics=[Metric(k, v, 0, number) for k, v in metrics.items()],
                tags=[RunTag(k, storable(v)[:TAG_LIMIT]) for k, v in tags.items()],
            )
            client.set_terminated(run_id)
        self._ended.add(number)

    # -- the parent

    def spent(self) -> float:
        """US dollars, as the loop wrote them last, on whatever machine."""
        return self._metric(COST) or 0.0

    def searched_within(self) -> float | None:
        """The limit, in US dollars, of the search that came to an end; None where none has, or without a limit."""
        return self._metric(SEARCHED)

    def looks_before(self) -> int | None:
        """How many loops had looked at the test scenarios before this one; None where it has not looked yet."""
        found = self._metric(LOOKS)
        return None if found is None else int(found)

    def open_test(self, *, within: float | None = None) -> None:
        """The search is over, within that limit on cost, and the test scenarios are looked at from now on.

        Others may have looked since this loop began: who did before is counted now, and the first time alone.
        """
        loops = [run for _, run in _parents(self._store)]
        mine = next(run.tags for run in loops if run.run_id == self.run_id)
        looks = {}
        if mine.get(TESTED) != "true":
            others = [r.tags for r in loops if r.run_id != self.run_id and r.tags.get(TESTED) == "true"]
            looks = {LOOKS: float(sum(_split(tags) == _split(mine) for tags in others))}
        self.note(tested=True, metrics={**looks, **({} if within is None else {SEARCHED: within})})

    def _metric(self, name: str) -> float | None:
        with translated(self._store.uri):
            value = self._store.client.get_run(self.run_id).data.metrics.get(name)
        return None if value is None else float(value)

    def state(self) -> str:
        """Where the loop was when it last said so."""
        with translated(self._store.uri):
            return str(self._store.client.get_run(self.run_id).data.tags.get(STATE, ""))

    def note(
        self,
        *,
        state: str | None = None,
        tested: bool = False,
        metrics: Mapping[str, float] | None = None,
        step: int = 0,
    ) -> None:
        """Figures and the state of the whole loop: running, waiting, stopped, or what it came to."""
        from mlflow.entities import Metric, RunTag

        tags = {**({STATE: state} if state else {}), **({TESTED: "true"} if tested else {})}
        with translated(self._store.uri):
            self._store.client.log_batch(
                self.run_id,
                metrics=[Metric(k, v, 0, step) for k, v in (metrics or {}).items()],
                tags=[RunTag(k, v) for k, v in tags.items()],
            )

    def kept(self, file: str) -> Any:
        """An artifact of the parent run as JSON; None where there is none."""
        with translated(self._store.uri):
            return self._read(self.run_id, file)

    def attach(self, files: Iterable[Path]) -> None:
        """Keep files as artifacts of the parent run."""
        contents = {f.name: f.read_bytes() for f in files}
        with translated(self._store.uri):
            self._store.artifacts.keep(self.experiment, self.run_id, contents)

    def end(self) -> None:
        with translated(self._store.uri):
            self._store.client.set_terminated(self.run_id)


def _split(tags: Mapping[str, str]) -> str:
    return tags.get(SPLIT) or tags[LOOP]


def _parents(store: TrackingStore) -> list[tuple[str, Run]]:
    """The loops' parent runs, the newest first, each with the name of its experiment."""
    names = {i: n for n in store.experiments() if (i := store.experiment(n))}
    if not names:
        return []
    with translated(store.uri):
        return [(names[run.experiment_id], run) for run in store.runs.find(list(names), {LOOP: None})]
