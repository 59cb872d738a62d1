"""--judge-queue and --judge-collect against a real ``mlflow server`` and its review queues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .project import Project
from .provider import ScriptedProvider
from .test_server import server

__all__ = ["server"]
SCRIPT = """
import json, sys
import mlflow
from mlflow.entities import AssessmentSource
from mlflow.genai import review_queues
uri, experiment, answers = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
mlflow.set_tracking_uri(uri)
found = mlflow.get_experiment_by_name(experiment).experiment_id
(queue,) = review_queues.list_review_queues(experiment_id=found)
items = sorted(review_queues.list_review_queue_items(queue.queue_id), key=lambda i: i.item_id)
for item, given in zip(items, answers):
    for name, value in given.items():
        mlflow.log_feedback(
            trace_id=item.item_id, name=name, value=value, rationale="seen",
            source=AssessmentSource(source_type="HUMAN", source_id="ann"),
        )
    review_queues.set_review_queue_item_status(
        queue.queue_id, item_id=item.item_id, status="complete", completed_by="ann"
    )
traces = [mlflow.get_trace(i.item_id) for i in items]
print(json.dumps([[t.data.spans[0].inputs, t.data.spans[0].outputs, dict(t.info.tags)] for t in traces], default=str))
"""


def review(project: Project, uri: str, experiment: str, answers: list[dict[str, Any]]) -> list[Any]:
    """Answer as a person would in MLflow's pages: feedback on the trace, then the item is complete."""
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, uri, experiment, json.dumps(answers)],
        env=project.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_people_review_in_mlflows_own_pages(tmp_path: Path, server: str) -> None:
    with ScriptedProvider() as provider:
        project = Project(
            tmp_path, provider, models=("haiku",), prompts=("v1",), scenarios=3, environ={"MLFLOW_TRACKING_URI": server}
        ).write()
        named = ("--bench-experiment", "review")
        assert project.pytest(*named).code == 0
        filled = project.pytest("--judge-queue", "round 1", *named)
        assert filled.code == 0, filled.text
        assert "3 pending candidates of review are in MLflow's review queue round 1" in filled.out
        again = project.pytest("--judge-queue", "round 1", *named)
        assert again.code == 0, again.text

        good = {"relevance": "4", "actionability": "5", "tone": "3", "format_ok": True}
        partly = {"relevance": "4"}
        seen = review(project, server, "review", [good, partly])
        assert len(seen) == 3  # filling twice put nothing in twice
        for inputs, output, tags in seen:
            assert set(inputs) == {"situation", "rubric"}
            assert isinstance(output, str)
            assert "haiku" not in json.dumps([inputs, tags])
            assert "be v1" not in json.dumps([inputs, tags])

        collected = project.pytest("--judge-collect", "round 1", *named)
        assert collected.code == 0, collected.text
        assert "applied 1, unchanged 0, still pending 2 (1 of them in round 1)" in collected.out
        assert "was completed without actionability, tone, format_ok; left pending" in collected.out
        (run,) = [r for r in project.runs("review") if r.data.tags["judge_pending"] == "false"]
        assert run.data.tags["judge_kind"] == "human"
        assert run.data.tags["judged_by"] == "ann"
        assert run.data.metrics["composite"] == 12
        again = project.pytest("--judge-collect", "round 1", *named)
        assert "applied 0, unchanged 1, still pending 2" in again.out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--judge-collect", "nowhere"], "--judge-collect nowhere: review has no review queue of this name"),
        (["--judge-queue", "q", "--judge-collect", "q"], "--judge-queue and --judge-collect are two steps"),
        (["--judge-reveal"], "give it together with --judge-export PATH or --judge-queue NAME"),
    ],
)
def test_mistakes(tmp_path: Path, server: str, args: list[str], message: str) -> None:
    with ScriptedProvider() as provider:
        project = Project(
            tmp_path, provider, models=("haiku",), prompts=("v1",), scenarios=1, environ={"MLFLOW_TRACKING_URI": server}
        ).write()
        assert project.pytest("--bench-experiment", "review").code == 0
        result = project.pytest(*args, "--bench-experiment", "review")
        assert result.code == 4, result.text
        assert message in result.text
