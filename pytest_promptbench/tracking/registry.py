"""Champions in MLflow's prompt registry: a prompt a task, a version for each promoted text, the alias ``champion``."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..catalog.prompts import no_prompt
from ..errors import TrackingError, UsageError
from ..records import Message, Prompt, Record, sha256
from .address import code_of, translated
from .artifacts import as_file
from .entry import storable
from .store import TrackingStore

CHAMPION = "champion"
VERSION = "promptbench.version"
SHA256 = "promptbench.prompt_sha256"
PARAMS = "promptbench.params"
HISTORY = "promptbench.champions"
"""Tag of the registered prompt: the numbers of its champions as JSON, oldest first, the present one last."""
KEPT = 200
"""So many of them are kept."""
VERSION_TAG_LIMIT = 4000
"""So many characters are kept of what a version's tags tell; MLflow itself takes 100,000."""


@dataclass(frozen=True, kw_only=True)
class Registered(Record):
    """A registered prompt: its number in the registry, and the version (file name) and hash that it was promoted as.

    Of one that was registered by other means, perhaps with another's tags: a version that says so, and the hash that a
    file of its text has.
    previous: the number of the champion before, to which a rollback goes back.
    """

    number: int
    version: str
    sha256: str
    previous: int | None = None


class OvertakenError(UsageError):
    """Another prompt is champion than the one that was compared with. The message says which."""


class PromptRegistry:
    """The prompts of one MLflow store. TrackingError where MLflow cannot be reached or refuses."""

    def __init__(self, store: TrackingStore) -> None:
        self._store = store

    def champion(self, task: str) -> Registered | None:
        """The prompt that the alias ``champion`` points at; None where there is none yet."""
        if not self._store.exists:
            return None
        with translated(self._store.uri):
            try:
                found = self._store.client.get_prompt_version_by_alias(task, CHAMPION)
            except Exception as error:
                if code_of(error) in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise
            if found is None:
                return None
            history = self._history(task, int(found.version))
        return replace(_registered(found), previous=history[-2] if len(history) > 1 else None)

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """One promotion at a time: of all where the store is an SQLite file. MLflow's servers have no such thing."""
        return self._store.alone() if self._store.exists else contextlib.nullcontext()

    def check(self, task: str, weighed: Registered | None) -> None:
        """OvertakenError where the champion's text is not that of ``weighed``, which a decision was made by."""
        now = self.champion(task)
        if (weighed and weighed.sha256) != (now and now.sha256):
            raise OvertakenError(
                f"{now.version} has become champion of {task}" if now else f"the champion of {task} was taken away"
            )

    def _history(self, task: str, now: int | None) -> list[int]:
        """The champions' numbers, oldest first, ``now`` last, even where the alias was moved by other means.

        now: None where it was deleted, which forgets none of those before. TrackingError where there is no such prompt:
        MLflow says so of one that it cannot read just now, too, and an empty history would be kept in place of its own.
        """
        found = self._store.client.get_prompt(task)
        if found is None:
            raise TrackingError(f"MLflow's prompt registry did not show the prompt {task} and its champions; try again")
        history = _numbers(task, found.tags.get(HISTORY, "[]"))
        return history if now is None or history[-1:] == [now] else [*history, now]

    def _keep(self, task: str, history: Sequence[int]) -> None:
        self._store.client.set_prompt_tag(task, HISTORY, json.dumps(list(history[-KEPT:])))

    def text(self, task: str, registered: Registered) -> Prompt:
        """A registered prompt with its messages, whatever has become of its file. UsageError where none can hold it."""
        with translated(self._store.uri):
            found = self._store.client.get_prompt_version(task, str(registered.number))
        try:
            content = {"messages": _messages(found.template), "params": json.loads(found.tags.get(PARAMS, "{}"))}
            why = "has other tags now" if sha256(content) != registered.sha256 else no_prompt(content)
        except ValueError as error:
            why = f"has params that are no JSON: {error}"
        if why:
            raise UsageError(
                f"the champion of {task}, version {registered.number} in MLflow's prompt registry, is no prompt that a "
                f"file can hold: {why}. It, or its tags, were written by hand: move the alias {CHAMPION} to another "
                "version in MLflow, as --bench-rollback does"
            )
        messages = tuple(Message(role=m["role"], content=m["content"]) for m in content["messages"])
        return Prompt(
            task=task, version=registered.version, messages=messages, params=content["params"],
            sha256=registered.sha256,
        )  # fmt: skip

    def register(self, task: str, prompt: Prompt, *, message: str) -> int:
        """The number of this text in the registry, which takes it in unless it has it. UsageError where it refuses."""
        tags = {k: storable(v)[:VERSION_TAG_LIMIT] for k, v in _names(prompt).items()}
        if prompt.params:  # never cut: they are part of the prompt, and a schema of the reply is long
            tags[PARAMS] = storable(json.dumps(dict(prompt.params), sort_keys=True))
        with translated(self._store.uri):
            try:
                known = self._find(task, prompt.sha256)
                if known is not None:
                    return known.number
                made = self._store.client.register_prompt(
                    name=task,
                    template=[m.to_json() for m in prompt.messages],
                    commit_message=storable(message),
                    tags=dict(tags),  # which MLflow writes its own into
                )
                for key in tags:  # MLflow gives them to the prompt, too, where they would stay, whoever is champion
                    self._store.client.delete_prompt_tag(task, key)
            except Exception as error:
                if code_of(error) != "INVALID_PARAMETER_VALUE":
                    raise
                raise UsageError(
                    f"{prompt.version} cannot be registered as MLflow's prompt {task!r}: {error} Where it is the name, "
                    "give the task another, in its suites and as its folder of prompts/"
                ) from None
        return int(made.version)

    def promote(self, task: str, prompt: Prompt, *, lineage: Mapping[str, str], message: str) -> Registered:
        """Register the prompt, unless this text is registered already, and move the alias to it."""
        number = self.register(task, prompt, message=message)
        client = self._store.client
        with translated(self._store.uri):
            for key, value in {**_names(prompt), **lineage}.items():
                client.set_prompt_version_tag(task, str(number), key, storable(value)[:VERSION_TAG_LIMIT])
        before = self.champion(task)
        with translated(self._store.uri):
            history = self._history(task, None if before is None else before.number)
            # The alias first: should this be interrupted, the next reader of the history puts the alias at its end.
            client.set_prompt_alias(task, CHAMPION, number)
            history = history if history[-1:] == [number] else [*history, number]
            self._keep(task, history)
        return Registered(
            number=number,
            version=prompt.version,
            sha256=prompt.sha256,
            previous=history[-2] if len(history) > 1 else None,
        )

    def roll_back(self, task: str) -> tuple[Registered | None, Registered]:
        """Move the alias back to the champion before: (the one that goes, the one that is back). UsageError without.

        None goes where the present one, or its alias, was deleted in MLflow.
        """
        with self.alone():
            return self._roll_back(task)

    def _roll_back(self, task: str) -> tuple[Registered | None, Registered]:
        now = self.champion(task)
        with translated(self._store.uri):
            if now is not None:
                history = self._history(task, now.number)[:-1]
            else:
                history = self._history(task, None) if self._has(task) else []
            # Past what was deleted in MLflow since, and the present champion, which may stand on both sides of that.
            while history and ((now and now.number == history[-1]) or not self._is_there(task, history[-1])):
                history.pop()
        if not history:
            if now is None:
                raise UsageError(f"--bench-rollback {task}: the task has no champion in MLflow's prompt registry")
            raise UsageError(
                f"--bench-rollback {task}: {now.version} (version {now.number}) is the first champion; there is none "
                "to go back to"
            )
        client = self._store.client
        with translated(self._store.uri):
            # The history first: should this be interrupted, the present champion is put at its end again.
            self._keep(task, history)
            client.set_prompt_alias(task, CHAMPION, history[-1])
            back = _registered(client.get_prompt_version(task, str(history[-1])))
        return now, back

    def _has(self, task: str) -> bool:
        return self._store.exists and self._store.client.get_prompt(task) is not None

    def _is_there(self, task: str, number: int) -> bool:
        try:
            return self._store.client.get_prompt_version(task, str(number)) is not None
        except Exception as error:
            if code_of(error) == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _find(self, task: str, sha256: str) -> Registered | None:
        """The newest version of these very messages and params, whoever registered it.

        But for a text prompt, of which an application gets a text where it expects messages.
        """
        try:
            versions = list(self._store.client.search_prompt_versions(task, max_results=1000))
        except Exception as error:
            if code_of(error) == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        found = [_registered(v) for v in versions if not isinstance(v.template, str)]
        return max((r for r in found if r.sha256 == sha256), key=lambda r: r.number, default=None)

    def keep_receipt(self, task: str, receipt: Mapping[str, Any]) -> str:
        """A run in the experiment ``<task>-promotions`` with the receipt as its artifact; its id.

        It is running, as the promotion is, until :meth:`finish_receipt`.
        """
        store, experiment = self._store, f"{task}-promotions"
        experiment_id = store.experiment(experiment, create=True)
        with translated(store.uri):
            name = storable(f"{receipt['winner']} after {receipt['champion'] or 'none'}")
            run = store.client.create_run(experiment_id, run_name=name[:250], tags={"promptbench.promotion": task})
            store.artifacts.keep(experiment, run.info.run_id, {"promotion.json": as_file(dict(receipt))})
        return str(run.info.run_id)

    def finish_receipt(self, run: str) -> None:
        """The alias has moved: what the receipt says is so."""
        with translated(self._store.uri):
            self._store.client.set_terminated(run)


def _names(prompt: Prompt) -> dict[str, str]:
    return {VERSION: prompt.version, SHA256: prompt.sha256}


def _numbers(task: str, text: str) -> list[int]:
    """A history as it is kept. UsageError where somebody has changed it to what is none: whom to go back to is lost."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(type(n) is int for n in found):
        raise UsageError(
            f"the tag {HISTORY} of the registered prompt {task} is {text[:80]!r}, and must be the numbers of its "
            "champions, oldest first, as in [1, 2]: set it in MLflow, or delete it, and a rollback knows none before"
        )
    return found


def _registered(found: Any) -> Registered:
    tags = found.tags
    content = _hash(found.template, tags.get(PARAMS, "{}"))
    promoted = tags.get(SHA256, content) == content
    return Registered(
        number=int(found.version),
        version=tags.get(VERSION, f"version {found.version}") if promoted else f"version {found.version}",
        sha256=content,
    )


def _hash(template: Any, params: str) -> str:
    """That of a prompt's file with this template and these params, which are JSON; of what is none, another."""
    try:
        return sha256({"messages": _messages(template), "params": json.loads(params)})
    except ValueError:
        return sha256([_messages(template), params])


def _messages(template: Any) -> Any:
    """A registered template as the messages of a prompt's file: a text is one message of the user's."""
    return [{"role": "user", "content": template}] if isinstance(template, str) else template
