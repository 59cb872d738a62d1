"""--judge-audit and --judge-duplicates: which candidates, with which probability, and back into MLflow."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from pytest_promptbench.audit import disagreement, draw
from pytest_promptbench.records import Criterion, Judge, LoggedCandidate, Rubric, Tier, Verdict

from .project import Project
from .provider import ScriptedProvider
from .test_autojudge import project_in, reply

RUBRIC = Rubric(
    id="r", text="t", sha256="rubric", criteria=(Criterion(name="score", type="scale", min=0, max=10, weight=1),)
)


def candidate(number: int, *, auto: float | None = 5, person: float | None = None, again: float | None = None):
    def of(tier: Tier, score: float | None) -> tuple[Verdict, ...]:
        judge = Judge(tier=tier, name=tier.value)
        return () if score is None else (Verdict(scores={"score": score}, judge=judge, at="2026"),)

    return LoggedCandidate(
        run_id=f"r{number:03}", experiment="e", task="tip", model="m", prompt="v1", scenario=f"s{number}", cell="c",
        candidate=str(number), rubric="r", rubric_sha256="rubric", pending=person is None,
        verdicts=(*of(Tier.AUTO, auto), *of(Tier.HUMAN, person)), second_verdicts=of(Tier.AUTO, again),
    )  # fmt: skip


def test_disagreement_counts_in_both_directions() -> None:
    assert disagreement(candidate(1, auto=5, person=8), RUBRIC, with_itself=False) == 3
    assert disagreement(candidate(1, auto=8, person=5), RUBRIC, with_itself=False) == 3
    assert disagreement(candidate(1, auto=8), RUBRIC, with_itself=False) is None
    assert disagreement(candidate(1, auto=8, again=6), RUBRIC, with_itself=True) == 2


def test_half_by_disagreement_with_people_and_half_at_random_from_what_nobody_has_scored() -> None:
    seen = [candidate(i, person=5 + (i - 5)) for i in range(10)]
    unseen = [candidate(100 + i) for i in range(20)]
    drawn = draw([*seen, *unseen], RUBRIC, 8, seed=1)
    first, rest = drawn[:4], drawn[4:]
    assert [d.disagreement for d in first] == [5, 4, 4, 3]
    assert {d.probability for d in first} == {1.0}
    assert all(d.candidate.sit_down() is None for d in rest)
    assert {d.probability for d in rest} == {4 / 20}


def test_before_any_person_half_by_the_judges_disagreement_with_itself() -> None:
    pool = [candidate(i, again=5 + i % 4) for i in range(40)]
    drawn = draw(pool, RUBRIC, 10, seed=1)
    assert [d.disagreement for d in drawn[:5]] == [3] * 5
    assert {d.probability for d in drawn[5:]} == {5 / 35}


def test_where_nothing_disagrees_all_are_drawn_at_random() -> None:
    drawn = draw([candidate(i) for i in range(40)], RUBRIC, 10, seed=1)
    assert {d.probability for d in drawn} == {10 / 40}


def test_a_draw_depends_on_its_seed_alone() -> None:
    pool = [candidate(i, again=5 + i % 2) for i in range(40)]
    names = [
        [d.candidate.run_id for d in draw(p, RUBRIC, 9, seed=s)] for p, s in ((pool, 1), (pool[::-1], 1), (pool, 2))
    ]
    assert names[0] == names[1] != names[2]


def test_asking_for_more_than_there_is_gives_all_of_it_for_certain() -> None:
    drawn = draw([candidate(1), candidate(2), candidate(3, auto=None)], RUBRIC, 9, seed=1)
    assert sorted(d.candidate.run_id for d in drawn) == ["r001", "r002"]
    assert {d.probability for d in drawn} == {1.0}


def test_the_random_half_is_uniform() -> None:
    pool = [candidate(i, again=9 if i < 3 else 5) for i in range(13)]
    counts = Counter(d.candidate.run_id for seed in range(2000) for d in draw(pool, RUBRIC, 6, seed=seed)[3:])
    assert len(counts) == 10
    assert all(500 < n < 700 for n in counts.values())  # 600 expected


# -- through real sessions


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory):
    with ScriptedProvider(reply=reply) as provider:
        project = project_in(tmp_path_factory.mktemp("audit"), provider)
        assert project.pytest("--judge-auto").code == 0
        yield project


def probabilities(project: Project) -> list[str]:
    tag = "promptbench.sampling_probability"
    return sorted(r.data.tags[tag] for r in project.runs() if tag in r.data.tags)


def test_an_audit_from_export_to_a_calibrated_leaderboard(audited: Project) -> None:
    asked = audited.provider.count
    exported = audited.pytest("--judge-export", "audit.json", "--judge-audit", "2", "--judge-duplicates", "1")
    assert exported.code == 0, exported.text
    assert "exported 2 candidates (0 by disagreement, 2 at random of 6) of tip-bench-" in exported.out
    assert ", 1 of them twice" in exported.out
    assert audited.provider.count == asked + 3  # the judge's second call, once for each different text
    assert probabilities(audited) == ["0.333333", "0.333333"]
    packet = audited.packet("audit.json")
    assert len(packet["items"]) == 3
    text = json.dumps(packet)
    assert "haiku" not in text
    assert "probability" not in text

    audited.score("audit.json", value=4, judge_kind="human", judged_by="ann")
    applied = audited.pytest("--judge-apply", "audit.json")
    assert applied.code == 0, applied.text
    assert "applied 2, unchanged 0, still pending 4" in applied.out
    assert "Agreement of human: ann and auto: judge: scales" in applied.out
    report = audited.root / ".promptbench/report"
    agreement = json.loads((report / "agreement.json").read_text())
    kinds = {(p["kind"], p["a"]) for p in agreement["pairs"]}
    assert kinds == {("judges", "human: ann"), ("self", "human: ann"), ("self", "auto: judge")}
    statistics = json.loads((report / "statistics.json").read_text())
    assert {c["n_labels"] for c in statistics["calibrated"]} <= {1, 2}
    assert statistics["calibrated"]
    assert "## Calibrated to the sit-down tier" in (report / "leaderboard.md").read_text()
    again = audited.pytest("--judge-apply", "audit.json")
    assert "applied 0, unchanged 2, still pending 4" in again.out


def test_auditing_what_no_judge_has_scored_says_what_to_do(tmp_path: Path) -> None:
    with ScriptedProvider(reply=reply) as provider:
        project = project_in(tmp_path, provider)
        project.pytest()
        result = project.pytest("--judge-export", "audit.json", "--judge-audit", "2")
        assert result.code == 4
        assert "--judge-audit: the automatic judge has scored nothing in tip-bench-" in result.text
        assert "run pytest with --judge-auto" in result.text


@pytest.mark.parametrize("option", ["--judge-audit", "--judge-duplicates"])
def test_without_an_export_it_is_a_usage_error(audited: Project, option: str) -> None:
    result = audited.pytest(option, "3")
    assert result.code == 4
    assert f"{option} says what goes into a packet: give it together with --judge-export PATH" in result.text
