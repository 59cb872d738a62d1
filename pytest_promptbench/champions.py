"""Promote a prompt to champion of its task, with a receipt, or take the last promotion back."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from .catalog import placeholders
from .clock import utc_now
from .errors import TrackingError, UsageError
from .files import replace_file
from .leaderboard import current_candidates
from .promotion import PROMOTION_SCHEMA, Policy, Promotion, decide, parse_bound
from .records import CONVERSATION, LoggedCandidate, Prompt
from .session import Task, by_group, cells_now, where
from .settings import Settings
from .steps import StepResult, experiment_of
from .tracking.registry import CHAMPION, OvertakenError, PromptRegistry, Registered


def promote(settings: Settings, tasks: Sequence[Task], name: str) -> StepResult:
    """Weigh the best prompt of the task ``name`` against its champion, and move the alias if every condition is met.

    The receipt is ``promotion.json`` beside the leaderboard, and an artifact in MLflow where the alias moved. Exit code
    1 for a refusal. UsageError where there is nothing to decide on.
    """
    mine = _suites_of(tasks, name)
    policy = Policy(settings.promote_policy)
    store = where(settings).store()
    registry = PromptRegistry(store)
    experiment = experiment_of(store, settings, mine[0], option="--bench-promote")
    champion = registry.champion(name)
    decision = decide(
        _rivals(store.read(experiment), mine, champion),
        mine[0].suite.rubric,
        task=name,
        experiment=experiment,
        champion=None if champion is None else (champion.version, champion.sha256),
        policy=policy,
        bounds=dict(parse_bound(text) for text in settings.promote_within),
    )
    prompts = [p for t in mine for p in t.suite.prompts]
    prompt = next((p for p in prompts if p.sha256 == decision.winner_sha256), None)
    if decision.granted and not decision.stays and prompt is None:
        raise UsageError(
            f"--bench-promote {name}: the file of {decision.winner} has changed since it was judged; run the evals "
            "with it as it is now, and have it judged"
        )
    try:
        registered = settle(registry, decision, prompt, settings.report, weighed=champion)
    except OvertakenError as error:
        raise UsageError(
            f"--bench-promote {name}: {error} meanwhile, and {decision.winner} was not weighed against it; do it again"
        ) from None
    return _said(decision, registered, prompt)


def _suites_of(tasks: Sequence[Task], name: str) -> list[Task]:
    """The collected suites of the task ``name``, which share one leaderboard. UsageError for none, and for several."""
    mine = [t for t in tasks if t.suite.task == name]
    if not mine:
        known = (
            ", ".join(sorted({t.suite.task for t in tasks})) or "none was collected: name the evals, pytest evals/ ..."
        )
        raise UsageError(f"--bench-promote {name}: there is no such task; there are: {known}")
    groups = by_group(mine)
    if len(groups) > 1:
        listed = ", ".join(f"{t.experiment} by {t.suite.rubric.id} ({t.suite.path})" for t in groups.values())
        raise UsageError(
            f"--bench-promote {name}: the task has {len(groups)} leaderboards: {listed}. Name the test file of one in "
            "place of evals/, or the experiment of all with --bench-experiment"
        )
    return mine


def _rivals(
    everyone: Sequence[LoggedCandidate], mine: Sequence[Task], champion: Registered | None
) -> list[LoggedCandidate]:
    """The candidates that count, of the suites' models and prompts; the champion's also where no file has its text."""
    task, rubric = mine[0].suite.task, mine[0].suite.rubric
    now = cells_now(mine, mine[0].experiment, mine[0].suite.group)
    current, _ = current_candidates(everyone, rubric, task=task, cells_now=now)
    models = {m.name for t in mine for m in t.suite.models}
    versions = {p.version for t in mine for p in t.suite.prompts}
    reigning = None if champion is None else champion.sha256
    return [c for c in current if c.model in models and (c.prompt in versions or c.prompt_sha256 == reigning)]


def settle(
    registry: PromptRegistry, decision: Promotion, prompt: Prompt | None, folder: Path, *, weighed: Registered | None
) -> Registered | None:
    """Write the receipt to ``folder``; where every condition is met, keep it in MLflow and move the alias.

    weighed: the champion that the decision was made by. OvertakenError, and nothing done, where it is granted and
    another is champion by now. UsageError where the receipt cannot be written, which says whether the alias has moved.
    """
    granted = decision.granted and not decision.stays and prompt is not None
    receipt: dict[str, object] = {
        "schema": PROMOTION_SCHEMA,
        "decided_at": utc_now(),
        "granted": granted,
        **decision.to_json(),
    }
    registered = None
    if granted and prompt is not None:
        message = f"promoted by {decision.policy.value} from {decision.experiment}"
        with registry.alone():
            registry.check(decision.task, weighed)
            registry.register(decision.task, prompt, message=message)  # a text that MLflow refuses has no receipt
            receipt["receipt_run"] = run = registry.keep_receipt(decision.task, receipt)
            lineage = _lineage(decision, receipt)
            registered = registry.promote(decision.task, prompt, lineage=lineage, message=message)
        with contextlib.suppress(TrackingError):  # it is champion, whether or not its receipt's run can be ended
            registry.finish_receipt(run)
        receipt["registry_version"] = registered.number
    file = folder / "promotion.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(file, json.dumps(receipt, indent=2) + "\n")
    except OSError as error:
        outcome = f"no champion of {decision.task} was changed"
        if registered is not None:
            outcome = f"{decision.winner} is champion of {decision.task}, with its receipt in MLflow's run "
            outcome += str(receipt["receipt_run"])
        raise UsageError(f"{file}: cannot be written: {error.strerror or error}; {outcome}") from None
    return registered


def condition_lines(decision: Promotion) -> list[str]:
    """Each condition as a line for the terminal, with what would meet it."""
    return [
        f"  {'met    ' if c.met else 'NOT MET'}  {c.name}: {c.found}" + (f"; {c.remedy}" if c.remedy else "")
        for c in decision.conditions
    ]


def _lineage(decision: Promotion, receipt: dict[str, object]) -> dict[str, str]:
    """What the registered version says of where it comes from."""
    return {
        "promptbench.task": decision.task,
        "promptbench.experiment": decision.experiment,
        "promptbench.rubric": decision.rubric,
        "promptbench.rubric_sha256": decision.rubric_sha256,
        "promptbench.policy": decision.policy.value,
        "promptbench.scores": json.dumps(dict(decision.scores)),
        "promptbench.comparison": json.dumps(decision.comparison),
        "promptbench.promoted_at": str(receipt["decided_at"]),
        "promptbench.receipt_run": str(receipt["receipt_run"]),
    }


def filled_otherwise(prompt: Prompt) -> list[str]:
    """What MLflow's own ``format`` makes of a prompt where that is not what was judged, as lines for the terminal.

    It takes a placeholder's name for a regular expression, and a message with ``{% %}`` for a template of Jinja2.
    """
    lines = []
    named = ", ".join(m.content.strip() for m in prompt.messages if m.role == CONVERSATION)
    if named:
        lines.append(
            f"  BUT      MLflow's format() leaves one message of the role {CONVERSATION} for {named}: put the "
            "conversation's messages there"
        )
    odd = [name for name in placeholders(prompt.messages) if not _finds_itself(name)]
    if odd:
        named = ", ".join(f"{{{{ {name} }}}}" for name in odd)
        lines.append(
            f"  BUT      MLflow's format() does not fill in {named}: name the var with letters, digits and _ alone"
        )
    if any("{%" in m.content and "%}" in m.content for m in prompt.messages):
        lines.append(
            "  BUT      MLflow's format() takes the prompt for Jinja2, because of {% and %} in it: fill in its "
            "template yourself, or write that text without them"
        )
    return lines


def _finds_itself(name: str) -> bool:
    try:
        return re.fullmatch(name, name) is not None
    except re.error:
        return False


def _said(decision: Promotion, registered: Registered | None, prompt: Prompt | None) -> StepResult:
    lines = condition_lines(decision)
    if decision.stays:
        best = "and the best of it" if decision.granted else "and nothing that compares with it is better"
        return StepResult(
            message=f"{decision.winner} is the champion of {decision.task} already, {best}",
            lines=() if decision.granted else tuple(lines),
        )
    if registered is None:
        after = f"; {decision.champion} stays" if decision.champion else ""
        return StepResult(
            message=f"REFUSED: {decision.winner} does not become champion of {decision.task}{after}",
            lines=tuple(lines),
            code=1,
        )
    return StepResult(
        message=f"{decision.winner} is champion of {decision.task}: version {registered.number} in MLflow, "
        f'mlflow.genai.load_prompt("prompts:/{decision.task}@{CHAMPION}")',
        lines=(*lines, *(filled_otherwise(prompt) if prompt is not None else ())),
    )


def roll_back(settings: Settings, _: Sequence[Task], name: str) -> StepResult:
    """Move the task's alias back to the champion before."""
    gone, back = PromptRegistry(where(settings).store()).roll_back(name)
    before = f"it was {gone.version} (version {gone.number})" if gone else "there was none any more"
    return StepResult(message=f"{back.version} is champion of {name} again (version {back.number} in MLflow); {before}")
