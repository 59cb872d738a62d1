"""A prompt loop in MLflow: a parent run with the plan, a nested run a round, and the results as their artifacts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .entry import TAG_LIMIT, storable
from .store import TrackingStore, translated

LOOP = "promptbench.optimize"
"""On the parent run: the loop's id."""
ROUND = "promptbench.optimize.round"
STATE = "promptbench.optimize.state"
PLAN_FILE = "plan.json"
ROUND_FILE = "round.json"
COST = "cost_usd"


class Rounds:
    """One loop's runs. TrackingError where MLflow cannot be reached or refuses."""

    def __init__(self, store: TrackingStore, experiment: str, run_id: str) -> None:
        self._store, self.experiment, self.run_id = store, experiment, run_id
        self._runs: dict[int, str] = {}
        self._data: dict[int, dict[str, Any]] = {}
        experiment_id = store.experiment(experiment)
        assert experiment_id is not None
        self._experiment_id = experiment_id

    @classmethod
    def create(cls, store: TrackingStore, experiment: str, loop: str, plan: Mapping[str, Any]) -> Rounds:
        """Begin a loop: its experiment, its parent run, its plan."""
        experiment_id = store.experiment(experiment, create=True)
        with translated(store.uri):
            run = store.client.create_run(
                experiment_id, run_name=f"optimize {loop}", tags={LOOP: loop, STATE: "running"}
            )
            store.client.log_dict(run.info.run_id, dict(plan), PLAN_FILE)
        return cls(store, experiment, str(run.info.run_id))

    @classmethod
    def find(cls, store: TrackingStore, loop: str) -> Rounds:
        """The loop of this id, with all that it kept. UsageError where there is none."""
        names = store.experiments()
        ids = {store.experiment(n): n for n in names}
        with translated(store.uri):
            found = store.client.search_runs([i for i in ids if i], filter_string=f"tags.`{LOOP}` = '{loop}'")
            if not found:
                known = store.client.search_runs([i for i in ids if i], filter_string=f"tags.`{LOOP}` != ''")
        if not found:
            there = ", ".join(sorted({r.data.tags[LOOP] for r in known})[:10]) or "none"
            raise UsageError(f"--resume {loop}: MLflow has no such loop; there are: {there}")
        rounds = cls(store, ids[found[0].info.experiment_id], str(found[0].info.run_id))
        rounds._load()
        return rounds

    def _load(self) -> None:
        with translated(self._store.uri):
            token = None
            while True:
                page = self._store.client.search_runs(
                    [self._experiment_id], filter_string=f"tags.`{ROUND}` != ''", page_token=token
                )
                for run in page:
                    if run.data.tags.get("mlflow.parentRunId") == self.run_id:
                        number = int(run.data.tags[ROUND])
                        self._runs[number] = str(run.info.run_id)
                        data = self._read(run.info.run_id, ROUND_FILE)
                        if data is not None:
                            self._data[number] = data
                token = page.token
                if not token:
                    return

    def _read(self, run_id: str, file: str) -> Any:
        """An artifact as JSON; None where it was not written before a crash."""
        client = self._store.client
        if file not in {a.path for a in client.list_artifacts(run_id)}:
            return None
        text = Path(client.download_artifacts(run_id, file)).read_text(encoding="utf-8")
        return json.loads(text)

    def plan(self) -> dict[str, Any]:
        with translated(self._store.uri):
            plan = self._read(self.run_id, PLAN_FILE)
        if plan is None:
            raise UsageError(f"the loop {self.run_id} in {self.experiment} was ended before it had a plan: begin anew")
        return dict(plan)

    def proposal(self, number: int) -> dict[str, Any] | None:
        """What ``keep`` was given for a round, in this process or in an earlier one."""
        return self._data.get(number)

    def keep(self, number: int, name: str, proposal: Mapping[str, Any]) -> None:
        """Remember a round's proposal for good."""
        client = self._store.client
        with translated(self._store.uri):
            if number not in self._runs:
                tags = {"mlflow.parentRunId": self.run_id, ROUND: str(number)}
                run = client.create_run(self._experiment_id, run_name=storable(name)[:250], tags=tags)
                self._runs[number] = str(run.info.run_id)
            client.log_dict(self._runs[number], dict(proposal), ROUND_FILE)
        self._data[number] = dict(proposal)

    def close(self, number: int, *, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """End a round with its figures. Doing so again changes nothing."""
        from mlflow.entities import Metric, RunTag

        client, run_id = self._store.client, self._runs[number]
        with translated(self._store.uri):
            if client.get_run(run_id).info.status == "FINISHED":
                return
            client.log_batch(
                run_id,
                metrics=[Metric(k, v, 0, number) for k, v in metrics.items()],
                tags=[RunTag(k, storable(v)[:TAG_LIMIT]) for k, v in tags.items()],
            )
            client.set_terminated(run_id)

    # -- the parent

    def spent(self) -> float:
        """US dollars, as the loop wrote them last, on whatever machine."""
        with translated(self._store.uri):
            return float(self._store.client.get_run(self.run_id).data.metrics.get(COST, 0.0))

    def note(self, *, state: str | None = None, metrics: Mapping[str, float] | None = None, step: int = 0) -> None:
        """Figures and the state of the whole loop: running, waiting, done."""
        from mlflow.entities import Metric, RunTag

        with translated(self._store.uri):
            self._store.client.log_batch(
                self.run_id,
                metrics=[Metric(k, v, 0, step) for k, v in (metrics or {}).items()],
                tags=[RunTag(STATE, state)] if state else [],
            )

    def attach(self, files: Iterable[Path]) -> None:
        """Keep files as artifacts of the parent run."""
        with translated(self._store.uri):
            for file in files:
                self._store.client.log_artifact(self.run_id, str(file))

    def end(self) -> None:
        with translated(self._store.uri):
            self._store.client.set_terminated(self.run_id)
