"""--judge-audit and --judge-duplicates: which candidates, with which probability, and back into MLflow."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_promptbench.audit import Audit, disagreement, draw, next_audit, sampling_probabilities, spot_check
from pytest_promptbench.records import Criterion, Fingerprint, Judge, LoggedCandidate, Rubric, Tier, Verdict
from pytest_promptbench.scores import sit_down_score, tier_scores
from pytest_promptbench.statistics import calibrated_mean

from .project import JOKES, TEST, Project
from .provider import Fault, ScriptedProvider
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


def test_a_changed_judge_does_not_disagree_with_itself() -> None:
    fingerprint = Fingerprint(model="m", params={}, rubric_sha256="rubric", prompt_sha256="")
    c = candidate(1, auto=8, again=6)
    changed = replace(c, verdicts=tuple(replace(v, fingerprint=fingerprint) for v in c.verdicts))
    assert disagreement(changed, RUBRIC, with_itself=True) is None


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


def test_the_random_part_has_its_share_of_disagreements_as_large_as_the_picked_ones() -> None:
    """Judges score in whole points, so that many disagree by as much as the last that is picked."""
    pool = [candidate(i, again=6 if i < 30 else 5) for i in range(90)]
    draws = [draw(pool, RUBRIC, 20, seed=s)[10:] for s in range(200)]
    assert sum(bool(d.disagreement) for drawn in draws for d in drawn) / 2000 == pytest.approx(20 / 80, abs=0.03)


def test_of_what_claude_code_judged_a_person_gets_what_no_person_has() -> None:
    def judged(number: int, claude: float, **person: float) -> LoggedCandidate:
        c = candidate(number, **person)
        said = Verdict(scores={"score": claude}, judge=Judge(tier=Tier.CLAUDE_CODE, name="opus"), at="2026")
        return replace(c, verdicts=(*c.verdicts, said))

    seen = [judged(i, 9, person=9) for i in range(10)]
    differing = [judged(10 + i, 6) for i in range(3)]
    drawn = draw([*seen, *differing, *(judged(20 + i, 5) for i in range(20))], RUBRIC, 6, seed=1)
    assert {d.candidate.run_id for d in drawn[:3]} == {c.run_id for c in differing}, "rather than a person's 4 points"
    assert {d.probability for d in drawn[3:]} == {3 / 20}
    assert not any(d.candidate.latest(Tier.HUMAN) for d in drawn)


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


def test_the_same_audit_twice_is_one_and_the_round_after_it_another() -> None:
    pool = [candidate(i, again=5 + i % 2) for i in range(40)]
    first, again = (next_audit(pool, RUBRIC, 9, experiment="e", task="tip") for _ in range(2))
    assert first == again
    assert (first.round, len(first.id)) == (1, 12)
    other = next_audit(pool, RUBRIC, 9, experiment="another", task="tip")
    assert other.seed != first.seed
    labelled, _ = taken_in(pool, first)
    after = next_audit(labelled, RUBRIC, 9, experiment="e", task="tip")
    assert after.round == 2
    assert after.id != first.id
    assert not {d.candidate.run_id for d in after.drawn if d.random} & {d.candidate.run_id for d in first.drawn}


def taken_in(pool: list[LoggedCandidate], audit: Audit, truth: Sequence[float] | None = None):
    """The candidates once the audit's packet is judged, and every label's sampling probability."""
    drawn = {d.candidate.run_id: audit.draw_of(d) for d in audit.drawn}
    found = []
    for i, before in enumerate(pool):
        after = before
        if before.run_id in drawn:
            after = replace(before, draws={**before.draws, audit.id: drawn[before.run_id]})
            if before.sit_down() is None:
                score = 5.0 if truth is None else truth[i]
                verdict = Verdict(scores={"score": score}, judge=Judge(tier=Tier.HUMAN, name="ann"), at="2026")
                after = replace(after, verdicts=(*after.verdicts, verdict), audited=audit.id)
        found.append(after)
    chances = sampling_probabilities(found)
    return [replace(c, sampling_probability=chances.get(c.run_id)) for c in found], chances


def test_what_several_audits_drew_at_random_has_one_probability_and_what_was_picked_1() -> None:
    pool = [candidate(i, again=9 if i < 4 else 5) for i in range(44)]
    first = next_audit(pool, RUBRIC, 8, experiment="e", task="tip")
    pool, chances = taken_in(pool, first)
    assert sorted(chances.values()) == [pytest.approx(4 / 40)] * 4 + [1.0] * 4
    second = next_audit(pool, RUBRIC, 12, experiment="e", task="tip")
    share = next(d.probability for d in second.drawn if d.random)
    pool, chances = taken_in(pool, second)
    union = 1 - (1 - 4 / 40) * (1 - share)
    assert {round(p, 9) for p in chances.values()} == {1.0, round(union, 9)}
    assert [chances[f"r{i:03}"] for i in range(4)] == [1.0] * 4
    drawn_and_never_taken_in = next_audit(pool, RUBRIC, 5, experiment="e", task="tip")
    stale = {d.candidate.run_id: drawn_and_never_taken_in.draw_of(d) for d in drawn_and_never_taken_in.drawn}
    also = [replace(c, draws={**c.draws, "never": stale[c.run_id]}) if c.run_id in stale else c for c in pool]
    assert sampling_probabilities(also) == chances


def test_an_audit_of_what_an_edit_superseded_could_not_have_drawn_what_came_later() -> None:
    before = [replace(candidate(i), started_at=i) for i in range(40)]
    before, chances = taken_in(before, next_audit(before, RUBRIC, 20, experiment="e", task="tip"))
    assert set(chances.values()) == {20 / 40}
    later = [replace(candidate(100 + i), started_at=100 + i) for i in range(40)]
    audit = next_audit(later, RUBRIC, 10, experiment="e", task="tip")
    _, chances = taken_in([*before, *later], audit)
    assert {chances[d.candidate.run_id] for d in audit.drawn} == {10 / 40}
    carried = [replace(c, started_at=200) for c in before if c.audited is not None]
    assert set(sampling_probabilities(carried).values()) == {20 / 40}, "a label that was carried over keeps its audit"


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_the_calibrated_mean_covers_the_truth_after_any_number_of_audits(rounds: int) -> None:
    """The judge wavers where it is too kind, so the first audit picks what people score lower. 150 populations of 90.

    With each audit's own share as the probability, 2 audits cover in 89 of 100 cases, and 3 in 86.
    """
    hits = 0
    for seed in range(150):
        rng = random.Random(seed)
        truth, pool = [], []
        for i in range(90):
            wrong = rng.random() < 1 / 3
            quality = rng.gauss(6, 1)
            truth.append(quality - 3 * wrong)
            pool.append(candidate(i, auto=quality, again=quality + rng.gauss(0, 2 if wrong else 0.5)))
        for number in range(rounds):
            audit = next_audit(pool, RUBRIC, (60, 50, 4)[number], experiment=f"e{seed}", task="tip")
            assert audit.round == number + 1
            pool, _ = taken_in(pool, audit, truth)
        scored = [tier_scores(c, RUBRIC) for c in pool]
        labels = [sit_down_score(s) for s in scored]
        found = calibrated_mean(
            [s[-1].value for s in scored],
            [None if label is None else label.value for label in labels],
            [c.scenario for c in pool],
            [None if label is None else label.probability for label in labels],
        )
        assert found.ci is not None
        hits += found.ci[0] <= 5 <= found.ci[1]
    assert hits >= 136, f"{hits} of 150 nominal 95 % intervals hold the truth"


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


def draws(project: Project, audit: str) -> list[dict[str, Any]]:
    tag = f"promptbench.audit.{audit}"
    return [json.loads(r.data.tags[tag]) for r in project.runs() if tag in r.data.tags]


def test_audits_one_after_another(audited: Project) -> None:
    for step in (an_audit, a_second_audit, a_packet_of_another_audit, a_carried_verdict):
        step(audited)


def an_audit(audited: Project) -> None:
    """From export to a calibrated leaderboard."""
    asked = audited.provider.count
    exported = audited.pytest("--judge-export", "audit.json", "--judge-audit", "2", "--judge-duplicates", "1")
    assert exported.code == 0, exported.text
    assert "exported 2 candidates (0 by disagreement, 2 at random of 6) of tip-bench-" in exported.out
    assert ", 1 of them twice" in exported.out
    assert audited.provider.count == asked + 3  # the judge's second call, once for each different text
    assert "automatic judge judge: asked a second time about 6 candidates\n" in exported.out
    packet = audited.packet("audit.json")
    named, number, seed = re.search(r"audit (\w{12}): round (\d), seed (\d+)", exported.out).groups()  # type: ignore[union-attr]
    assert packet["audit"] == named
    until = max(c.started_at for c in audited.store.read(audited.experiment()))
    drawn = {"probability": 2 / 6, "random": True, "round": 1, "seed": int(seed), "until": until}
    assert draws(audited, named) == [drawn] * 2
    assert number == "1"
    assert probabilities(audited) == [], "what was only drawn says nothing about labels"
    again = audited.pytest("--judge-export", "again.json", "--judge-audit", "2", "--judge-duplicates", "1")
    assert again.code == 0, again.text
    assert "asked a second time" not in again.out
    assert audited.packet("again.json") == packet, "the same audit exported twice is the same"
    assert len(packet["items"]) == 3
    text = json.dumps(packet)
    assert "haiku" not in text
    assert "probability" not in text

    audited.score("audit.json", value=4, judge_kind="human", judged_by="ann")
    applied = audited.pytest("--judge-apply", "audit.json")
    assert applied.code == 0, applied.text
    assert "applied 2, unchanged 0, still pending 4" in applied.out
    assert probabilities(audited) == ["0.333333", "0.333333"]
    assert "Agreement of judges on the composite" in applied.out
    assert re.search(r"^human: ann and auto: judge +2 ", applied.out, re.MULTILINE)
    assert re.search(r"^auto: judge with itself +\d+ ", applied.out, re.MULTILINE)
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
    assert probabilities(audited) == ["0.333333", "0.333333"]


def a_second_audit(audited: Project) -> None:
    """One that is put aside changes nothing; one that is taken in does. Then a label that no audit brought."""
    aside = audited.pytest("--judge-export", "aside.json", "--judge-audit", "3")
    assert aside.code == 0, aside.text
    assert "round 2, seed" in aside.out
    assert probabilities(audited) == ["0.333333", "0.333333"]
    assert audited.pytest("--judge-export", "second.json", "--judge-audit", "2").code == 0
    audited.score("second.json", value=3, judge_kind="human", judged_by="ann")
    applied = audited.pytest("--judge-apply", "second.json")
    assert applied.code == 0, applied.text
    second = audited.packet("second.json")["audit"]
    (share,) = {d["probability"] for d in draws(audited, second) if d["random"]}
    assert share < 1
    found = probabilities(audited)
    assert set(found) == {f"{1 - (1 - 1 / 3) * (1 - share):.6g}"}
    labels = [r for r in audited.runs() if r.data.tags["judge_pending"] == "false"]
    assert len(found) == len(labels)
    assert audited.pytest("--judge-export", "rest.json").code == 0
    assert "audit" not in audited.packet("rest.json")
    audited.score("rest.json", value=2, only=1, judge_kind="human", judged_by="ann")
    assert audited.pytest("--judge-apply", "rest.json").code == 0
    assert probabilities(audited) == found, "a label from an ordinary packet has no sampling probability"


def a_packet_of_another_audit(audited: Project) -> None:
    """An audit that did not draw a packet's items is refused."""
    packet = audited.packet("rest.json")
    packet["audit"] = "0123456789ab"
    (audited.root / "wrong.json").write_text(json.dumps(packet))
    refused = audited.pytest("--judge-apply", "wrong.json")
    assert refused.code == 4, refused.text
    assert "was not drawn by the audit 0123456789ab: export again" in refused.text


def a_carried_verdict(audited: Project) -> None:
    """It keeps its sampling probability."""
    before = Counter(probabilities(audited))
    assert audited.pytest("--bench-experiment", "another-day").code == 0
    carried = [r.data.tags for r in audited.runs("another-day") if "promptbench.carried_from" in r.data.tags]
    tags = [t["promptbench.sampling_probability"] for t in carried if "promptbench.sampling_probability" in t]
    assert tags
    assert set(tags) <= set(before)
    assert all(t["promptbench.audited"] and f"promptbench.audit.{t['promptbench.audited']}" in t for t in carried
               if "promptbench.sampling_probability" in t)  # fmt: skip


def test_what_an_edited_prompt_superseded_is_neither_exported_nor_audited_nor_judged(tmp_path: Path) -> None:
    def by_prompt(body: dict[str, Any]) -> str:
        system, question = (m["content"] for m in body["messages"][:2])
        return reply(body) if "Score it now" in question else f"{system}: {reply(body)}"

    with ScriptedProvider(reply=by_prompt) as provider:
        project = project_in(tmp_path, provider)
        assert project.pytest().code == 0
        prompt = project.root / "prompts/tip/v1.yaml"
        prompt.write_text(prompt.read_text().replace("be v1", "be kind"))
        asked = provider.count
        assert project.pytest("--judge-auto").code == 0
        assert provider.count == asked + 3 + 6, "three new texts, six questions: none about the old text"
        assert len(project.runs()) == 9
        assert project.pytest("--judge-export", "packet.json", "--judge-reveal").code == 0
        items = project.packet()["items"]
        assert len(items) == 6
        assert not any("be v1" in i["candidates"][0]["output"] for i in items)
        exported = project.pytest("--judge-export", "audit.json", "--judge-audit", "9")
        assert "exported 6 candidates (0 by disagreement, 6 at random of 6)" in exported.out, exported.text


def test_a_second_question_that_is_refused_holds_no_audit_up(tmp_path: Path) -> None:
    """The second export has nothing else to ask a second time."""
    with ScriptedProvider(reply=reply) as provider:
        project = project_in(tmp_path, provider)
        assert project.pytest("--judge-auto").code == 0
        provider.script("Take a long a long walk", Fault(400, body="content filter"), model="judge")
        for name in ("audit.json", "again.json"):
            result = project.pytest("--judge-export", name, "--judge-audit", "2")
            assert result.code == 0, result.text
        assert project.packet("audit.json") == project.packet("again.json")


def test_ctrl_c_at_the_second_questions_is_an_interrupt_and_the_next_export_goes_on(tmp_path: Path) -> None:
    with ScriptedProvider(reply=reply) as provider:
        project = project_in(tmp_path, provider)
        assert project.pytest("--judge-auto").code == 0
        asked = provider.count
        provider.latency_s = 2.0
        process = project.begin(*project.command("evals/", "--judge-export", "audit.json", "--judge-audit", "2")[1:])
        deadline = time.monotonic() + 60
        while provider.count < asked + 3:  # the first goes alone
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=90)
        assert (process.returncode, "promptbench: waiting for answers that are paid for" in out) == (2, True), out
        assert not (project.root / "audit.json").exists()
        provider.latency_s = 0
        assert project.pytest("--judge-export", "audit.json", "--judge-audit", "2").code == 0
        assert provider.count == asked + 3, "the answers on their way were waited for"


def test_a_renamed_judge_is_not_asked_a_second_time_before_a_first(tmp_path: Path) -> None:
    """What counts is what it said under its other name, of which it would be no second verdict."""
    with ScriptedProvider(reply=reply) as provider:
        project = project_in(tmp_path, provider)
        assert project.pytest("--judge-auto").code == 0
        for file, old, new in (("models.yaml", "  judge:", "  other:"), ("tips.yaml", "model: judge", "model: other")):
            path = project.root / "evals" / file
            path.write_text(path.read_text().replace(old, new))
        asked = provider.count
        exported = project.pytest("--judge-export", "audit.json", "--judge-audit", "2")
        assert exported.code == 0, exported.text
        assert provider.count == asked


def test_auditing_what_no_judge_has_scored_says_what_to_do(tmp_path: Path) -> None:
    with ScriptedProvider(reply=reply) as provider:
        project = project_in(tmp_path, provider)
        project.pytest()
        result = project.pytest("--judge-export", "audit.json", "--judge-audit", "2")
        assert result.code == 4
        assert "--judge-audit: the automatic judge has scored nothing in tip-bench-" in result.text
        assert "run pytest with --judge-auto" in result.text


def test_a_spot_check_draws_from_what_claude_code_alone_has_judged() -> None:
    def by(number: int, tier: Tier) -> LoggedCandidate:
        verdict = Verdict(scores={"score": 5}, judge=Judge(tier=tier, name="j"))
        return replace(candidate(number, auto=None), verdicts=(verdict,))

    pool = [by(i, Tier.CLAUDE_CODE) for i in range(40)]
    others = [by(50, Tier.HUMAN), candidate(60, auto=None), replace(by(70, Tier.CLAUDE_CODE), error="timeout")]
    drawn, again, more = (
        spot_check(p, RUBRIC, n, experiment="e", task="tip")
        for p, n in (([*pool, *others], 9), ([*others, *reversed(pool)], 9), ([*pool, *others], 99))
    )
    assert drawn == again
    assert {c.run_id for c in drawn[0]} < {c.run_id for c in pool}
    assert sorted(more[0], key=lambda c: c.run_id) == pool


def test_without_an_automatic_judge_a_person_checks_what_claude_code_judged(tmp_path: Path) -> None:
    with ScriptedProvider(reply=reply) as provider:
        project = project_in(tmp_path, provider)
        asked = ("--judge-export", "check.json", "--judge-audit", "2")
        assert project.pytest().code == 0
        project.pytest("--judge-export", "packet.json")
        blank = {i["item"]: i for i in project.packet()["items"]}
        project.score(value=4, judged_by="opus")
        assert project.pytest("--judge-apply", "packet.json").code == 0
        exported = project.pytest(*asked)
        assert "exported 2 candidates (at random of 6 that Claude Code judged, for a person)" in exported.out
        packet = project.packet("check.json")
        assert (packet["judge_kind"], "audit" in packet) == ("human", False), "it is no audit of an automatic judge"
        assert [blank[i["item"]] for i in packet["items"]] == packet["items"], "nothing of Claude Code's is in it"
        assert project.pytest(*asked).code == 0
        assert project.packet("check.json") == packet
        project.score("check.json", value=3, judged_by="ann")
        applied = project.pytest("--judge-apply", "check.json")
        assert "applied 2, unchanged 0, still pending 0" in applied.out, applied.text
        assert "Agreement of human: ann and claude-code: opus" in applied.out
        assert project.pytest(*asked).code == 0
        assert {i["item"] for i in project.packet("check.json")["items"]}.isdisjoint(i["item"] for i in packet["items"])


def test_what_claude_code_judged_beside_an_automatic_judge_is_audited_until_a_person_has_seen_all(
    tmp_path: Path,
) -> None:
    with ScriptedProvider(reply=reply) as provider:
        project = project_in(tmp_path, provider)
        assert project.pytest("--judge-auto").code == 0
        project.pytest("--judge-export", "packet.json")
        project.score(value=4, judged_by="opus")
        assert project.pytest("--judge-apply", "packet.json").code == 0
        seen: list[str] = []
        for number in (1, 2, 3):
            exported = project.pytest("--judge-export", "audit.json", "--judge-audit", "2")
            assert f"round {number}, seed" in exported.out, exported.text
            packet = project.packet("audit.json")
            assert packet["judge_kind"] == "human", "Claude Code has judged all of it"
            seen += [i["item"] for i in packet["items"]]
            project.score("audit.json", value=3, judged_by="ann")
            assert "applied 2, unchanged 0" in project.pytest("--judge-apply", "audit.json").out
            if number == 1:
                pairs = json.loads((tmp_path / ".promptbench/report/agreement.json").read_text())["pairs"]
                assert [p["weighted"] for p in pairs] == [True, True, False]
        assert len(seen) == len(set(seen)) == 6
        assert all("promptbench.checked" in r.data.tags for r in project.runs())
        assert probabilities(project) == [], "no audit brought a first label"
        assert project.pytest("--bench-experiment", "another-day").code == 0
        assert all("promptbench.checked" in r.data.tags for r in project.runs("another-day"))


def test_an_audit_is_of_the_selected_suites_and_no_unjudged_one_holds_it_up(tmp_path: Path) -> None:
    with ScriptedProvider(reply=reply) as provider:
        project = project_in(tmp_path, provider).second_suite()
        project.file("evals/test_tips.py", TEST)
        assert project.pytest("--judge-auto").code == 0
        project.file("evals/test_tips.py", TEST + JOKES)
        assert project.pytest("-k", "test_joke").code == 0
        for narrowed in ((), ("-k", "not test_joke")):
            exported = project.pytest("--judge-export", "audit.json", "--judge-audit", "2", *narrowed)
            assert "exported 2 candidates (" in exported.out, exported.text
            assert project.packet("audit.json")["experiment"].startswith("tip-bench-")
        for narrowed, problem in (("test_joke", "has scored nothing in joke-bench-"), ("nothing", "was selected")):
            refused = project.pytest("--judge-export", "audit.json", "--judge-audit", "2", "-k", narrowed)
            assert (refused.code, problem in refused.text) == (4, True), refused.text


def test_what_programs_score_holds_no_audit_up_before_or_after_the_judge(tmp_path: Path) -> None:
    """Also where its suite comes first: what is missing is said of the suite that has a judge."""
    with ScriptedProvider(reply=reply) as provider:
        project = project_in(tmp_path, provider).second_suite(rubric="joke-v1")
        jokes = tmp_path / "rubrics" / "joke-v1.md"
        jokes.write_text(re.sub(r"  - \{name: (?!overlong).*\n", "", jokes.read_text()))
        suite = tmp_path / "evals" / "jokes.yaml"
        suite.write_text(re.sub(r"judge:.*\n", "", suite.read_text()))
        project.file("evals/test_tips.py", "import pytest\n" + JOKES + TEST.replace("import pytest", ""))
        assert project.pytest().code == 0
        refused = project.pytest("--judge-export", "audit.json", "--judge-audit", "2")
        assert (refused.code, "has scored nothing in tip-bench-" in refused.text) == (4, True), refused.text
        assert project.pytest("--judge-auto").code == 0
        exported = project.pytest("--judge-export", "audit.json", "--judge-audit", "2")
        assert "exported 2 candidates (" in exported.out, exported.text
        assert project.packet("audit.json")["experiment"].startswith("tip-bench-")


@pytest.mark.parametrize("option", ["--judge-audit", "--judge-duplicates"])
def test_without_an_export_it_is_a_usage_error(audited: Project, option: str) -> None:
    result = audited.pytest(option, "3")
    assert result.code == 4
    assert f"{option} says how --judge-export is done: give it together with --judge-export" in result.text
