"""The embedded models: one OpenAI-compatible server on loopback, in a child process of its own, for a whole session.

The controller starts it once, every worker asks it over HTTP. It serves one request at a time, without a prompt cache
but where it is asked for one, as by a judge: only so is a text the same whatever was asked before it. It ends when its
standard input closes, so nothing is left of it however its parent ends. By hand:
``python -m pytest_promptbench.localmodels --serve smollm2-135m``.
"""

from .server import Endpoint, LocalServer
from .weights import EMBEDDED, Weights, installed, lacking, unknown

__all__ = ["EMBEDDED", "Endpoint", "LocalServer", "Weights", "installed", "lacking", "unknown"]
