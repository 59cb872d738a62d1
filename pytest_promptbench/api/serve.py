"""Binding the port and serving, until the process is told to end."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import uvicorn

from ..errors import UsageError
from .app import create_app
from .settings import ServiceSettings

FOR_WHO_WAITS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "PGCONNECT_TIMEOUT": "10",
}
"""MLflow's client in here, and PostgreSQL's: somebody waits for the answer, and who asks again is the client. Their own
defaults, seven retries of 120 s each and no end, are for sessions.
"""

PATIENCE_S = 5
"""How long a service that is told to end waits for its requests: a client that stalls would hold it up for ever."""


def serve(settings: ServiceSettings, *, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. ``say`` is told the address once it is bound; port 0 takes any free one."""
    for name, value in FOR_WHO_WAITS.items():
        os.environ.setdefault(name, value)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host.strip("[]"), settings.port))
        except (OSError, TypeError, UnicodeError) as error:  # the last two: a name that no host can have
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"cannot bind {settings.host}:{settings.port}: {reason}") from None
        listener.listen(128)  # who reads the line below may connect at once
        port = listener.getsockname()[1]
        host = f"[{settings.host.strip('[]')}]" if family == socket.AF_INET6 else settings.host
        say(f"promptbench serves {settings.root} at http://{host}:{port}/ (API under /api, {_access(settings)})")
        config = uvicorn.Config(
            create_app(settings),
            log_level="warning",
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=PATIENCE_S,
        )
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        listener.close()


def _access(settings: ServiceSettings) -> str:
    if settings.open:
        return "no token is asked for"
    return " and ".join(
        kind
        for kind, token in (("a read-write token", settings.token), ("a read-only token", settings.read_token))
        if token is not None
    )
