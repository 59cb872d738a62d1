"""The packet's shape: plain JSON values in, frozen records out, or a PacketError that names item and key."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..checks import validate_check
from ..errors import PacketError
from ..records import Criterion, Judge, Rubric, Tier, is_number

PACKET_SCHEMA = "promptbench/packet/1"
JUDGE_KINDS = (Tier.CLAUDE_CODE, Tier.HUMAN)
NAME_LIMIT = 200
_REVEALED = ("model", "prompt", "scenario", "run_id")
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PacketOutput:
    """One text and what a judge wrote about it. ``scores``' values and ``rationale`` are unchecked: see matching."""

    output: str
    scores: Mapping[str, Any]
    rationale: Any = None


@dataclass(frozen=True, kw_only=True)
class PacketItem:
    """One candidate: its scenario's vars and one entry per output. ``revealed`` is empty in a blind packet."""

    item: str
    context: Mapping[str, Any]
    candidates: tuple[PacketOutput, ...]
    revealed: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """How messages call it."""
        return f"item {plain(self.item)}"


@dataclass(frozen=True, kw_only=True)
class Packet:
    """A packet whose shape is right; whether it fits rubric and candidates is for ``match_verdicts`` to say."""

    experiment: str
    judge_kind: Tier
    judged_by: str | None
    rubric: Rubric
    items: tuple[PacketItem, ...]
    audit: str | None = None

    @property
    def judge(self) -> Judge:
        """Who judged: without a name, a judge is called by its kind."""
        return Judge(tier=self.judge_kind, name=self.judged_by or self.judge_kind.value)


# -- saying what was found


def shown(value: object) -> str:
    """A value from a packet as a message shows it: short JSON in ASCII, so that it cannot act on a terminal."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):  # no JSON, an integer of thousands of digits, nested too deeply
        return f"<{type(value).__name__}>"
    return text if len(text) <= 80 else text[:79] + "…"


def plain(name: str) -> str:
    """A name as it is where it is short and printable, else as ``shown``."""
    return name if 0 < len(name) <= 80 and name.isprintable() else shown(name)


# -- the shape


def check_schema(data: object) -> dict[str, Any]:
    """The packet as an object of a version that can be read, or PacketError."""
    if not isinstance(data, dict):
        raise PacketError(f"no judge packet: the top level is {shown(data)}, expected an object")
    schema = data.get("schema")
    found = re.fullmatch(r"promptbench/packet/([0-9]{1,9})", schema) if isinstance(schema, str) else None
    if found and int(found[1]) > 1:
        raise PacketError(
            f"written by a newer promptbench ({schema}; this one reads {PACKET_SCHEMA}); upgrade pytest-promptbench"
        )
    if schema != PACKET_SCHEMA:
        raise PacketError(f"no judge packet: schema is {shown(schema)}, expected {shown(PACKET_SCHEMA)}")
    return data


def parse_packet(data: object) -> Packet:
    """The packet in ``data``, plain values as JSON has them. PacketError names the first item and key that is wrong.

    What judges fill in, scores and rationales, is kept as it is: ``match_verdicts`` names all mistakes there at once.
    """
    top = _object(
        check_schema(data),
        "the packet",
        required=("schema", "experiment", "judge_kind", "rubric", "items"),
        optional=("judged_by", "audit"),
    )
    kind = top["judge_kind"]
    if kind not in [t.value for t in JUDGE_KINDS]:
        raise PacketError(f'judge_kind is {shown(kind)}; a packet is judged by "claude-code" or "human"')
    return Packet(
        experiment=_typed(top["experiment"], str, "experiment", "a text"),
        judge_kind=Tier(kind),
        judged_by=_judge_name(top.get("judged_by")),
        audit=None if top.get("audit") is None else _typed(top["audit"], str, "audit", "the id that the export wrote"),
        rubric=_rubric(top["rubric"]),
        items=tuple(_item(item, f"items[{i}]") for i, item in enumerate(_typed(top["items"], list, "items", "a list"))),
    )


def _typed(value: object, kind: type[T], place: str, expected: str) -> T:
    if not isinstance(value, kind):
        raise PacketError(f"{place} is {shown(value)}; it must be {expected}")
    return value


def _object(
    value: object, place: str, *, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Mapping[str, Any]:
    found = _typed(value, dict, place, "an object")
    for key in required:
        if key not in found:
            raise PacketError(f"{place}: {key} is missing")
    for key in found:
        if key not in required and key not in optional:
            raise PacketError(f"{place}: unknown key {shown(key)}; there are {', '.join((*required, *optional))}")
    return found


def _judge_name(value: object) -> str | None:
    if value is None:
        return None
    # One spelling of a letter with an accent, whichever keyboard it came from: two would be two judges.
    name = unicodedata.normalize("NFC", _typed(value, str, "judged_by", "a name").strip())
    if not name or len(name) > NAME_LIMIT:
        raise PacketError(f"judged_by is {shown(value)}; it must have 1 to {NAME_LIMIT} characters")
    if any(c in _BIDI or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name):
        raise PacketError(f"judged_by is {shown(value)}; a name has no control characters")
    return name


def _item(value: object, place: str) -> PacketItem:
    if isinstance(value, dict) and isinstance(value.get("item"), str):
        place = f"item {plain(value['item'])}"
    found = _object(value, place, required=("item", "context", "candidates"), optional=_REVEALED)
    outputs = _typed(found["candidates"], list, f"{place}: candidates", "a list")
    if not outputs:
        raise PacketError(f"{place}: candidates is []; it must hold one entry per output")
    return PacketItem(
        item=_typed(found["item"], str, f"{place}: item", "a text"),
        context=_typed(found["context"], dict, f"{place}: context", "an object"),
        candidates=tuple(
            _output(output, place if len(outputs) == 1 else f"{place}, output {n}")
            for n, output in enumerate(outputs, start=1)
        ),
        revealed={k: _typed(found[k], str, f"{place}: {k}", "a text") for k in _REVEALED if k in found},
    )


def _output(value: object, place: str) -> PacketOutput:
    found = _object(value, place, required=("output", "scores"), optional=("rationale",))
    return PacketOutput(
        output=_typed(found["output"], str, f"{place}: output", "a text"),
        scores=_typed(found["scores"], dict, f"{place}: scores", "an object"),
        rationale=found.get("rationale"),
    )


def _rubric(value: object) -> Rubric:
    found = _object(value, "rubric", required=("id", "sha256", "text", "criteria"))
    given = _typed(found["criteria"], list, "rubric: criteria", "a list")
    criteria = tuple(_criterion(c, f"rubric: criteria[{i}]") for i, c in enumerate(given))
    for name, times in Counter(c.name for c in criteria).items():
        if times > 1:
            raise PacketError(f"rubric: the criterion {plain(name)} stands there twice")
    return Rubric(
        id=_typed(found["id"], str, "rubric: id", "a text"),
        sha256=_typed(found["sha256"], str, "rubric: sha256", "a text"),
        text=_typed(found["text"], str, "rubric: text", "a text"),
        criteria=criteria,
    )


def _criterion(value: object, place: str) -> Criterion:
    needs = {"scale": ("min", "max"), "flag": ("bad",)}
    takes = {"scale": ("weight", "check"), "flag": ("penalty", "check")}
    kind = _typed(value, dict, place, "an object").get("type")
    if not isinstance(kind, str) or kind not in needs:
        raise PacketError(f'{place}: type is {shown(kind)}; it must be "scale" or "flag"')
    found = _object(value, place, required=("name", "type", *needs[kind]), optional=takes[kind])
    _typed(found["name"], str, f"{place}: name", "a text")
    for key in ("min", "max", "weight", "penalty"):
        if key in found and not is_number(found[key]):
            raise PacketError(f"{place}: {key} is {shown(found[key])}; it must be a number")
    if "bad" in found:
        _typed(found["bad"], bool, f"{place}: bad", "true or false")
    if "check" in found:
        check = _typed(found["check"], dict, f"{place}: check", "an object")
        problem = validate_check(check, scale=kind == "scale")
        if problem:
            raise PacketError(f"{place}: check: {problem if problem.isprintable() else shown(problem)}")
    return Criterion.from_json(found)
