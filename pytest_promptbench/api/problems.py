"""Errors as RFC 9457 problem documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Response

MEDIA_TYPE = "application/problem+json"


class ProblemError(Exception):
    """An error with the HTTP status it is answered with; ``extra`` are further members of the problem document."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})

    def response(self) -> Response:
        body = {"type": "about:blank", "title": title(self.status), "status": self.status, "detail": self.detail}
        return Response(
            json.dumps({**body, **self.extra}),
            status_code=self.status,
            media_type=MEDIA_TYPE,
            headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **self.headers},
        )


def title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
