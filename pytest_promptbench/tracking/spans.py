"""A candidate as an MLflow trace: one chat span a sample, under one root where there are several."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

from ..records import Answer
from .entry import Logged, storable


def trace_id(run_id: str) -> str:
    """The id of a run's trace, derived from the run's, so that writing it twice makes one trace."""
    return "tr-" + hashlib.sha256(f"promptbench-trace:{run_id}".encode()).hexdigest()[:32]


def start_ms(record: Logged) -> int:
    """When the first request of a candidate was sent, in milliseconds since the epoch; now, where none was answered."""
    times = [a.started_at for a in record.candidate.answers if a.started_at]
    return int((min(times) if times else time.time()) * 1000)


def end_ms(record: Logged) -> int:
    """When its last answer was there, likewise."""
    times = [a.started_at + a.latency_s for a in record.candidate.answers if a.started_at]
    return int((max(times) if times else time.time()) * 1000)


def trace_spans(record: Logged, trace: str) -> list[Any]:
    """The trace of a candidate: one chat span a sample, under one root where there are several."""
    from mlflow.entities import Span

    candidate = record.candidate
    answers: tuple[Answer | None, ...] = candidate.answers or (None,)
    root = _span_id(trace, "root") if len(answers) > 1 else None
    spans = [_span(record, trace, _span_id(trace, str(i)), root, a) for i, a in enumerate(answers)]
    if root is not None:
        spans.insert(0, _span(record, trace, root, None, None))
    return [Span.from_dict(s) for s in spans]


def _span_id(trace: str, name: str) -> bytes:
    return hashlib.sha256(f"{trace}:{name}".encode()).digest()[:8]


def _span(record: Logged, trace: str, span: bytes, parent: bytes | None, answer: Answer | None) -> dict[str, Any]:
    candidate, cell = record.candidate, record.candidate.cell
    start, end = start_ms(record) * 1_000_000, end_ms(record) * 1_000_000
    outputs: Any = {"error": candidate.error} if candidate.failed else list(candidate.outputs)
    attributes: dict[str, Any] = {
        "mlflow.traceRequestId": trace,
        "mlflow.spanType": "CHAT_MODEL" if answer is not None or candidate.failed else "CHAIN",
        "mlflow.spanInputs": {"messages": [m.to_json() for m in cell.messages], **cell.params},
    }
    if parent is None:
        attributes["mlflow.traceTag.mlflow.traceName"] = " · ".join(cell.names)
    if answer is not None:
        start = int(answer.started_at * 1e9)
        end = start + int(answer.latency_s * 1e9)
        outputs = {"choices": [{"message": {"role": "assistant", "content": answer.text}}]}
        attributes["mlflow.llm.model"] = cell.model.model
        usage = answer.usage
        if usage.prompt_tokens is not None and usage.completion_tokens is not None:
            attributes["mlflow.chat.tokenUsage"] = {
                "input_tokens": usage.prompt_tokens,
                "output_tokens": usage.completion_tokens,
                "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            }
        if answer.cost_usd is not None:
            attributes["mlflow.llm.cost"] = {"total_cost": answer.cost_usd}
    attributes["mlflow.spanOutputs"] = outputs
    return {
        "trace_id": base64.b64encode(bytes.fromhex(trace.removeprefix("tr-"))).decode(),
        "span_id": base64.b64encode(span).decode(),
        "parent_span_id": base64.b64encode(parent).decode() if parent else None,
        "name": "candidate" if answer is None and not candidate.failed else "completion",
        "start_time_unix_nano": start,
        "end_time_unix_nano": end,
        "events": [],
        "status": {
            "code": "STATUS_CODE_ERROR" if candidate.failed else "STATUS_CODE_OK",
            "message": storable(candidate.error or ""),
        },
        "attributes": {k: json.dumps(_deep_storable(v), ensure_ascii=False) for k, v in attributes.items()},
    }


def _deep_storable(value: Any) -> Any:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, Mapping):
        return {k: _deep_storable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_deep_storable(v) for v in value]
    return value
