"""A completer that answers from a script: a real component, without HTTP."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_promptbench.records import Answer, Cell, Message, Model, Prompt, Request, Scenario, Usage


def cell(
    scenario: str = "s1", *, model: str = "m", prompt: str = "v1", samples: int = 1, text: str | None = None
) -> Cell:
    content = text or f"{prompt}: {scenario}"
    messages = (Message(role="user", content=content),)
    return Cell(
        task="tip",
        model=Model(name=model, model=f"openai/{model}"),
        prompt=Prompt(task="tip", version=prompt, messages=messages, sha256="p"),
        scenario=Scenario(id=scenario, vars={"situation": scenario}),
        messages=messages,
        params={},
        samples=samples,
    )


@dataclass
class ScriptedCompleter:
    """Answers "answer to <content>"; ``act`` may raise or return another text. Records what was asked."""

    latency_s: float = 0.0
    act: Callable[[Request, int], str | None] = lambda request, attempt: None
    price_usd: float | None = None
    asked: list[Request] = field(default_factory=list)
    in_flight: int = 0
    peak: int = 0
    prepared: int = 0
    closed: int = 0
    attempts: Counter[str] = field(default_factory=Counter)
    mutex: threading.Lock = field(default_factory=threading.Lock)

    def prepare(self) -> None:
        self.prepared += 1

    async def complete(self, request: Request) -> Answer:
        with self.mutex:
            self.asked.append(request)
            self.in_flight += 1
            self.peak = max(self.peak, self.in_flight)
            self.attempts[request.key] += 1
            attempt = self.attempts[request.key]
        try:
            await asyncio.sleep(self.latency_s)
            text = self.act(request, attempt) or f"answer {request.sample} to {request.messages[0].content}"
        finally:
            with self.mutex:
                self.in_flight -= 1
        usage = Usage(prompt_tokens=3, completion_tokens=5)
        return Answer(text=text, usage=usage, cost_usd=self.price_usd, latency_s=self.latency_s, started_at=1e9)

    async def close(self) -> None:
        self.closed += 1

    def worst_cost_usd(self, request: Request) -> float | None:
        return self.price_usd

    def redact(self, text: str) -> str:
        return text.replace("sk-secret", "***")
