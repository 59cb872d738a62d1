"""The DAG's tasks: pytest in the project's own interpreter, and the two ways to wait for a judge."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from ..errors import PromptbenchError
from ..report.text import plural
from .filing import file_papers
from .process import Ending, Finished, PytestProcess
from .request import SETTINGS, Project, Request, project
from .triggers import VerdictsTrigger, setting
from .waiting import cleared, exported, pending, still_pending

POLL_S = 15.0
_LOG = logging.getLogger(__name__)

Context = Mapping[str, Any]


def request_of(context: Context) -> Request:
    """What this run of the DAG was asked for; the same in each of its tasks."""
    day: datetime = context["dag_run"].run_after
    return Request.of(context["params"], run_id=context["run_id"], day=day.astimezone(UTC).date().isoformat())


def project_here() -> Project:
    """The project as this host's settings have it."""
    try:
        return project({name: setting(name) for name in SETTINGS})
    except PromptbenchError as error:
        raise AirflowFailException(str(error)) from None


def look(request: Request, here: Project) -> None:
    """Have pytest read what the run is to be done with. AirflowFailException for a mistake that would end it later."""
    done = _pytest(here, request.look()).run(lambda line: _LOG.info("%s", line))
    if done.ending is Ending.MISTAKE:
        raise AirflowFailException(f"pytest ended with {done.code}, a mistake to mend:\n{done.last_words}")


def _pytest(here: Project, arguments: Sequence[str], account: str | None = None) -> PytestProcess:
    command = here.command(arguments)
    _LOG.info("In %s: %s", here.root, shlex.join(command))
    return PytestProcess(command, cwd=here.root, env=here.environment(os.environ, account=account))


class PytestOperator(BaseOperator):
    """One pytest process of this run. Subclasses say which, and what its end means.

    Exit codes 0 and 1 are results; 2 to 4 fail the task at once, as a retry would meet the same mistake; what a session
    could not log or have judged, and every other code, fails it so that Airflow tries again. All answers that were paid
    for are cached by then.
    """

    _process: PytestProcess | None = None

    def arguments(self, request: Request) -> list[str]:
        raise NotImplementedError

    def account(self, request: Request) -> str:
        """What the tries of this task have in common: together they spend no more than one of them may."""
        return f"{request.run_id}/{self.task_id}"

    def unneeded(self, request: Request) -> str | None:
        """Why this run skips the task, if it does."""
        return None

    def conclude(self, done: Finished, request: Request, here: Project) -> dict[str, Any]:
        """What goes to XCom."""
        return {"exit_code": done.code}

    def empty(self, request: Request) -> NoReturn:
        """What to raise where no test was selected."""
        raise AirflowFailException(f"no test was selected in {request.suite}")

    def execute(self, context: Context) -> dict[str, Any]:
        request = request_of(context)
        reason = self.unneeded(request)
        if reason is not None:
            raise AirflowSkipException(reason)
        here = project_here()
        try:
            request = here.prepared(request)
            done = self._run(request, here)
            return self.conclude(done, request, here)
        except PromptbenchError as error:
            raise AirflowException(str(error)) from error

    def _run(self, request: Request, here: Project) -> Finished:
        self._process = _pytest(here, self.arguments(request), self.account(request))
        done = self._process.run(lambda line: self.log.info("%s", line))
        self.log.info("pytest ended with %d", done.code)
        match done.ending:
            case Ending.EMPTY:
                self.empty(request)
            case Ending.MISTAKE:
                raise AirflowFailException(f"pytest ended with {done.code}, a mistake to mend:\n{done.last_words}")
            case Ending.CRASH:
                raise AirflowException(f"pytest ended with {done.code}:\n{done.last_words}")
        return done

    def on_kill(self) -> None:
        if self._process is not None:
            self._process.end()


class CollectOperator(PytestOperator):
    """Generates and logs one shard. A failing assertion is a result; an empty shard is skipped."""

    def __init__(self, *, shard: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shard = shard

    def arguments(self, request: Request) -> list[str]:
        return request.collect(self.shard)

    def account(self, request: Request) -> str:
        return f"{super().account(request)}/{self.shard}"

    def empty(self, request: Request) -> NoReturn:
        raise AirflowSkipException(f"shard {self.shard} is empty")

    def conclude(self, done: Finished, request: Request, here: Project) -> dict[str, Any]:
        return {"shard": self.shard, "exit_code": done.code}


class JudgeOperator(PytestOperator):
    """Has the suite's automatic judge score what is logged and it has not scored. No cell is generated."""

    def unneeded(self, request: Request) -> str | None:
        return None if request.automatic else "judge is sit-down: no automatic judge was asked for"

    def arguments(self, request: Request) -> list[str]:
        return request.judge_automatically()


class ExportOperator(PytestOperator):
    """Writes the judge packets, in the project and as MLflow artifacts: the judge may sit at another host.

    XCom: how many items are ``pending`` in them; the ``packets`` in the project; ``mlflow_run`` that has them as
    artifacts; ``groups``: the task and the rubric's hash of each group of candidates that they hold; ``left_out``: runs
    of these groups that nobody is to wait for.
    """

    def unneeded(self, request: Request) -> str | None:
        return None if request.sits_down else "judge is auto: nobody sits down"

    def arguments(self, request: Request) -> list[str]:
        return request.export()

    def _run(self, request: Request, here: Project) -> Finished:
        # A task that is tried again, or cleared while a person had the packet.
        for kept in cleared((here.root / request.packet).parent):
            self.log.warning(
                "A packet of an earlier export may hold scores and is kept as %s; apply it, if it holds scores not yet "
                "applied",
                kept.relative_to(here.root),
            )
        return super()._run(request, here)

    def conclude(self, done: Finished, request: Request, here: Project) -> dict[str, Any]:
        found = exported(here.store(), request.experiment, (here.root / request.packet).parent)
        return {
            "pending": found.items,
            "packets": [p.relative_to(here.root).as_posix() for p in found.packets],
            "mlflow_run": file_papers(here, request, found.packets),
            "groups": [list(g) for g in found.groups],
            "left_out": list(found.left_out),
        }


class CompareOperator(PytestOperator):
    """Writes leaderboard and gate, in the project and as MLflow artifacts, and fails the run where the gate does.

    Both are of what is logged: no test runs and no provider is asked. XCom: ``gates`` (task -> outcome),
    ``leaderboards`` (as leaderboard.json has them), ``report`` in the project, ``mlflow_run``.
    """

    def arguments(self, request: Request) -> list[str]:
        return request.compare()

    def _run(self, request: Request, here: Project) -> Finished:
        # A gate of an earlier try must not pass for this one's.
        shutil.rmtree(here.root / request.folder / "report", ignore_errors=True)
        return super()._run(request, here)

    def conclude(self, done: Finished, request: Request, here: Project) -> dict[str, Any]:
        folder = here.root / request.folder / "report"
        boards = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.rglob("leaderboard.json"))]
        gates = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.rglob("gate.json"))]
        mlflow_run = file_papers(here, request, sorted(folder.iterdir()), folder="report")
        if not boards:
            raise AirflowFailException(f"pytest wrote no leaderboard to {folder}")
        if request.baseline and len(gates) != len(boards):
            raise AirflowFailException(f"{len(boards)} leaderboards, but {len(gates)} gates in {folder}")
        failed = [g for g in gates if g["exit_code"] != 0]
        if failed:
            reasons = "\n".join(f"{g['task']}: {g['outcome']}\n  " + "\n  ".join(g["reasons"]) for g in failed)
            raise AirflowFailException(f"the gate against {request.baseline} did not pass:\n{reasons}")
        return {
            "gates": {g["task"]: g["outcome"] for g in gates},
            "leaderboards": boards,
            "report": f"{request.folder}/report",
            "mlflow_run": mlflow_run,
        }


class VerdictsOperator(BaseOperator):
    """Waits, without a worker slot, until no candidate that the packets offered is pending any more.

    It waits for the experiment's candidates of the packets' groups, whichever run of the DAG wrote them: that is what
    the packets hold. ``export_task_id``: whose XCom tells the groups and what is left out.
    """

    def __init__(self, *, export_task_id: str, poll_s: float = POLL_S, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.export_task_id, self.poll_s = export_task_id, poll_s

    def execute(self, context: Context) -> None:
        request, here = request_of(context), project_here()
        found = context["ti"].xcom_pull(task_ids=self.export_task_id)
        groups, left_out = found["groups"], found.get("left_out", [])
        try:
            if pending(here.store(), request.experiment, groups, left_out) == 0:
                return
        except PromptbenchError as error:
            raise AirflowException(str(error)) from error
        self.defer(
            trigger=VerdictsTrigger(
                tracking_uri=here.keepable_uri,
                artifact_root=None if here.artifact_root is None else str(here.artifact_root),
                experiment=request.experiment,
                groups=[list(g) for g in groups],
                deadline=time.time() + request.timeout * 60,
                poll_s=self.poll_s,
                left_out=left_out,
            ),
            method_name="resume",
        )

    def resume(self, context: Context, event: Mapping[str, Any]) -> None:
        """Whatever the trigger ended with."""
        minutes = request_of(context).timeout
        match event["status"]:
            case "judged":
                return
            case "timeout":
                left = still_pending(event["pending"])
                raise AirflowFailException(
                    f"{left} after {plural(minutes, 'minute')}. Apply the packet, then clear this task: the run goes "
                    "on from here"
                )
            case _:
                raise AirflowFailException(
                    f"MLflow could not be asked: {event['message']}. Clear this task once it is back: the run goes on "
                    f"from here"
                )


class JudgedApproval(ApprovalOperator):
    """Airflow's own page for a person who approves; rejecting fails the run. The DAG's ``timeout`` bounds the wait."""

    def execute(self, context: Context) -> Any:
        self.response_timeout = timedelta(minutes=request_of(context).timeout)
        return super().execute(context)
