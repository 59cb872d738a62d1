"""What a test gets from the ``candidate`` fixture."""

from __future__ import annotations

from typing import Any

from .errors import GenerationError
from .records import Candidate, Model, Prompt, Scenario, Usage

_SHOWN = 160
"""So much of a text stands in the report of a failed test, of which pytest shows some 240 characters."""


class Name(str):
    """The name of a model, prompt or scenario, which is what tests compare and print, with the record behind it.

    ``candidate.scenario == "bad-sleep"`` and ``candidate.scenario.vars["situation"]`` both work.
    """

    __slots__ = ("record",)
    record: Model | Prompt | Scenario

    def __new__(cls, record: Model | Prompt | Scenario) -> Name:
        self = super().__new__(cls, record.name)
        self.record = record
        return self

    def __reduce__(self) -> tuple[type[Name], tuple[Model | Prompt | Scenario]]:
        return Name, (self.record,)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self.record, attribute)


class GeneratedCandidate:
    """What one cell generated: the argument of a promptbench test.

    ``text`` is the first output and ``outputs`` are all of them; ``model``, ``prompt`` and ``scenario`` are names with
    their records behind them; ``usage`` holds tokens; ``cost_usd`` (US dollars) is None where the price is unknown;
    ``latency_s`` is the mean of a sample's seconds. Of a failed candidate, ``error`` says why, and asking for what it
    does not have raises GenerationError.
    """

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate
        self.model = Name(candidate.cell.model)
        self.prompt = Name(candidate.cell.prompt)
        self.scenario = Name(candidate.cell.scenario)

    @property
    def error(self) -> str | None:
        return self._candidate.error

    def _answered(self) -> Candidate:
        if self._candidate.error is not None:
            raise GenerationError(self._candidate.error)
        return self._candidate

    @property
    def outputs(self) -> list[str]:
        return list(self._answered().outputs)

    @property
    def text(self) -> str:
        return self._answered().outputs[0]

    @property
    def usage(self) -> Usage:
        return self._answered().usage

    @property
    def cost_usd(self) -> float | None:
        return self._answered().cost_usd

    @property
    def latency_s(self) -> float | None:
        return self._answered().latency_s

    def __repr__(self) -> str:
        if self.error:
            what = f"error={self.error!r}"
        else:
            what = f"text={self.text if len(self.text) <= _SHOWN else self.text[: _SHOWN - 1] + '…'!r}"
        return f"<candidate {'-'.join((self.model, self.prompt, self.scenario))} {what}>"
