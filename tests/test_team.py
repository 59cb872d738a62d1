"""docs/deploy.md, "The whole path, once": its start, its run and its end, with the commands as they stand there."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from pytest_promptbench.localmodels import installed

from .team import Memory, Team, alive, commands, missing

LACKING = missing() or installed("embedded/smollm2-135m")
pytestmark = [
    pytest.mark.airflow,
    pytest.mark.slow,
    pytest.mark.embedded,
    pytest.mark.skipif(LACKING is not None, reason=f"the team's whole path was NOT tried: {LACKING}"),
]
STAGES = (
    "request",
    "until it waits for the judge",
    "packet",
    "scoring",
    "verdicts",
    "until it has ended",
    "leaderboard",
)


def test_the_path_of_the_docs_from_nothing_to_a_leaderboard(tmp_path: Path) -> None:
    began = time.monotonic()
    team = Team(tmp_path / "team")
    with team, Memory(team.pids) as memory:
        up = time.monotonic() - began
        idle = memory.now()
        settings = team.settings()
        address, token = settings["API"].removesuffix("/api"), settings["AUTH"].removeprefix("Authorization: ")
        client = httpx.Client(base_url=address, headers={"Authorization": token}, timeout=30, trust_env=False)
        assert client.get("/api/health").json()["airflow"] is True
        assert httpx.get(f"{address}/api/bench/experiments", trust_env=False).status_code == 401

        here = team.checkout
        blocks = commands("A run, from the request to the leaderboard")
        assert len(blocks) == len(STAGES)
        script = "".join(f"date +%s.%N >> times\n{block}\n" for block in blocks) + "date +%s.%N >> times\n"
        environ = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=here, env=environ, capture_output=True, text=True,
            timeout=900, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]

        # What was asked for arrived in Airflow, in two shards, and it waited for the judge.
        waiting = json.loads((here / "waiting.json").read_text())
        assert (waiting["where"], waiting["state"], waiting["request"]["shards"]) == ("airflow", "running", 2)
        tasks = {t["task"]: t["state"] for t in waiting["tasks"]}
        assert tasks["collect[0]"] == tasks["collect[1]"] == tasks["export"] == "success", tasks
        assert tasks["judge"] == "skipped"
        assert tasks["wait_for_verdicts"] == "deferred"

        assert '"applied": 6, "unchanged": 0, "pending": 0' in done.stdout, done.stdout
        ended = json.loads((here / "ended.json").read_text())
        assert ended["state"] == "success", ended
        assert {t["state"] for t in ended["tasks"]} <= {"success", "skipped"}
        assert ended["log"], "Airflow's log comes through"
        assert client.get(f"/api/bench/run/{ended['id']}").json()["tasks"] == ended["tasks"]

        # Each candidate exactly once, by both shards together.
        page = client.get("/api/bench/runs/whole-path").json()
        cells = Counter((r["model"], r["prompt"], r["scenario"]) for r in page["runs"])
        assert (len(cells), set(cells.values()), page["matching"]) == (6, {1}, 6)
        assert not any(r["judge_pending"] or r["error"] for r in page["runs"])

        board = json.loads((here / "leaderboard.json").read_text())
        assert board == client.get("/api/bench/leaderboard/whole-path").json()
        rows = {(r["model"], r["prompt"]): r for r in board["rows"]}
        assert set(rows) == {("smollm2-focused", "v1"), ("smollm2-focused", "v2-mentor")}
        assert {(r["candidates"], r["judged"], r["pending"]) for r in rows.values()} == {(3, 3, 0)}

        times = [float(x) for x in (here / "times").read_text().split()]
        peak, peaks = memory.peak, dict(memory.peaks)

        # A run that fails says why: the reason stands in Airflow's log of the task.
        asked = {"suite": "evals", "k": "no-such-scenario", "experiment": "empty"}
        empty = client.post("/api/bench/run", json=asked).json()["id"]
        deadline = time.monotonic() + 120
        while (found := client.get(f"/api/bench/run/{empty}").json())["state"] in ("queued", "running"):
            assert time.monotonic() < deadline, found
            time.sleep(2)
        assert found["state"] == "failed"
        assert any("no test was selected by this suite" in line for line in found["log"]), found["log"]

        pids = team.pids()
    assert len(pids) == 7
    assert not [name for name, pid in pids.items() if alive(pid)]

    print("\nup", *(f"{name} {s:.0f}" for name, s in team.seconds.items()), f"in all {up:.0f} s", sep="; ")
    print(*(f"{name}: {b - a:.0f} s" for name, a, b in zip(STAGES, times[:-1], times[1:], strict=True)), sep="\n")
    print(f"MB, idle: {sum(idle.values())}: {idle}")
    print(f"MB, peak of all at once: {peak}; of each: {peaks}")
