"""Feed bytes to ``--judge-apply`` as a packet's file, guided by coverage: it is taken, or refused in printable lines.

    pip install atheris
    python benchmarks/fuzz.py -max_total_time=600

Options are libFuzzer's. An input is a file as it is or, where it begins with a NUL, edits of a scored packet. It is
read, parsed and matched against two candidates, as ``--judge-apply`` does it before anything is recorded; a match holds
whole, finite, in-range scores alone. Anything else ends the run with the input that did it.
"""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

with atheris.instrument_imports(include=["pytest_promptbench"]):
    from pytest_promptbench.errors import PacketError
    from pytest_promptbench.packet import match_verdicts, parse_packet, read_packet

from tests.test_packet import BOTH, CRITERIA, NOW, RUBRIC, packet, scored

KEYS = (
    "schema", "items", "item", "candidates", "scores", "output", "rationale", "rubric", "criteria", "judge_kind",
    "judged_by", "experiment", "audit", *(c.name for c in CRITERIA),
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, 5, -1, 5.5, 1e308, 10**400, "", "human", "auto", "\ud800", "\x1b[31m", "x" * 9000, [], {},
    [[]], {"": 0},
)  # fmt: skip


def edited(data: bytes) -> bytes:
    """A scored packet with some of its values replaced, dropped or doubled, as ``data`` says."""
    source = atheris.FuzzedDataProvider(data)
    packet_: Any = scored()
    for _ in range(source.ConsumeIntInRange(1, 4)):
        at = packet_
        for _ in range(source.ConsumeIntInRange(1, 6)):
            keys = list(at) if isinstance(at, dict) else list(range(len(at))) if isinstance(at, list) else []
            if not keys:
                break
            key = keys[source.ConsumeIntInRange(0, len(keys) - 1)]
            if isinstance(at[key], dict | list) and source.ConsumeBool():
                at = at[key]
                continue
            match source.ConsumeIntInRange(0, 3):
                case 0:
                    at[key] = VALUES[source.ConsumeIntInRange(0, len(VALUES) - 1)]
                case 1:
                    del at[key]
                case 2 if isinstance(at, list):
                    at.append(at[key])
                case _ if isinstance(at, dict):
                    at[KEYS[source.ConsumeIntInRange(0, len(KEYS) - 1)]] = at[key]
            break
    return json.dumps(packet_).encode()


def printable(text: str) -> bool:
    return all(line.isprintable() for line in text.splitlines())


def one(data: bytes, file: Path) -> None:
    file.write_bytes(edited(data[1:]) if data[:1] == b"\0" else data)
    try:
        given = parse_packet(read_packet(file))
        matched = match_verdicts(given, BOTH, rubrics={RUBRIC.id: RUBRIC}, now=NOW, default_judge=given.judge_kind)
    except PacketError as error:
        if not printable(str(error)):
            raise AssertionError(repr(str(error))) from error
        return
    for verdict in (*matched.verdicts.values(), *matched.duplicates.values()):
        assert verdict.scores.keys() == {c.name for c in CRITERIA}
        for c in CRITERIA:
            score = verdict.scores[c.name]
            assert score is not None
            if c.type == "scale":
                assert c.min is not None
                assert c.max is not None
                assert math.isfinite(score)
                assert c.min <= score <= c.max


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="promptbench-fuzz-") as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        (corpus / "exported").write_text(json.dumps(packet()), encoding="utf-8")
        (corpus / "scored").write_text(json.dumps(scored()), encoding="utf-8")
        for i in range(64):
            (corpus / f"edits-{i}").write_bytes(b"\0" + random.Random(i).randbytes(24))
        words = Path(folder) / "words"
        words.write_text("".join(f'"\\"{key}\\""\n' for key in KEYS), encoding="utf-8")
        file = Path(folder) / "packet.json"
        atheris.Setup([*sys.argv, f"-dict={words}", str(corpus)], lambda data: one(data, file))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
