"""Linters, types, and the promises that documents make about the code."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


def run(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_ruff_finds_nothing() -> None:
    run("ruff", "check", "--output-format=concise")


def test_ruff_would_format_nothing() -> None:
    run("ruff", "format", "--check")


def test_mypy_is_content() -> None:
    run("mypy")


def commands(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip().startswith("python3 -m venv")]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    try_it, test_it = commands((ROOT / "README.md").read_text())[:2]
    assert test_it in (ROOT / ".ci" / "run").read_text()
    assert "pytest evals/" in try_it


def test_the_page_of_options_lists_every_option_and_no_other() -> None:
    from pytest_promptbench.plugin.options import OPTIONS

    text = (ROOT / "docs" / "options.md").read_text()
    named = set(re.findall(r"^\| `(--[a-z-]+)", text, flags=re.MULTILINE))
    assert named == {flag for flag, _ in OPTIONS.values()}


def test_the_help_of_what_runs_no_test_says_so_as_its_page_does() -> None:
    from pytest_promptbench.plugin.options import OPTIONS
    from pytest_promptbench.settings import STEPS

    rows = dict(
        re.findall(r"^\| `(--[a-z-]+).*?` \| (.+) \|$", (ROOT / "docs" / "options.md").read_text(), flags=re.MULTILINE)
    )
    for name in STEPS:
        flag, details = OPTIONS[name]
        assert "runs no test" in details["help"], flag
        assert re.search("runs no test|no test runs", rows[flag]), flag


def test_pytest_fixtures_tells_all_that_a_candidate_has() -> None:
    """Of a docstring it shows the first paragraph."""
    from pytest_promptbench.candidate import GeneratedCandidate

    shown = run("pytest", "--fixtures", "-p", "no:cacheprovider", "tests/test_locks.py")
    about = shown.partition("\ncandidate -- ")[2].partition("\n\n")[0]
    properties = {name for name, value in vars(GeneratedCandidate).items() if isinstance(value, property)}
    assert {"text", "cost_usd"} <= properties
    assert properties | {"model", "prompt", "scenario", GeneratedCandidate.__name__} <= set(re.findall(r"\w+", about))


def test_the_page_of_the_prompt_loop_lists_every_option_and_no_other() -> None:
    import argparse

    from pytest_promptbench.optimize.command import add_arguments

    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    options = {flag for action in parser._actions for flag in action.option_strings}
    table = (ROOT / "docs" / "optimize.md").read_text().partition("## Options")[2]
    assert set(re.findall(r"`(--[a-z-]+)", table)) - {"--bench-promote-policy", "--bench-promote-within"} == options


def test_the_page_of_files_names_every_key() -> None:
    from pytest_promptbench.catalog import schema

    shapes = (x for x in vars(schema).values() if isinstance(x, type) and issubclass(x, schema.BaseModel))
    keys = {key for shape in shapes for key in shape.model_fields}
    assert {"description", "penalty", "optional"} <= keys
    text = (ROOT / "docs" / "files.md").read_text()
    assert [key for key in sorted(keys) if not re.search(rf"\b{key}\b", text)] == []


def test_the_example_of_a_ci_job_is_yaml_with_options_that_exist() -> None:
    from pytest_promptbench.plugin.options import OPTIONS

    text = (ROOT / ".github" / "workflows" / "evals.yml").read_text()
    assert yaml.safe_load(text)["jobs"]["evals"]["steps"]
    used = set(re.findall(r"--(?:bench|judge)-[a-z-]+", text))
    assert used
    assert used <= {flag for flag, _ in OPTIONS.values()}


def test_the_compose_file_is_yaml_whose_parts_refer_to_each_other() -> None:
    document = yaml.safe_load((ROOT / "docs" / "deploy" / "compose.yaml").read_text())
    services = document["services"]
    assert {"postgres", "mlflow", "airflow-api", "airflow-scheduler", "api"} <= set(services)
    for name, service in services.items():
        assert "image" in service or "build" in service, name
        assert set(service.get("depends_on", {})) <= set(services), name
        for mount in service.get("volumes", ()):
            assert mount.split(":")[0] in document["volumes"], f"{name}: {mount}"
        assert set(service.get("secrets", ())) <= set(document["secrets"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name


def test_the_compose_files_image_has_what_its_installation_reads() -> None:
    """In the order of its lines: an editable installation wants the wheel's files too, the DAG among them."""
    recipe = yaml.safe_load((ROOT / "docs" / "deploy" / "compose.yaml").read_text())["x-project"]["build"]
    before, pip, _ = recipe["dockerfile_inline"].partition("RUN pip install")
    assert pip
    copied = {name for line in re.findall(r"^COPY (.+) \S+$", before, flags=re.MULTILINE) for name in line.split()}
    assert all((ROOT / name).exists() for name in copied)
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = about["tool"]["hatch"]["build"]["targets"]["wheel"]
    read = {"pyproject.toml", "constraints-airflow.txt", about["project"]["readme"], *about["project"]["license-files"]}
    assert read | {name.partition("/")[0] for name in [*wheel["packages"], *wheel["force-include"]]} == copied


def test_the_page_of_judging_names_every_tag() -> None:
    from pytest_promptbench.tracking import entry

    tags = [x for name, x in vars(entry).items() if name.isupper() and name[0] != "_" and isinstance(x, str)]
    assert {"judge_pending", "promptbench.cell"} <= set(tags)
    text = (ROOT / "docs" / "judging.md").read_text()
    assert [tag for tag in tags if f"`{tag}" not in text] == []


def test_the_page_of_benchmarks_names_each() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text()
    assert [p.name for p in sorted(ROOT.glob("benchmarks/*.py")) if p.name not in text] == []


def test_a_source_distribution_is_the_whole_repository() -> None:
    """Without settings, hatchling packs whatever git does not ignore, and so what these tests and the README name."""
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "sdist" not in about["tool"]["hatch"]["build"]["targets"]


def test_tox_takes_its_constraints_as_its_schema_has_them() -> None:
    """A text: validate-pyproject, and editors that know tox's schema, take a list for a mistake in the whole file."""
    environments = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["tox"]["env"].values()
    assert environments
    assert all(isinstance(e["constraints"], str) and (ROOT / e["constraints"]).is_file() for e in environments)


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-lowest.txt", "constraints-airflow.txt"])
def test_constraints_pin_versions_without_addresses(name: str) -> None:
    lines = [x for x in (ROOT / name).read_text().splitlines() if x and not x.startswith("#")]
    assert lines
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!-]+", line) for line in lines)


def anchors(path: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", path.read_text()):
        page = path.parent / target if target else path
        assert page.exists(), f"{path.name} links to {target}"
        assert not anchor or anchor in anchors(page), f"{path.name} links to {target}#{anchor}"
