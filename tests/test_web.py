"""The pages over the API: what they escape, and judging by keyboard in a real browser."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pytest_promptbench.api import pages
from pytest_promptbench.api.pages import rubric_html
from pytest_promptbench.catalog.rubric import load_rubric
from pytest_promptbench.packet import item_ids
from pytest_promptbench.records import Judge, Rubric, Tier
from pytest_promptbench.report import views
from pytest_promptbench.report.text import var_text
from pytest_promptbench.tracking.store import TrackingStore

from .project import RUBRIC, Project, migrated_database
from .provider import Fault, ScriptedProvider
from .test_api import TOKEN, answer, client_of, copy_of, scored, served
from .test_scorers import own_rubric

EXPERIMENT = "a/b <i>&\"' night"
CHROMEDRIVER = shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(
    CHROMEDRIVER is None, reason="no chromedriver: the page was NOT tried in a browser (apt install chromium-driver)"
)
TURNS = [{"role": "user", "content": "<img src=x onerror=alert(1)>"}, {"role": "assistant", "content": "Why?"}]
NEARLY = [{"role": "user", "content": "Hi,\n  there", "name": {"first": "Ann", "others": []}}]
EVIL_RUBRIC = RUBRIC.lstrip("\n") + (
    "\n<script>document.documentElement.dataset.owned=2</script>\n\n[x](javascript:alert(1)) ![y](http://evil.example/y)\n\n"
    "| score | the output |\n| ---: | --- |\n| 5 | is **best** |\n"
)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Two prompts of one model on two scenarios; texts, rubric and experiment's name are full of markup.

    One scenario brings a conversation along, and one what is nearly one.
    """
    root = tmp_path_factory.mktemp("web")
    migrated_database(root / "mlflow.db")
    with ScriptedProvider(reply=answer) as provider:
        project = Project(root, provider, models=("haiku",), scenarios=2).write()
        (root / "rubrics/tip-v1.md").write_text(EVIL_RUBRIC, encoding="utf-8")
        suite = root / "evals/tips.yaml"
        text = suite.read_text().replace("situation-0}", f"situation-0, so_far: {json.dumps(TURNS)}}}")
        suite.write_text(text.replace("situation-1}", f"situation-1, so_far: {json.dumps(NEARLY)}}}"))
        done = project.pytest("--bench-experiment", EXPERIMENT)
        assert done.code == 0, done.text
        yield project


def markup(page: str) -> str:
    """A page's tags, without their texts: what is not escaped would show up here."""
    return " ".join(re.findall(r"<[^>]*>", page))


def landmarks(page: str) -> list[str]:
    """The names of a page's parts that screen readers list."""
    tags = re.findall(r"<(?:section|nav|aside) [^>]*>|<[a-z]+ [^>]*role=\"region\"[^>]*>", page)
    return [name for tag in tags for name in re.findall(r"aria-label(?:ledby)?=\"([^\"]*)\"", tag)]


# -- what is sent


def test_every_text_of_others_is_escaped(logged: Project) -> None:
    client = client_of(logged.root)
    pages = [client.get("/"), client.get("/experiment", params={"name": EXPERIMENT, "scenario": "s0"})]
    pages.append(client.get("/judge", params={"name": EXPERIMENT}))
    for page in pages:
        assert page.status_code == 200, page.text
        tags = markup(page.text)
        assert "<i>" not in tags
        assert "dataset.owned" not in tags
        assert "onerror" not in tags
        assert "javascript:" not in tags
        assert "evil.example" not in tags
        assert re.findall(r"<script[^>]*>", page.text) in ([], ['<script src="/static/judge.js" defer>'])
        assert not re.search(r'\s(style|on[a-z]+)="', tags)
    assert "&lt;script&gt;document.documentElement.dataset.owned=1" in pages[1].text
    assert "\x1b" not in pages[1].text
    assert "\u202e" not in pages[1].text


def test_texts_of_others_run_in_their_own_direction(logged: Project) -> None:
    client = client_of(logged.root)
    experiment = client.get("/experiment", params={"name": EXPERIMENT, "scenario": "s0"}).text
    judge = client.get("/judge", params={"name": EXPERIMENT}).text
    tags = re.findall(r"<dd[^>]*>(?=situation)|<[^>]*class=\"output[^>]*>|<textarea[^>]*>", experiment + judge)
    assert len(tags) == 1 + 2 + 2
    assert all('dir="auto"' in tag for tag in tags), tags


def test_a_rubric_is_shown_as_tables_and_nothing_else(logged: Project) -> None:
    html = rubric_html(Rubric(id="r", text=EVIL_RUBRIC, criteria=(), sha256="x"))
    assert "<strong>best</strong>" in html
    assert "<table>" in html
    assert set(re.findall(r"<([a-z0-9]+)", html)) <= {
        "h3", "p", "table", "thead", "tbody", "tr", "th", "td", "strong",
    }  # fmt: skip
    assert "style=" not in html


def test_the_judging_page_is_blind(logged: Project) -> None:
    page = client_of(logged.root).get("/judge", params={"name": EXPERIMENT}).text
    assert not any(word in page for word in ("haiku", "v2", "s0", "s1"))


def test_why_an_automatic_judge_gave_no_verdict_is_shown(logged: Project, tmp_path: Path) -> None:
    store = TrackingStore(f"sqlite:///{copy_of(logged, tmp_path)}/mlflow.db", artifact_root=None)
    candidate = store.read(EXPERIMENT)[0]
    rubric = load_rubric(logged.root / "rubrics/tip-v1.md")
    store.record_failure(candidate, Judge(tier=Tier.AUTO, name="haiku"), "no <b>JSON</b>", rubric)
    shown = {"name": EXPERIMENT, "scenario": candidate.scenario}
    page = client_of(tmp_path).get("/experiment", params=shown).text
    assert "haiku, auto: no valid verdict" in page
    assert "no &lt;b&gt;JSON&lt;/b&gt;" in page


def test_a_text_that_is_cut_says_so(logged: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = copy_of(logged, tmp_path)
    client = client_of(root)
    packet = scored(client.get(f"/api/bench/packet/{quoted(EXPERIMENT)}").json())
    for item in packet["items"]:
        item["candidates"][0]["rationale"] = "because " * 20
    assert client.post("/api/bench/verdicts", json=packet).status_code == 200
    shown = {"name": EXPERIMENT, "scenario": "s1"}
    assert "cut:" not in client.get("/experiment", params=shown).text
    monkeypatch.setattr(views, "LONGEST", 10)
    page = client.get("/experiment", params=shown).text
    told = re.findall(r">([^<>]{10})…\ncut: the first 10 of (\d+) characters<", page)
    assert ("situation-", "11") in told, "the context"
    assert told.count(("because be", "160")) == 2, "the rationales"
    assert len(told) == 3
    assert len(re.findall(r">[^<>]{10}</div><p class=\"facts\">cut: the first 10 of \d+ characters</p>", page)) == 2


def test_pages_hold_what_screen_readers_need(logged: Project) -> None:
    client = client_of(logged.root)
    for path in ("/", "/experiment", "/judge"):
        page = client.get(path, params={"name": EXPERIMENT}).text
        assert '<html lang="en">' in page
        assert page.count("<h1") == 1
        assert 'href="#main"' in page
        assert len(landmarks(page)) == len(set(landmarks(page))), "each can be told from the others"
        assert all("aria-label" in table for table in re.findall(r"<table[^>]*>(?=\s*<thead><tr><th scope)", page))
        for control in re.findall(r"<(?:input|textarea)[^>]*id=\"([a-z]+)\"", page):
            assert f'for="{control}"' in page or re.search(rf"<label[^>]*>[^<]*<[^>]*id=\"{control}\"", page)


def test_what_is_not_there_is_a_page_for_people(logged: Project) -> None:
    client = client_of(logged.root)
    page = client.get("/experiment", params={"name": "<b>nightly"}, headers={"Accept": "text/html"})
    assert page.status_code == 404
    assert "Not found" in page.text
    assert "&lt;b&gt;nightly" in page.text
    assert client.get("/static/../app.py").status_code == 404
    assert client.get("/static/%2e%2e%2fapp.py").status_code == 404
    for name in ("pages.css", "judge.js"):
        file = client.get(f"/static/{name}")
        again = client.get(f"/static/{name}", headers={"If-None-Match": file.headers["etag"]})
        assert (file.status_code, again.status_code) == (200, 304)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "words"),
    [
        ("GET", "/", {"Host": "bench.example"}, 421, "localhost and 127.0.0.1 only"),
        ("POST", "/logout", {"Origin": "http://bench.example"}, 403, "a page of another site"),
        ("POST", "/login", {"Content-Length": "70000"}, 413, "the body is larger than"),
        ("GET", "/nowhere", {}, 404, "the pages begin at /"),
    ],
)
def test_who_is_refused_sees_a_page(
    logged: Project, method: str, path: str, headers: dict[str, str], status: int, words: str
) -> None:
    client = client_of(logged.root)
    page = client.request(method, path, headers={"Accept": "text/html,*/*;q=0.8", **headers})
    assert (page.status_code, page.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert "<h1>" in page.text
    assert words in page.text
    assert page.headers["cache-control"] == "no-store"
    assert "script-src 'self'" in page.headers["content-security-policy"]
    for told in (client.request(method, path, headers=headers), client.get("/api/nowhere", headers=headers)):
        assert told.headers["content-type"] == "application/problem+json", "for programs"


def test_a_leaderboard_with_verdicts_has_its_picture(logged: Project, tmp_path: Path) -> None:
    client = client_of(copy_of(logged, tmp_path))
    packet = client.get("/api/bench/packet/" + quoted(EXPERIMENT)).json()
    for name, value in (("Ada", 4), ("Bob", 3)):
        sent = scored(packet, value=value, judge_kind="human", judged_by=name)
        assert client.post("/api/bench/verdicts", json=sent).json()["applied"] == 4
    page = client.get("/experiment", params={"name": EXPERIMENT}).text
    assert '<circle class="dot"' in page
    told = re.sub(r'<div class="axis" aria-hidden="true">.*?</div>', "", page, flags=re.DOTALL)
    pictures = re.findall(r"<svg[^>]*>", told)
    assert len(pictures) == 2
    assert all('aria-label="' in picture for picture in pictures), "screen readers are told"
    assert "Agreement of human: Ada and human: Bob" in page


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance of ``#rgb`` or ``#rrggbb``."""
    digits = colour.removeprefix("#")
    parts = [d * 2 for d in digits] if len(digits) == 3 else [digits[i : i + 2] for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (int(p, 16) / 255 for p in parts)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def mixed(above: str, below: str, share: float) -> str:
    """A colour that lets ``below`` through."""
    parts = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in (above, below)]
    return "#" + "".join(f"{round(a * share + b * (1 - share)):02x}" for a, b in zip(*parts, strict=True))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("sheet", ["api/static/pages.css", "report/leaderboard.css"])
def test_what_is_written_stands_out_from_what_it_is_written_on(sheet: str, scheme: int) -> None:
    """WCAG 2.2 AA: 4.5 for text (1.4.3), 3 for borders of controls and parts of pictures (1.4.11)."""
    style = (Path(pages.__file__).parents[1] / sheet).read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6});", blocks[scheme]))
    seen, share = re.findall(r"--accent-soft: (#[0-9a-f]{6})([0-9a-f]{2});", blocks[scheme])[0]
    for ground in ("paper", "card"):  # of the criterion that is marked, and of a line that a prompt gained
        below = colours[ground] if len(colours[ground]) == 7 else "#ffffff"
        colours[f"marked {ground}"] = mixed(seen, below, int(share, 16) / 255)
    grounds = ("paper", "card", "tint")
    pairs = [(ink, ground, 4.5) for ink in ("ink", "soft", "accent", "bad", "wait") for ground in grounds]
    pairs += [(ink, f"marked {g}", 4.5) for ink in ("ink", "soft", "bad") for g in ("paper", "card")]
    pairs += [("other", ground, 3.0) for ground in grounds]
    if "on-accent" in colours:
        pairs.append(("on-accent", "accent", 4.5))
    for opacity in re.findall(r"fill-opacity: ([0-9.]+)", style):
        colours["faint"] = mixed(colours["other"], colours["paper"], float(opacity))
        pairs.append(("faint", "paper", 3.0))
    for ink, ground, wanted in pairs:
        dark, light = sorted((luminance(colours[ink]), luminance(colours[ground])))
        assert (light + 0.05) / (dark + 0.05) >= wanted, f"{ink} on {ground}"


def quoted(name: str) -> str:
    return "".join(f"%{b:02X}" for b in name.encode())


# -- in a browser


class Browser:
    """Headless Chromium over the WebDriver protocol."""

    def __init__(self, profile: Path) -> None:
        assert CHROMEDRIVER is not None
        self.driver = subprocess.Popen([CHROMEDRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
        assert self.driver.stdout is not None
        line = next(x for x in self.driver.stdout if "successfully on port" in x)
        port = int(re.findall(r"[0-9]+", line)[-1])
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        arguments = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
            "--window-size=1280,1000", f"--user-data-dir={profile}",
        ]  # fmt: skip
        wanted = {"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}}
        self.session = ""
        self.session = (
            "/session/" + self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        )
        self.first = self.call("GET", "/window")
        self.origins: set[str] = set()

    def call(self, method: str, path: str, body: object = None) -> Any:
        response = self.http.request(method, self.session + path, json={} if body is None else body)
        value = response.json()["value"]
        assert response.status_code == 200, value
        return value

    def open(self, url: str) -> None:
        self.origins.add("/".join(url.split("/")[:3]))
        self.call("POST", "/url", {"url": url})

    def cdp(self, command: str, **params: Any) -> None:
        self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def judge(self, address: str) -> None:
        """Open the judging page of the experiment, and wait until it is there."""
        self.open(f"{address}/judge?name={quoted(EXPERIMENT)}")
        self.wait("document.documentElement.dataset.ready")

    def run(self, script: str) -> Any:
        return self.call("POST", "/execute/sync", {"script": script, "args": []})

    def press(self, keys: str) -> None:
        """Real key presses, wherever the focus is."""
        actions = [a for k in keys for a in ({"type": "keyDown", "value": k}, {"type": "keyUp", "value": k})]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def wait(self, condition: str) -> Any:
        for _ in range(150):
            found = self.run(f"return {condition}")
            if found:
                return found
            time.sleep(0.1)
        raise AssertionError(f"{condition}: {self.run('return document.body.innerText')}")

    def complaints(self) -> list[str]:
        """What the console has of errors; what it merely advises is left out."""
        log = self.call("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in log if entry["level"] == "SEVERE"]

    @contextlib.contextmanager
    def tab(self) -> Iterator[None]:
        """Be in a new one, which holds nothing of those before: no page, cookie, complaint or screen's size."""
        handle = self.call("POST", "/window/new", {"type": "tab"})["handle"]
        self.call("POST", "/window", {"handle": handle})
        self.complaints()
        yield
        self.cdp("Network.clearBrowserCookies")
        for origin in self.origins:
            self.cdp("Storage.clearDataForOrigin", origin=origin, storageTypes="all")
        self.origins.clear()
        for handle in self.call("GET", "/window/handles"):
            if handle != self.first:
                self.call("POST", "/window", {"handle": handle})
                self.call("DELETE", "/window")
        self.call("POST", "/window", {"handle": self.first})

    def close(self) -> None:
        try:
            self.http.request("DELETE", self.session)
        finally:
            self.http.close()
            self.driver.terminate()
            self.driver.wait(20)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with contextlib.closing(Browser(tmp_path_factory.mktemp("chromium"))) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    with chromium.tab():
        yield chromium


@pytest.fixture(scope="module")
def address(logged: Project) -> Iterator[str]:
    """Of a service where nothing is changed."""
    with served(logged.root) as found:
        yield found


ENTER, ESCAPE = "\ue007", "\ue00c"


@pytest.mark.browser
@needs_chromium
def test_a_person_judges_by_keyboard(logged: Project, tmp_path: Path, browser: Browser) -> None:
    root = copy_of(logged, tmp_path / "project")
    with served(root, PROMPTBENCH_API_TOKEN=TOKEN) as address:
        browser.open(f"{address}/")
        assert browser.run("return location.pathname") == "/login"
        browser.press(TOKEN + ENTER)
        browser.wait("location.pathname === '/'")
        assert browser.run("return document.cookie") == ""
        browser.run("document.querySelector('tbody td a').click()")
        browser.wait("document.documentElement.dataset.ready")
        assert browser.run("return document.activeElement.id") == "name"

        browser.press("Ada Lovelace" + ENTER)
        browser.press("45")
        browser.press("2")
        assert browser.run("return document.querySelector('fieldset.current legend').textContent") == "format_ok"
        assert browser.run("return document.getElementById('next').disabled")
        browser.press(ENTER)
        assert "Score format_ok first" in browser.run("return document.getElementById('problem').innerText")
        browser.press("y" + ENTER)
        assert browser.wait("document.getElementById('count').textContent === '1 of 4 judged'")

        # Taken back before it was sent, and judged otherwise, with a reason.
        browser.press("u")
        assert browser.run("return document.getElementById('count').textContent") == "0 of 4 judged"
        checked = "return [...document.querySelectorAll('input[type=radio]:checked')].map((i) => i.value)"
        assert browser.run(checked) == ["4", "5", "2", "true"]
        browser.press("f")
        assert browser.run(checked) == ["4", "5", "2", "false"]
        browser.press("r")
        browser.press("too long, 5 of 5 words" + ESCAPE)
        browser.press(ENTER)
        browser.press("333n" + ENTER)
        browser.press("s")
        browser.wait("document.getElementById('saved').textContent === 'all saved'")
        assert browser.run("return document.documentElement.dataset.owned") is None
        assert browser.complaints() == []

        # Of what was sent, skipping takes nothing back, and does not say so.
        browser.press("ul")
        assert "was saved before, and stays" in browser.run("return document.getElementById('problem').innerText")
        assert browser.run("return document.getElementById('count').textContent") == "2 of 4 judged"

        # What is skipped stays pending. A session that ended takes nothing with it.
        browser.press("l")
        browser.call("DELETE", "/cookie")
        browser.press("111y" + ENTER)
        browser.wait("document.getElementById('done-title').textContent === '1 skipped, the rest is judged'")
        browser.wait("document.getElementById('problem').innerText.includes('Log in in another tab, then press s')")
        assert browser.run("return document.getElementById('saved').textContent") == "1 not saved yet"
        first, page = browser.call("GET", "/window"), browser.run("return location.href")
        browser.call("POST", "/window", {"handle": browser.call("POST", "/window/new", {"type": "tab"})["handle"]})
        browser.open(page)
        browser.press(TOKEN + ENTER)
        browser.wait("document.documentElement.dataset.ready")
        assert browser.run("return location.href") == page
        browser.call("POST", "/window", {"handle": first})
        browser.press("s")
        browser.wait("document.getElementById('saved').textContent === 'all saved'")
        assert browser.run("return document.getElementById('progress').value") == 3

    store = TrackingStore(f"sqlite:///{root}/mlflow.db", artifact_root=None)
    found = store.read(EXPERIMENT)
    verdicts = [v for c in found for v in c.verdicts]
    assert {(v.judge.tier, v.judge.name) for v in verdicts} == {(Tier.HUMAN, "Ada Lovelace")}
    assert sum(c.pending for c in found) == 1
    scores = sorted(tuple(v.scores[k] for k in ("relevance", "actionability", "tone", "format_ok")) for v in verdicts)
    assert scores == [(1.0, 1.0, 1.0, True), (3.0, 3.0, 3.0, False), (4.0, 5.0, 2.0, False)]
    assert [v.rationale for v in verdicts if v.scores["relevance"] == 4] == ["too long, 5 of 5 words"]
    judged = next(c for c in found if not c.pending)
    assert judged.trace_id is not None
    feedback = store._traces.get_trace_info(judged.trace_id).assessments
    assert {f.source.source_type for f in feedback} == {"HUMAN"}
    assert {f.source.source_id for f in feedback} == {"Ada Lovelace"}


@pytest.mark.browser
@needs_chromium
def test_no_script_of_a_model_runs(address: str, browser: Browser) -> None:
    for path in ("/experiment?scenario=s0&name=", "/judge?name="):
        browser.open(f"{address}{path}{quoted(EXPERIMENT)}")
        browser.wait("document.readyState === 'complete'")
        assert browser.run("return document.documentElement.dataset.owned") is None
        assert browser.run("return document.querySelectorAll('img, i, iframe').length") == 0
    browser.wait("document.documentElement.dataset.ready")
    seen = set()
    browser.press("Eve" + ENTER)
    contexts = set()
    for _ in range(4):
        seen.add(browser.run("return document.getElementById('output').textContent"))
        contexts.add(browser.run("return document.getElementById('context').innerText"))
        browser.press("l")
    assert contexts == {
        "situation\nsituation-0\nso_far\nuser: <img src=x onerror=alert(1)>\nassistant: Why?",
        f"situation\nsituation-1\nso_far\n{var_text(NEARLY)}",
    }
    assert any("<script>" in text for text in seen), seen
    assert all("\u202e" not in text and "\x1b" not in text for text in seen)
    assert browser.run("return document.documentElement.dataset.owned") is None
    # An inline script that got into the page all the same would not run either.
    browser.run(
        "const s = document.createElement('script'); s.textContent = 'document.title = 1'; document.body.append(s)"
    )
    assert browser.run("return document.title") != "1"
    assert any("Content Security Policy" in c for c in browser.complaints())


@pytest.mark.browser
@needs_chromium
def test_a_key_that_is_held_is_meant_once(address: str, browser: Browser) -> None:
    def hold(key: str) -> None:
        for again in ("false", "true", "true"):
            event = f"new KeyboardEvent('keydown', {{key: '{key}', repeat: {again}, bubbles: true}})"
            browser.run(f"document.getElementById('which').dispatchEvent({event})")

    browser.judge(address)
    hold("5")
    assert browser.run("return [...document.querySelectorAll('input[type=radio]:checked')].map((i) => i.value)") == [
        "5"
    ]
    hold("l")
    browser.press("u")
    assert browser.run("return document.getElementById('undo').disabled"), "one was skipped"


@pytest.mark.browser
@needs_chromium
def test_pages_are_no_wider_than_a_phone(address: str, browser: Browser) -> None:
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.cdp("Emulation.setDeviceMetricsOverride", **phone)
    wide = "internationalisation-" * 8
    for path in ("/", "/experiment?name=", "/judge?name="):
        browser.open(f"{address}{path}{quoted(EXPERIMENT) if '=' in path else ''}")
        browser.wait("document.readyState === 'complete'")
        browser.run("document.querySelectorAll('details').forEach((d) => (d.open = true))")
        browser.run(
            "document.querySelectorAll('.rubric').forEach((r) => (r.innerHTML += "
            f"'<pre>{wide}</pre><table><tr><td>{wide}</td></tr></table>'))"
        )
        assert browser.run("return document.documentElement.scrollWidth") == 360, path


@pytest.mark.browser
@needs_chromium
@pytest.mark.parametrize("width", [360, pytest.param(1280, marks=pytest.mark.slow)])
def test_what_scrolls_is_reached_by_keyboard(logged: Project, tmp_path: Path, browser: Browser, width: int) -> None:
    """Not every browser lets the keyboard reach a box for its scrolling alone."""
    screen = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.cdp("Emulation.setDeviceMetricsOverride", **screen)
    root = copy_of(logged, tmp_path / "project")
    for number, reply in enumerate(("line\n" * 19, "two words " * 70)):
        logged.provider.script(f"situation-{number}", Fault(kind="text", body=reply))
    try:
        assert Project(root, logged.provider).pytest("--bench-experiment", "long", "--bench-no-cache").code == 0
    finally:
        logged.provider.reset()
    over = (
        "document.querySelectorAll('details').forEach((d) => (d.open = true));"
        "return [...document.querySelectorAll('.output, .error')].filter((e) => e.scrollHeight > e.clientHeight + 1)"
        ".map((e) => e.tabIndex)"
    )
    browser.open((root / ".promptbench/report/leaderboard.html").as_uri())
    assert browser.run(over) == [0] * 4
    with served(root) as address:
        for scenario in ("s0", "s1"):
            browser.open(f"{address}/experiment?name=long&scenario={scenario}")
            found = browser.run(over)
            assert set(found) <= {0}
            assert found or (scenario, width) == ("s1", 1280)
        browser.open(f"{address}/judge?name=long")
        browser.wait("document.documentElement.dataset.ready")
        assert browser.run("return document.getElementById('output').tabIndex") == 0


@pytest.mark.browser
@needs_chromium
def test_the_keys_that_are_told_are_those_of_the_rubric(logged: Project, tmp_path: Path, browser: Browser) -> None:
    root = copy_of(logged, tmp_path / "project")
    scales = RUBRIC.lstrip("\n").replace("min: 1, max: 5", "min: 0, max: 10")
    scales = scales.replace("tone, type: scale, min: 0, max: 10", "tone, type: scale, min: 0, max: 1")
    (root / "rubrics/tip-v1.md").write_text(scales, "utf-8")
    assert Project(root, logged.provider).pytest("--bench-experiment", EXPERIMENT).code == 0
    with served(root) as address:
        browser.judge(address)
        told = "document.getElementById('digits').innerText"
        assert browser.run(f"return {told}").startswith("0-9 score the marked criterion")
        browser.press("Ada" + ENTER + "09")
        checked = "[...document.querySelectorAll('input[type=radio]:checked')].map((i) => i.value)"
        assert browser.run(f"return {checked}") == ["0", "9"]
        numbers = "[...document.querySelectorAll('input[type=number]')].map((i) => [i.min, i.max])"
        assert browser.run(f"return {numbers}") == [["0", "1"]], "what lies between 0 and 1 can be said"
        browser.run("document.querySelector('input[type=number]').focus()")
        said = (
            "const i = document.querySelector('input[type=number]');"
            "const told = document.getElementById(i.getAttribute('aria-describedby'));"
            "return [i.ariaInvalid, told.textContent, document.getElementById('next').disabled]"
        )
        browser.press("7")
        assert browser.run(said) == ["true", "not a number from 0 to 1", True]
        browser.press("\ue0030.7")
        assert browser.run(said)[:2] == ["false", "0 to 1"]


@pytest.mark.browser
@needs_chromium
def test_single_keys_can_be_turned_off(logged: Project, tmp_path: Path, browser: Browser) -> None:
    """WCAG 2.1, 2.1.4: what a microphone hears as letters would score."""
    checked = "return document.querySelectorAll('input[type=radio]:checked').length"
    shown = (
        "return [...document.querySelectorAll('kbd')].filter((k) => k.getClientRects().length).map((k) => k.innerText)"
    )
    with served(copy_of(logged, tmp_path / "project")) as address:
        browser.judge(address)
        browser.press("Ada" + ENTER)
        browser.run("document.getElementById('keys').focus()")
        browser.press("4")
        assert browser.run(checked) == 1, "a box to tick is no field to write in"
        browser.press("u 5yrsl")
        assert browser.run(checked) == 1
        assert browser.run("return document.activeElement.id") == "keys"
        assert browser.run(shown) == ["Enter"], "no key is told that does nothing"
        browser.judge(address)
        browser.press("444y")
        assert browser.run(checked) == 0, "it stays as it was set"
        browser.run(
            "for (const name of ['relevance', 'actionability', 'tone', 'format_ok'])"
            " document.querySelector(`[name=c-${name}]`).click();"
            "window.fetch = () => Promise.reject(new Error('no network'))"
        )
        browser.run("document.getElementById('which').focus()")
        browser.press(ENTER)
        browser.wait("document.getElementById('saved').textContent === '1 not saved yet'")
        browser.run("document.getElementById('save').click()")
        browser.wait("document.getElementById('problem').innerText.includes('Press Save now to try again')")


@pytest.mark.browser
@needs_chromium
def test_in_the_users_own_colours_choice_and_mark_are_seen(address: str, browser: Browser) -> None:
    own = {"features": [{"name": "forced-colors", "value": "active"}]}
    browser.cdp("Emulation.setEmulatedMedia", **own)
    grounds = (
        "[...document.querySelectorAll('[name=c-relevance] + span')].map((e) => getComputedStyle(e).backgroundColor)"
    )
    marks = "[...document.querySelectorAll('fieldset')].map((e) => getComputedStyle(e).borderLeftColor)"
    browser.judge(address)
    assert browser.run("return matchMedia('(forced-colors: active)').matches")
    browser.press("Ada" + ENTER + "4")
    *others, chosen, last = browser.run(f"return {grounds}")
    assert chosen not in {*others, last}
    first, marked, *others = browser.run(f"return {marks}")
    assert marked not in {first, *others}


@pytest.mark.browser
@needs_chromium
def test_what_is_printed_is_dark_on_white_and_whole(address: str, browser: Browser) -> None:
    """Also for who looks at dark pages: paper has no ground of theirs."""
    paper = {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.cdp("Emulation.setEmulatedMedia", **paper)
    looks = (
        "const of = (s, ...names) => names.map((n) => getComputedStyle(document.querySelector(s))[n]);"
        "return [...of('body', 'color'), ...of('.output', 'maxHeight', 'overflowY'), ...of('.scroll', 'overflowX')]"
    )
    whole = ["rgb(31, 35, 40)", "none", "visible", "visible"]
    browser.open((Path(__file__).parent / "golden" / "leaderboard.html").as_uri())
    assert browser.run(looks) == whole
    browser.open(f"{address}/experiment?name={quoted(EXPERIMENT)}")
    assert browser.run(looks) == whole


@pytest.mark.browser
@needs_chromium
def test_on_a_phone_the_header_breaks_no_word(logged: Project, browser: Browser) -> None:
    phone = {"width": 320, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.cdp("Emulation.setDeviceMetricsOverride", **phone)
    with served(logged.root, PROMPTBENCH_API_TOKEN=TOKEN) as address:
        browser.open(f"{address}/login")
        browser.press(TOKEN + ENTER)
        browser.wait("document.querySelector('h1').textContent === 'Experiments'")
        heights = "[...document.querySelectorAll('.brand, .top button')].map((e) => e.offsetHeight)"
        brand, button = browser.run(f"return {heights}")
        assert brand < 30, "a line"
        assert button < 45
        assert browser.run("return document.documentElement.scrollWidth") == 320


@pytest.mark.browser
@needs_chromium
def test_on_a_phone_scores_stand_in_a_line_and_what_is_spoilt_can_be_read(
    logged: Project, tmp_path: Path, browser: Browser
) -> None:
    root = copy_of(logged, tmp_path / "project")
    store = TrackingStore(f"sqlite:///{root}/mlflow.db", artifact_root=None)
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.cdp("Emulation.setDeviceMetricsOverride", **phone)
    with served(root) as address:
        browser.judge(address)
        tops = "[...document.querySelectorAll('fieldset:first-of-type .choice')].map((c) => c.offsetTop)"
        assert len(browser.run(f"return {tops}")) == 5
        assert len(set(browser.run(f"return {tops}"))) == 1
        store.tag(store.read(EXPERIMENT)[0].run_id, {"promptbench.checks": "{"})
        browser.open(f"{address}/")
        browser.wait("document.readyState === 'complete'")
        box = "document.querySelector('tbody .bad').getBoundingClientRect()"
        assert "mend or delete the run" in browser.run("return document.querySelector('tbody .bad').textContent")
        assert browser.run(f"return {box}.right") <= 360
        browser.run("document.querySelector('.scroll').scrollLeft = 100")
        assert browser.run(f"return {box}.left") >= 0


@pytest.mark.browser
@needs_chromium
def test_a_long_name_is_written_over_no_other(address: str, browser: Browser) -> None:
    browser.open(f"{address}/experiment?name={quoted(EXPERIMENT)}")
    browser.wait("document.readyState === 'complete'")
    browser.run(f"document.querySelectorAll('tbody th').forEach((th) => (th.textContent = '{'long_name_' * 12}'))")
    over = "return [...document.querySelectorAll('tbody th')].filter((th) => th.scrollWidth > th.clientWidth).length"
    assert browser.run("return document.querySelectorAll('tbody th').length") > 0
    assert browser.run(over) == 0


@pytest.mark.browser
@needs_chromium
def test_each_candidate_is_shown_from_its_beginning(address: str, browser: Browser) -> None:
    phone = {"width": 360, "height": 500, "deviceScaleFactor": 1, "mobile": True}
    browser.cdp("Emulation.setDeviceMetricsOverride", **phone)
    browser.judge(address)
    browser.run(
        "const output = document.getElementById('output');"
        "Object.assign(output.style, {width: '3rem', minHeight: '0', maxHeight: '3rem'}); output.scrollTop = 40;"
        "document.getElementById('later').scrollIntoView()"
    )
    top = "document.getElementById('work').getBoundingClientRect().top"
    scrolled = "document.getElementById('output').scrollTop"
    assert browser.run(f"return {scrolled}") > 0
    assert browser.run(f"return {top}") < 0
    browser.run("document.getElementById('later').click()")
    assert browser.run(f"return {scrolled}") == 0
    assert -1 < browser.run(f"return {top}") < 500, "but for a fraction of a pixel"


@pytest.mark.browser
@needs_chromium
def test_a_key_costs_the_same_however_long_the_outputs_are_that_were_judged(
    logged: Project, tmp_path: Path, browser: Browser
) -> None:
    with served(copy_of(logged, tmp_path / "project")) as address:
        browser.judge(address)
        browser.press("Ada" + ENTER + "444y" + ENTER + "444y" + ENTER)
        browser.wait("document.getElementById('saved').textContent === '1 not saved yet'")
        browser.run(
            "window.made = []; const real = JSON.stringify;"
            "JSON.stringify = (...given) => { const text = real(...given); window.made.push(text); return text; }"
        )
        browser.press("5")
        made = browser.run("return window.made")
        assert made
        assert not any("output" in text for text in made), made


@pytest.mark.browser
@needs_chromium
def test_leaving_the_page_sends_a_long_verdict_too(logged: Project, tmp_path: Path, browser: Browser) -> None:
    """25,000 characters that are 75,000 bytes: browsers refuse to send more than 64 KiB for a page that is going."""
    with served(copy_of(logged, tmp_path / "project")) as address:
        browser.judge(address)
        browser.press("Eve" + ENTER)
        browser.run(
            "const why = document.getElementById('rationale'); why.value = '\u5b57'.repeat(25000);"
            "why.dispatchEvent(new Event('input'))"
        )
        browser.press("111y" + ENTER)
        browser.wait("document.getElementById('saved').textContent === '1 not saved yet'")
        browser.run(
            "Object.defineProperty(document, 'visibilityState', {value: 'hidden'});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        browser.wait("document.getElementById('saved').textContent === 'all saved'")


@pytest.mark.browser
@needs_chromium
def test_leaving_the_page_asks_before_it_loses_what_was_only_begun(
    logged: Project, tmp_path: Path, browser: Browser
) -> None:
    asks = "const e = new Event('beforeunload', {cancelable: true}); window.dispatchEvent(e); return e.defaultPrevented"
    with served(copy_of(logged, tmp_path / "project")) as address:
        browser.judge(address)
        browser.press("Eve" + ENTER)
        assert not browser.run(asks), "nothing is there to lose"
        browser.press("r")
        browser.press("a reason that took a while" + ESCAPE)
        assert browser.run(asks)
        browser.press("111y" + ENTER)
        assert browser.run(asks)
        browser.press("s")
        browser.wait("document.getElementById('saved').textContent === 'all saved'")
        assert not browser.run(asks)
        browser.press("22")
        assert browser.run(asks)
        browser.press("l")
        assert not browser.run(asks), "what is skipped is given up"
        browser.press("uuf")
        assert browser.run(asks), "what was saved was changed since"


@pytest.mark.browser
@needs_chromium
def test_a_refused_verdict_is_shown_and_kept(logged: Project, tmp_path: Path, browser: Browser) -> None:
    root = copy_of(logged, tmp_path / "project")
    with served(root) as address:
        browser.judge(address)
        browser.press("Eve" + ENTER)
        browser.press("111y" + ENTER)
    browser.press("s")
    browser.wait("document.getElementById('problem').innerText.includes('does not answer')")
    assert browser.run("return document.getElementById('saved').textContent") == "1 not saved yet"


@pytest.mark.browser
@needs_chromium
def test_a_verdict_that_is_refused_holds_up_no_other(logged: Project, tmp_path: Path, browser: Browser) -> None:
    root = copy_of(logged, tmp_path / "project")
    store = TrackingStore(f"sqlite:///{root}/mlflow.db", artifact_root=None)
    with served(root) as address:
        browser.judge(address)
        text = browser.run("return document.getElementById('output').textContent")
        first = httpx.get(f"{address}/api/bench/packet/{quoted(EXPERIMENT)}", timeout=60).json()["items"][0]["item"]
        gone = next(c.run_id for c in store.read(EXPERIMENT) if first in item_ids(c.run_id))
        store.client.delete_run(gone)
        browser.press("Eve" + ENTER)
        browser.press("111y" + ENTER)
        browser.press("222y" + ENTER)
        said = browser.wait("document.getElementById('problem').innerText")
        assert said.startswith(f"Not saved: number 1 of 4, {text[:60]}"), said
        assert f"item {first} is unknown: no candidate of the experiment" in said
        assert "or load this page anew for what is pending now" in said
        browser.press("333y" + ENTER)
        browser.press("444y" + ENTER)
        browser.wait("document.getElementById('saved').textContent === '1 not saved yet'")
        assert browser.run("return document.getElementById('problem').innerText") == said
        assert sum(bool(c.verdicts) for c in store.read(EXPERIMENT)) == 3

        # Whoever presses s has it tried again.
        store.client.restore_run(gone)
        browser.press("s")
        browser.wait("document.getElementById('saved').textContent === 'all saved'")
        assert browser.run("return document.getElementById('problem').hidden")
    assert sum(bool(c.verdicts) for c in store.read(EXPERIMENT)) == 4


@pytest.mark.browser
@needs_chromium
def test_a_refused_verdict_that_is_skipped_then_is_told_of_no_more(
    logged: Project, tmp_path: Path, browser: Browser
) -> None:
    root = copy_of(logged, tmp_path / "project")
    store = TrackingStore(f"sqlite:///{root}/mlflow.db", artifact_root=None)
    with served(root) as address:
        browser.judge(address)
        first = httpx.get(f"{address}/api/bench/packet/{quoted(EXPERIMENT)}", timeout=60).json()["items"][0]["item"]
        store.client.delete_run(next(c.run_id for c in store.read(EXPERIMENT) if first in item_ids(c.run_id)))
        browser.press("Eve" + ENTER)
        browser.press("111ys")
        browser.press(ENTER + "s")
        assert browser.wait("document.getElementById('problem').innerText").startswith("Not saved: number 1 of 4")
        browser.press("ul")
        assert browser.run("return document.getElementById('problem').innerText") == ""


@pytest.mark.browser
@needs_chromium
def test_whoever_takes_a_skip_back_judges_all_outputs_of_the_candidate(tmp_path: Path, browser: Browser) -> None:
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider(reply=answer) as provider:
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1",), scenarios=2, suite="samples: 2\n")
        assert project.write().pytest("--bench-experiment", EXPERIMENT).code == 0
    with served(tmp_path) as address:
        browser.judge(address)
        which = "return document.getElementById('which').textContent"
        browser.press("Ada" + ENTER)
        browser.press("444y" + ENTER)
        assert browser.run(which) == "Output 2 of 2"
        browser.press("22l")
        browser.press("u")
        assert browser.run(which) == "Output 1 of 2", "whose scores were given up too"
        browser.press("111y" + ENTER)
        browser.press("333y" + ENTER)
        assert browser.run("return document.getElementById('count').textContent") == "1 of 2 judged"
        browser.press("s")
        browser.wait("document.getElementById('saved').textContent === 'all saved'")
        browser.press("uu")
        assert browser.run(which) == "Output 1 of 2"
        assert browser.run("return document.getElementById('undo').disabled")


@pytest.mark.browser
@needs_chromium
def test_what_programs_found_is_shown_and_not_asked_for(tmp_path: Path, browser: Browser) -> None:
    """A scale's numbers as they are, and yes or no for a flag."""
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider(reply=lambda _: "a situation") as provider:
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1",), scenarios=1).write()
        own_rubric(project)
        assert project.pytest("--bench-experiment", EXPERIMENT).code == 0
    with served(tmp_path) as address:
        browser.judge(address)
        browser.press("Ada" + ENTER)
        found = browser.run("return document.querySelector('#criteria .filled').textContent")
        assert found == "A program found overlong: no, likeness: 0.5, shouts: no."
        browser.press("444y" + ENTER)
        assert browser.run("return document.getElementById('count').textContent") == "1 of 1 judged"


@pytest.mark.browser
@needs_chromium
def test_of_several_outputs_the_last_may_be_skipped_by_who_went_back_to_the_first(
    tmp_path: Path, browser: Browser
) -> None:
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider(reply=answer) as provider:
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1",), scenarios=2, suite="samples: 2\n")
        assert project.write().pytest("--bench-experiment", EXPERIMENT).code == 0
    with served(tmp_path) as address:
        browser.judge(address)
        browser.press("Ada" + ENTER + "111y" + ENTER + "111y" + ENTER)
        browser.press("uu" + ENTER + "l")
        assert browser.run("return document.getElementById('count').textContent") == "0 of 2 judged"
        browser.press("222y" + ENTER + "222y" + ENTER)
        browser.wait("document.getElementById('done-title').textContent === '1 skipped, the rest is judged'")
        browser.wait("document.getElementById('saved').textContent === 'all saved'")
    store = TrackingStore(f"sqlite:///{tmp_path}/mlflow.db", artifact_root=None)
    assert [v.scores["tone"] for c in store.read(EXPERIMENT) for v in c.verdicts] == [2.0]


@pytest.mark.browser
@needs_chromium
def test_what_is_scored_and_not_done_is_not_said_to_be_saved(logged: Project, tmp_path: Path, browser: Browser) -> None:
    saved = "document.getElementById('saved').textContent"
    with served(copy_of(logged, tmp_path / "project")) as address:
        browser.judge(address)
        browser.press("Eve" + ENTER)
        browser.press("111y" + ENTER + "s")
        browser.wait(f"{saved} === 'all saved'")
        browser.press("222ys")
        assert browser.run(f"return {saved}") == "all saved but this one"
        browser.press(ENTER + "s")
        browser.wait(f"{saved} === 'all saved'")
        browser.press("uf")
        assert browser.run(f"return {saved}") == "all saved but this one"
        browser.press("f")
        assert browser.run(f"return {saved}") == "all saved", "it is as it was saved"


@pytest.mark.browser
@needs_chromium
def test_a_verdict_stays_that_of_who_gave_it(logged: Project, tmp_path: Path, browser: Browser) -> None:
    root = copy_of(logged, tmp_path / "project")
    rename = "document.getElementById('name').focus(); document.getElementById('name').select()"
    with served(root) as address:
        browser.judge(address)
        browser.press("Ada" + ENTER + "111y" + ENTER)
        assert browser.run("return document.getElementById('saved').textContent") == "1 not saved yet"
        browser.run(rename)
        browser.press("Bob" + ENTER + "222y" + ENTER + "s")
        browser.wait("document.getElementById('saved').textContent === 'all saved'")
    store = TrackingStore(f"sqlite:///{root}/mlflow.db", artifact_root=None)
    verdicts = [v for c in store.read(EXPERIMENT) for v in c.verdicts]
    assert sorted((v.judge.name, v.scores["tone"]) for v in verdicts) == [("Ada", 1.0), ("Bob", 2.0)]


@pytest.mark.browser
@needs_chromium
def test_a_refused_verdict_stays_that_of_who_gave_it_unless_the_name_was_refused(
    logged: Project, tmp_path: Path, browser: Browser
) -> None:
    root = copy_of(logged, tmp_path / "project")
    store = TrackingStore(f"sqlite:///{root}/mlflow.db", artifact_root=None)
    rename = "document.getElementById('name').focus(); document.getElementById('name').select()"
    with served(root) as address:
        browser.judge(address)
        first = httpx.get(f"{address}/api/bench/packet/{quoted(EXPERIMENT)}", timeout=60).json()["items"][0]["item"]
        gone = next(c.run_id for c in store.read(EXPERIMENT) if first in item_ids(c.run_id))
        store.client.delete_run(gone)
        browser.press("Ada" + ENTER + "111y" + ENTER + "s")
        browser.wait("document.getElementById('problem').innerText.includes('is unknown')")
        browser.run(rename)
        browser.run("document.getElementById('name').setRangeText('B\\u202eo', 0, 3, 'end')")
        browser.press("b" + ENTER + "222y" + ENTER + "s")
        browser.wait("document.getElementById('problem').innerText.includes('a name has no control characters')")
        store.client.restore_run(gone)
        browser.run(rename)
        browser.press("Bob" + ENTER + "s")
        browser.wait("document.getElementById('saved').textContent === 'all saved'")
    verdicts = [v for c in store.read(EXPERIMENT) for v in c.verdicts]
    assert sorted((v.judge.name, v.scores["tone"]) for v in verdicts) == [("Ada", 1.0), ("Bob", 2.0)]


@pytest.mark.browser
@needs_chromium
def test_who_confirms_what_another_said_has_said_it_too(logged: Project, tmp_path: Path, browser: Browser) -> None:
    root = copy_of(logged, tmp_path / "project")
    saved = "document.getElementById('saved').textContent"
    with served(root) as address:
        browser.judge(address)
        browser.press("Ada" + ENTER + "111y" + ENTER + "222y" + ENTER + "s")
        browser.wait(f"{saved} === 'all saved'")
        browser.press("u" + ENTER)
        assert browser.run(f"return {saved}") == "all saved", "Ada said so before"
        browser.run("document.getElementById('name').focus(); document.getElementById('name').select()")
        browser.press("Bob" + ENTER + "u" + ENTER)
        assert browser.run(f"return {saved}") == "1 not saved yet"
        browser.press("ul")
        assert browser.run(f"return {saved}") == "all saved", "what is skipped is Ada's alone"
        browser.press("u" + ENTER + "s")
        browser.wait(f"{saved} === 'all saved'")
    store = TrackingStore(f"sqlite:///{root}/mlflow.db", artifact_root=None)
    verdicts = [v for c in store.read(EXPERIMENT) for v in c.verdicts]
    said = sorted((v.judge.name, v.scores["tone"]) for v in verdicts)
    assert said == [("Ada", 1.0), ("Ada", 2.0), ("Bob", 2.0)]


@pytest.mark.browser
@needs_chromium
def test_leaving_the_page_sends_what_each_of_two_people_judged(
    logged: Project, tmp_path: Path, browser: Browser
) -> None:
    root = copy_of(logged, tmp_path / "project")
    with served(root) as address:
        browser.judge(address)
        browser.run("window.real = window.fetch; window.fetch = () => Promise.reject(new Error('no network'))")
        browser.press("Ada" + ENTER + "111y" + ENTER)
        browser.run("document.getElementById('name').focus(); document.getElementById('name').select()")
        browser.press("Bob" + ENTER + "222y" + ENTER)
        browser.wait("document.getElementById('problem').innerText.includes('no network')")
        # What a page that is gone has asked for is still sent, and nothing of it runs any more.
        browser.run(
            "window.fetch = (...given) => { window.real(...given); return new Promise(() => {}); };"
            "Object.defineProperty(document, 'visibilityState', {value: 'hidden'});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        store = TrackingStore(f"sqlite:///{root}/mlflow.db", artifact_root=None)
        for _ in range(50):
            verdicts = [v for c in store.read(EXPERIMENT) for v in c.verdicts]
            if len(verdicts) > 1:
                break
            time.sleep(0.1)
        assert sorted((v.judge.name, v.scores["tone"]) for v in verdicts) == [("Ada", 1.0), ("Bob", 2.0)]


@pytest.mark.browser
@needs_chromium
def test_whoever_comes_back_sees_what_is_pending_now(logged: Project, tmp_path: Path, browser: Browser) -> None:
    with served(copy_of(logged, tmp_path / "project")) as address:
        browser.judge(address)
        browser.press("Eve" + ENTER)
        browser.press("111y" + ENTER + "s")
        browser.wait("document.getElementById('saved').textContent === 'all saved'")
        browser.open(f"{address}/")
        browser.call("POST", "/back")
        browser.wait("document.documentElement.dataset.ready")
        browser.wait("document.getElementById('count').textContent === '0 of 3 judged'")


@pytest.mark.browser
@needs_chromium
def test_an_experiment_is_judged_whatever_its_name(logged: Project, tmp_path: Path, browser: Browser) -> None:
    """Of a/../b, a browser would ask for b: its verdicts would be those of another experiment."""
    root = copy_of(logged, tmp_path / "project")
    names = ("b", "a/../b", "a/b", "x/%2e%2e/b", "\u00fc ?#&")
    store = TrackingStore(f"sqlite:///{root}/mlflow.db", artifact_root=None)
    for name in names:
        assert Project(root, logged.provider).pytest("--bench-experiment", name, "-k", "s0 and v1").code == 0
    with served(root) as address:
        for name in names[1:]:
            browser.open(f"{address}/judge?name={quoted(name)}")
            browser.wait("document.documentElement.dataset.ready")
            browser.run("document.getElementById('name').value = 'Ada'; document.getElementById('which').focus()")
            browser.press("111y" + ENTER)
            browser.wait("document.getElementById('saved').textContent === 'all saved'")
    assert [sum(bool(c.verdicts) for c in store.read(name)) for name in names] == [0, 1, 1, 1, 1]
