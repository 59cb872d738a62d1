"""The console script ``promptbench``. Each subcommand parses, delegates, and turns errors into one line and a code."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from .errors import CatalogError, PromptbenchError, UsageError
from .settings import port

USAGE_ERROR = 4
FAILED = 1
_OUTPUT = "standard output"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand. 0: done; 1: it failed; 4: it, or a file that it reads, cannot be used as it stands."""
    _prepare_output()
    try:
        args = _parser().parse_args(argv)
        return int(args.run(args))
    except (UsageError, CatalogError) as error:
        _complain(error)
        return USAGE_ERROR
    except PromptbenchError as error:
        _complain(error)
        return FAILED
    except OSError as error:
        if error.filename != _OUTPUT:
            raise
        _complain(f"{_OUTPUT}: cannot be written: {error.strerror}")
        return FAILED
    except KeyboardInterrupt:
        return 130


def _prepare_output() -> None:
    """A name that the terminal has no letters for, or an output that the shell has closed, ends no command."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as long as the process
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class _Parser(argparse.ArgumentParser):
    """Mistakes on the command line are told like all others: in one line."""

    def error(self, message: str) -> NoReturn:
        _, _, command = self.prog.partition(" ")
        raise UsageError(f"{command}: {message}" if command else message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="promptbench", description="What goes on around evals: see also pytest --help.")
    parser.add_argument("--version", action="version", version=f"pytest-promptbench {version('pytest-promptbench')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    init = commands.add_parser(
        "init",
        help="a project to begin with: evals, prompts, a rubric, /judge-mlflow",
        description="Write the evals that are shipped into a folder, as a project to begin with: a suite, its test, "
        "models, prompts, a rubric, and the command /judge-mlflow for Claude Code. Files that are there stay.",
    )
    init.add_argument("folder", nargs="?", default=".", type=Path, metavar="DIR", help="where to (%(default)s)")
    init.set_defaults(run=_init)
    serve = commands.add_parser(
        "serve",
        help="the admin HTTP API and the pages over it",
        description="Serve the admin HTTP API and the pages over it. Tokens come from PROMPTBENCH_API_TOKEN (read and "
        "write) and PROMPTBENCH_API_READ_TOKEN (read only), the store from MLFLOW_TRACKING_URI.",
    )
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to bind; but for loopback, it needs a token (%(default)s)"
    )
    serve.add_argument("--port", default=8642, type=port, help="port to bind, 0 for any free one (%(default)s)")
    serve.add_argument("--root", default=".", type=Path, metavar="DIR", help="the project with its evals (%(default)s)")
    serve.set_defaults(run=_serve)
    optimize = commands.add_parser(
        "optimize",
        help="propose better prompts, try them, and promote a winner",
        description="Propose new versions of a prompt from its weakest answers, try them on the suite's scenarios, and "
        "compare the best with the start on scenarios that were locked away. Exit code 3: it waits for a judge.",
    )
    from .optimize.command import add_arguments

    add_arguments(optimize)
    optimize.set_defaults(run=_optimize)
    return parser


def _init(args: argparse.Namespace) -> int:
    from .starter import init

    for line in init(args.folder):
        _say(line)
    return 0


def _serve(args: argparse.Namespace) -> int:
    from .api.serve import serve
    from .api.settings import ServiceSettings

    serve(ServiceSettings.from_environment(root=args.root, host=args.host, port=args.port), say=_say)
    return 0


def _optimize(args: argparse.Namespace) -> int:
    from .optimize.command import run

    return run(args, _say)


def _say(line: str) -> None:
    """OSError of ``_OUTPUT`` where nobody reads any more, as behind ``| head``, or the disk is full."""
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except OSError as error:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - else Python tries once more at its end
        raise OSError(error.errno, error.strerror, _OUTPUT) from None


def _complain(error: Exception | str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"promptbench: {error}\n")
