"""A scored packet against what is stored: all of its verdicts, or all of its mistakes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..catalog.yamlfile import parse
from ..checks import filled_scores
from ..errors import CatalogError, PacketError
from ..records import Judge, LoggedCandidate, Rubric, Score, Verdict, is_number, mean_scores, sha256
from .build import item_ids
from .document import Packet, PacketItem, PacketOutput, plain, shown

NAMED = 20
"""So many problems are named; of more, the number."""
LONG = 1000
"""MLflow's tags hold about so many characters of a rationale; what is longer may come back cut, with "…" at its end."""


@dataclass(frozen=True, kw_only=True)
class Matched:
    """What a packet comes to.

    ``verdicts``: run id -> verdict that is new, differs from the same judge's earlier one, or was asked for anew;
    ``unchanged`` counts the others. ``left`` counts items still null, ``remarks`` those of them that have a rationale
    all the same. ``duplicates``: run id -> the second verdict on a candidate that stood there twice, where it is new;
    it is no verdict of its own, and ``unchanged`` and ``left`` do not count it.
    """

    verdicts: Mapping[str, Verdict]
    unchanged: int
    left: int
    duplicates: Mapping[str, Verdict]
    remarks: int = 0


def match_verdicts(
    packet: Packet,
    candidates: Sequence[LoggedCandidate],
    *,
    rubrics: Mapping[str, Rubric],
    now: str,
) -> Matched:
    """The verdicts of a packet on these candidates, which were read with their texts.

    ``rubrics``: id -> the rubric as its file has it now, where it is known. ``now``: ISO 8601 in UTC.
    PacketError lists every problem, one a line.
    """
    stored = {
        name: (c, again)
        for c in candidates
        if c.error is None
        for name, again in zip(item_ids(c.run_id), (False, True), strict=True)
    }
    known = rubrics.get(packet.rubric.id)
    problems = _rubric_problems(packet.rubric, known) or _stale_candidates(packet, stored)
    vouched = not problems  # then the stored candidates have this very rubric, and its patterns may be run
    problems += [f"item {plain(i)} stands there {n} times" for i, n in _counts(packet).items() if n > 1]
    verdicts: dict[str, Verdict] = {}
    duplicates: dict[str, Verdict] = {}
    unchanged = left = remarks = 0
    for item in packet.items:
        changed = _text_problems(item, stored.get(item.item), packet.experiment)
        problems += changed
        # Of other texts and vars a program would find something else, and the judge be told to write that instead.
        checkable = stored[item.item][0] if vouched and not changed else None
        scores = _scores(item, packet.rubric, problems, checkable)
        rationale = _rationale(item, problems)
        if item.item not in stored:
            continue
        candidate, again = stored[item.item]
        if packet.audit is not None and packet.audit not in candidate.draws:
            problems.append(f"{item.place} was not drawn by the audit {plain(packet.audit)}: export again")
        if scores is None:
            left += not again
            remarks += rationale is not None
            continue
        verdict = Verdict(scores=scores, judge=packet.judge, rationale=rationale, at=now)
        if again:
            if not _is_known(verdict, candidate.second_verdicts):
                duplicates[candidate.run_id] = verdict
        elif _is_known(verdict, candidate.verdicts) and not _asked_anew(candidate, packet.judge):
            unchanged += 1
        else:
            verdicts[candidate.run_id] = verdict
    if problems:
        more = [f"and {len(problems) - NAMED} more"] if len(problems) > NAMED else []
        raise PacketError("\n".join(problems[:NAMED] + more))
    return Matched(verdicts=verdicts, unchanged=unchanged, left=left, duplicates=duplicates, remarks=remarks)


# -- is it still the same rubric?


def _rubric_problems(rubric: Rubric, known: Rubric | None) -> list[str]:
    name = plain(rubric.id)
    if sha256(rubric.text) != rubric.sha256:
        return [f"the packet's text of the rubric {name} was edited (its sha256 does not fit): export again"]
    if known is not None and known.sha256 != rubric.sha256:
        return [f"the rubric {name} changed since the export: export again"]
    right = [c.to_json() for c in known.criteria] if known is not None else _criteria_of(rubric)
    if right != [c.to_json() for c in rubric.criteria]:
        return [f"the packet's criteria of the rubric {name} are not those of its text: export again"]
    return []


def _criteria_of(rubric: Rubric) -> list[dict[str, Any]] | None:
    """The criteria in the front matter of a rubric whose file is not at hand; None where there are none to read."""
    end = rubric.text.find("\n---", 3)
    if not rubric.text.startswith("---\n") or end < 0:
        return None
    try:
        data = parse(rubric.text[4 : end + 1], Path(f"{plain(rubric.id)}.md")).data
    except (CatalogError, ValueError):  # ValueError: a number with thousands of digits
        return None
    criteria = data.get("criteria") if isinstance(data, dict) else None
    if not isinstance(criteria, list) or not all(isinstance(c, dict) for c in criteria):
        return None
    weight = {"weight": 1.0}  # what the catalog gives a scale without one
    return [
        (weight if c.get("type") == "scale" else {}) | {k: v for k, v in c.items() if v is not None} for c in criteria
    ]


def _stale_candidates(packet: Packet, stored: Mapping[str, tuple[LoggedCandidate, bool]]) -> list[str]:
    here = (stored[item.item][0] for item in packet.items if item.item in stored)
    stale = sum((c.rubric, c.rubric_sha256) != (packet.rubric.id, packet.rubric.sha256) for c in here)
    if not stale:
        return []
    return [
        f"the rubric {plain(packet.rubric.id)} changed since the export: {stale} items belong to another text of it: "
        "export again"
    ]


# -- are they still the same texts?


def _counts(packet: Packet) -> Counter[str]:
    return Counter(item.item for item in packet.items)


def _text_problems(item: PacketItem, stored: tuple[LoggedCandidate, bool] | None, experiment: str) -> list[str]:
    if stored is None:
        return [f"{item.place} is unknown: no candidate of the experiment {plain(experiment)} has this id"]
    candidate, _ = stored
    if candidate.outputs is None or candidate.context is None:
        return [f"{item.place}: its stored texts could not be read"]
    if len(item.candidates) != len(candidate.outputs):
        has, exported = len(item.candidates), len(candidate.outputs)
        outputs, were = "output" if has == 1 else "outputs", "was" if exported == 1 else "were"
        return [f"{item.place} has {has} {outputs}; {exported} {were} exported"]
    problems = []
    if not _same(dict(item.context), dict(candidate.context)):
        problems.append(f"{item.place}: the context changed since the export: export again")
    for place, entry, text in zip(_places(item), item.candidates, candidate.outputs, strict=True):
        if not _same(entry.output, text):
            problems.append(f"{place}: the output changed since the export ({shown(entry.output)}): export again")
    return problems


def _same(given: Any, stored: Any) -> bool:
    """Whether a value is what was stored, or what JSON made of it.

    Two surrogates side by side become one character, and a browser rounds a whole number of more than 15 digits.
    """
    try:
        if given == stored:
            return True
        there = json.dumps(stored)
        return bool(given == json.loads(there)) or _rounded(json.dumps(given)) == _rounded(there)
    except (TypeError, ValueError, RecursionError):
        return False


def _rounded(text: str) -> Any:
    """The value of a JSON text as JavaScript reads it, to which all numbers are floats."""
    return json.loads(text, parse_int=float)


def _places(item: PacketItem) -> list[str]:
    if len(item.candidates) == 1:
        return [item.place]
    return [f"{item.place}, output {n}" for n in range(1, len(item.candidates) + 1)]


# -- are the scores what the rubric allows?


def _scores(
    item: PacketItem, rubric: Rubric, problems: list[str], checkable: LoggedCandidate | None
) -> dict[str, Score] | None:
    """An item's scores, means where it has several outputs; None while it is left null. Mistakes go to ``problems``.

    ``checkable``: what is stored of an item whose checks may be run.
    """
    parts: list[dict[str, Score] | None] = []
    for place, entry in zip(_places(item), item.candidates, strict=True):
        parts.append(_output_scores(entry, rubric, place, problems, checkable))
    done = [p for p in parts if p is not None]
    if not done:
        return None
    if len(done) < len(parts):
        unscored = ", ".join(str(n) for n, p in enumerate(parts, start=1) if p is None)
        problems.append(
            f"{item.place}: output {unscored} of {len(parts)} is null while others are scored; "
            "score all of them, or leave all of them null"
        )
    return mean_scores(done)


def _output_scores(
    entry: PacketOutput, rubric: Rubric, place: str, problems: list[str], checkable: LoggedCandidate | None
) -> dict[str, Score] | None:
    checked: dict[str, Score] = {}
    if checkable is not None:
        checked = filled_scores(rubric, entry.output, checkable.context, checkable.checks)
    given = checked | dict(entry.scores)  # a judge may leave out what a program fills
    problems += [f"{place}: {what}" for what in _unlike_the_rubric(given, rubric)]
    if all(value is None for value in given.values()):
        return None
    problems += [
        f"{place}: {plain(name)} is {shown(given[name])}; a program found {shown(found)}, leave it at that"
        for name, found in checked.items()
        if not _is_found(given[name], found)
    ]
    if all(given.get(c.name) is None for c in rubric.judged):
        return None
    problems += [f"{place}: {what}" for what in _unlike_scores(given, rubric)]
    return {c.name: _score(given.get(c.name)) for c in rubric.criteria}


def _is_found(given: object, found: Score) -> bool:
    return given is found or (is_number(given) and is_number(found) and given == found)


def _unlike_the_rubric(given: Mapping[str, object], rubric: Rubric) -> Iterator[str]:
    """Criteria that are not the rubric's, and those of the rubric's that are missing."""
    names = [c.name for c in rubric.criteria]
    for name, value in given.items():
        if name not in names:
            there = ", ".join(map(plain, names))
            yield f"{plain(name)} is {shown(value)}, but the rubric {plain(rubric.id)} has only {there}"
    for c in rubric.judged:
        if c.name not in given:
            yield f"{plain(c.name)} is missing; an item that is left pending has null there"


def _unlike_scores(given: Mapping[str, object], rubric: Rubric) -> Iterator[str]:
    """Criteria that are null beside others that are not, and values that the rubric does not allow."""
    judged = {c.name: c for c in rubric.judged if c.name in given}
    null = [name for name in judged if given[name] is None]
    if null:
        are = f"{', '.join(map(plain, null))} {'is' if len(null) == 1 else 'are'} null"
        yield f"{are} and the rest is not; score all of it, or leave all of it null"
    for name, c in judged.items():
        value = given[name]
        if value is not None and not c.takes(value):
            allowed = f"the rubric {plain(rubric.id)} allows {c.allowed}"
            yield f"{plain(name)} is {shown(value)}; {allowed}{_unquoted(value)}"


def _unquoted(value: object) -> str:
    return ", without quotes" if isinstance(value, str) else ""


def _score(value: Any) -> Score:
    """As a verdict keeps it: numbers as floats. What is wrong has been named by now, and counts as not scored."""
    if isinstance(value, bool):
        return value
    return float(value) if is_number(value) else None


def _rationale(item: PacketItem, problems: list[str]) -> str | None:
    found = []
    for place, entry in zip(_places(item), item.candidates, strict=True):
        if isinstance(entry.rationale, str):
            found.append(entry.rationale)
        elif entry.rationale is not None:
            problems.append(f"{place}: rationale is {shown(entry.rationale)}; it must be a text or null")
    return "\n".join(found) if found else None


# -- is it news?


def _is_known(verdict: Verdict, among: Sequence[Verdict]) -> bool:
    """Whether the same judge said the same before."""
    earlier = [v for v in among if v.judge == verdict.judge]
    if not earlier:
        return False
    last = max(earlier, key=lambda v: v.at)
    return dict(last.scores) == dict(verdict.scores) and _same_rationale(last.rationale, verdict.rationale)


def _asked_anew(candidate: LoggedCandidate, judge: Judge) -> bool:
    """Whether the judge whose verdict counts is to say it once more: somebody set ``judge_pending`` in MLflow again."""
    counts = candidate.sit_down()
    return candidate.pending and counts is not None and counts.judge == judge


def _same_rationale(stored: str | None, given: str | None) -> bool:
    if stored == given:
        return True
    if stored is None or given is None or len(given) < LONG:
        return False
    return stored.endswith("…") and given.startswith(stored.removesuffix("…"))
