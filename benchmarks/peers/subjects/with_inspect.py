"""One task a prompt; the models come from the command line, so there are 12 tasks."""

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, prompt_template, system_message
from work import EXPECTED, SCENARIOS


def _task(name: str) -> Task:
    return Task(
        name=name,
        dataset=[Sample(id=s, input=s, target=EXPECTED) for s in SCENARIOS],
        solver=[system_message(f"be {name}"), prompt_template("Tip: {prompt}"), generate()],
        scorer=includes(),
    )


@task
def brief() -> Task:
    return _task("brief")


@task
def steps() -> Task:
    return _task("steps")


@task
def json() -> Task:
    return _task("json")
