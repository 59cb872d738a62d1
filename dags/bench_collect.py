"""The DAG ``bench_collect``: collect -> judge -> export -> wait for the judge -> compare. On demand only.

docs/airflow.md says how it is installed, configured and run.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

from pytest_promptbench.airflow.operators import (
    CollectOperator,
    CompareOperator,
    ExportOperator,
    JudgedApproval,
    JudgeOperator,
    VerdictsOperator,
    look,
    project_here,
    request_of,
)
from pytest_promptbench.airflow.request import DAG_ID, PARAMS, unknown_keys
from pytest_promptbench.errors import UsageError

RETRIES: dict[str, Any] = {
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
    "retry_exponential_backoff": 2,
    "max_retry_delay": timedelta(minutes=10),
}

with DAG(
    dag_id=DAG_ID,
    description="LLM evals: generate every cell, have it judged, compare with the baseline",
    schedule=None,
    catchup=False,
    render_template_as_native_obj=False,
    default_args=RETRIES,  # of every task: a mistake is an AirflowFailException, which none repeats
    params={
        name: Param(schema["default"], **{k: v for k, v in schema.items() if k != "default"})
        for name, schema in PARAMS.items()
    },
    tags=["promptbench"],
    doc_md=__doc__,
):

    @task(execution_timeout=timedelta(hours=1))
    def plan() -> list[str]:
        """Refuse what cannot run before anything is paid for; the names of the shards."""
        context = get_current_context()
        unknown = unknown_keys(context["dag_run"].conf)
        if unknown:
            raise AirflowFailException(
                f"unknown keys in the configuration: {', '.join(unknown)}; known: {', '.join(PARAMS)}"
            )
        here = project_here()
        try:
            request = here.prepared(request_of(context))
        except UsageError as error:
            raise AirflowFailException(str(error)) from None
        look(request, here)
        return request.shard_names()

    @task(trigger_rule="none_failed")
    def collected() -> int:
        """How many shards had cells; none at all is a mistake in the selection, not a success.

        By their states, not their XComs: one that somebody marked as a success has none.
        """
        ti = get_current_context()["ti"]
        shards: int = ti.get_ti_count(ti.dag_id, task_ids=["collect"], run_ids=[ti.run_id], states=["success"])
        if not shards:
            raise AirflowFailException("no test was selected by this suite, these models, prompts and -k expression")
        return shards

    @task.branch(trigger_rule="none_failed")
    def how_to_wait() -> str:
        """Straight on where nobody sits down or nothing is left to judge."""
        context = get_current_context()
        exported = context["ti"].xcom_pull(task_ids="export")
        if not exported or not exported["pending"]:
            return "compare"
        return {"verdicts": "wait_for_verdicts", "approval": "approve"}[request_of(context).wait]

    collect = CollectOperator.partial(
        task_id="collect",
        map_index_template="shard {{ task.shard }}",
        execution_timeout=timedelta(hours=12),
    ).expand(shard=plan())
    judge = JudgeOperator(task_id="judge", execution_timeout=timedelta(hours=12))
    export = ExportOperator(task_id="export", trigger_rule="none_failed", execution_timeout=timedelta(hours=1))
    choice = how_to_wait()
    verdicts = VerdictsOperator(task_id="wait_for_verdicts", export_task_id="export")
    approve = JudgedApproval(
        task_id="approve",
        subject="bench_collect: is everything judged?",
        body="""The packets of this run wait for their judge.

* In the project: `{{ ti.xcom_pull(task_ids="export")["packets"] | join("`, `") }}`
* In MLflow: artifacts of run `{{ ti.xcom_pull(task_ids="export")["mlflow_run"] }}`

{{ ti.xcom_pull(task_ids="export")["pending"] }} candidates. Apply each with `pytest --judge-apply`, then approve:
the run goes on to the leaderboard and the gate. Reject, and the run fails.""",
        fail_on_reject=True,
        retries=0,
    )
    compare = CompareOperator(
        task_id="compare",
        trigger_rule="none_failed_min_one_success",
        execution_timeout=timedelta(hours=12),
    )
    collect >> collected() >> judge >> export >> choice >> [verdicts, approve, compare]
    [verdicts, approve] >> compare
