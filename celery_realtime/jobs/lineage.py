"""Carry what a job hands down in headers to the jobs behind it: its attempt, root and parent, and its project.

A publication marks its message, so that a second publication under the same id is seen as another run of the job. What
continues the job keeps the mark: retries, replacements and redeliveries.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping, MutableMapping
from typing import Any, NamedTuple

from celery_realtime.jobs.seams import TaskMessage, request_fields

PARENT_HEADER = "realtime_parent_id"
ATTEMPT_HEADER = "realtime_attempt"
ROOT_HEADER = "realtime_root_id"

#: The mark of a publication: when it was, in milliseconds since the epoch, and a random word.
RUN_HEADER = "realtime_run"

#: In the message of a step, by the id of a job that a later step continues: the mark of that job's publication.
CONTINUED_RUN_HEADER = "realtime_continued_run"

_RUN = re.compile(r"\d{13}-[0-9a-f]{8}")


class Lineage(NamedTuple):
    """Where a job comes from.

    Attributes:
        attempt: How often it was tried before, under its present task and under those that this one replaces.
        root_id: What started its workflow: the first job, or the group that it started with.
        parent_id: The parent that it had before it was retried, else the one that Celery names.
        group_id: The group that it is a member of.
        run: The mark of its publication; None of a message whose publisher has written none.
    """

    attempt: int
    root_id: str | None
    parent_id: str | None
    group_id: str | None
    run: str | None = None


def lineage_of(job_id: str, fields: Mapping[str, Any]) -> Lineage:
    """Read a job's lineage out of what its message carries."""
    return Lineage(
        attempt=attempt_of(job_id, fields),
        root_id=fields.get(ROOT_HEADER) or fields.get("root_id"),
        parent_id=fields.get(PARENT_HEADER, fields.get("parent_id")),
        group_id=fields.get("group"),
        run=_checked_run(fields.get(RUN_HEADER)),
    )


def new_run() -> str:
    """Return the mark of a publication that is made now. Later ones are greater, as texts too."""
    return f"{time.time_ns() // 1_000_000:013d}-{secrets.token_hex(4)}"


def published_at(run: str) -> int:
    """Return when a publication was made, of its mark, in milliseconds since the epoch."""
    return int(run.partition("-")[0])


def _checked_run(value: object) -> str | None:
    return value if isinstance(value, str) and _RUN.fullmatch(value) else None


def attempt_of(job_id: str, fields: Mapping[str, Any]) -> int:
    """Return how often a job was tried before, under its present task and under those that this one replaces."""
    before = fields.get(ATTEMPT_HEADER)
    return (fields.get("retries") or 0) + (before.get(job_id, 0) if isinstance(before, dict) else 0)


class Publication:
    """A message on its way out, and what of the job that publishes it lives on in it.

    Args:
        message: The message.
        headers: Its headers, to write into.
        running: The request of the job that publishes it, or None outside a job.

    Attributes:
        message: The message.
        running: That request.
    """

    def __init__(self, message: TaskMessage, headers: MutableMapping[str, Any], running: Any) -> None:
        self.message = message
        self._headers = headers
        self.running = running
        self._carried: dict[str, Any] = {}

    @property
    def continues_running(self) -> bool:
        """Whether the running job lives on in it, as a retry or replacement, or in a later step of it."""
        return self.running is not None and self.running.id in (self.message.job_id, *_later_ids(self.message.embed))

    @property
    def continues_attempt(self) -> bool:
        """Whether it is a replacement within the attempt that runs already, and so no news."""
        job_id = self.message.job_id
        if self.running is None or job_id is None or self.running.id != job_id:
            return False
        return attempt_of(job_id, self.message.fields) <= attempt_of(job_id, request_fields(self.running))

    def carry(self, name: str, value: Any) -> None:
        """Write a header into the message, and into what its job publishes when it ends."""
        self._headers[name] = self._carried[name] = value

    def write_lineage(self) -> None:
        """Write what Celery would forget: the parent and attempt of a job that goes on, its run, and its root.

        Celery makes a failed attempt the parent of the next. A replacement, or the step of it that gets the id, goes on
        at the attempt that was replaced: Celery counts from 0 again. Of a group that starts a workflow, Celery makes
        each member a root.
        """
        if self.continues_running:
            self._continue()
        self._write_run()
        root = self._root()
        if root is not None and root != self.message.fields.get("root_id"):
            self._headers[ROOT_HEADER] = root

    def _continue(self) -> None:
        running_id, fields = self.running.id, request_fields(self.running)
        before = lineage_of(running_id, fields)
        if running_id == self.message.job_id:
            self._headers[PARENT_HEADER] = before.parent_id
        if before.attempt and not self.message.fields.get("retries"):
            self.carry(ATTEMPT_HEADER, {running_id: before.attempt})
        if before.run and running_id != self.message.job_id:
            self.carry(CONTINUED_RUN_HEADER, {running_id: before.run})

    def _write_run(self) -> None:
        run = self._run()
        if run is not None:
            self._headers[RUN_HEADER] = run

    def _run(self) -> str | None:
        """Return the run that the message is of; None of a retry of a job that has no mark itself."""
        job_id = self.message.job_id
        if self.running is not None and self.running.id == job_id:
            return lineage_of(self.running.id, request_fields(self.running)).run
        continued = self.message.fields.get(CONTINUED_RUN_HEADER)
        run = _checked_run(continued.get(job_id)) if isinstance(continued, dict) else None
        return run or new_run()

    def _root(self) -> str | None:
        fields = self.message.fields
        if self.running is not None:
            return lineage_of(self.running.id, request_fields(self.running)).root_id
        return fields.get("group") or fields.get("root_id")

    def hand_down(self) -> None:
        """Write what is carried into the callbacks, errbacks, chain and chord of the message.

        A worker's main process publishes some of them without ever running the job, so there is nothing else to inherit
        from. The signatures are copied: the caller may use the same ones for another project.
        """
        embed = self.message.embed
        if not self._carried:
            return
        for part in ("callbacks", "errbacks", "chain"):
            if embed.get(part):
                embed[part] = [_with_headers(self._carried, signature) for signature in embed[part]]
        if embed.get("chord"):
            embed["chord"] = _with_headers(self._carried, embed["chord"])


def _with_headers(carried: dict[str, Any], signature: Any) -> Any:
    if not isinstance(signature, dict):
        return signature
    copied = signature.clone() if hasattr(signature, "clone") else dict(signature)
    options = dict(copied.get("options") or {})
    options["headers"] = {**carried, **(options.get("headers") or {})}
    copied["options"] = options
    kwargs = copied.get("kwargs")
    if copied.get("subtask_type") and isinstance(kwargs, dict):
        copied["kwargs"] = {name: _nested(carried, name, value) for name, value in kwargs.items()}
    return copied


def _nested(carried: dict[str, Any], name: str, value: Any) -> Any:
    if name not in ("tasks", "header", "body"):
        return value
    if isinstance(value, (list, tuple)):
        return [_with_headers(carried, member) for member in value]
    return _with_headers(carried, value)


def _later_ids(embed: Mapping[str, Any]) -> list[Any]:
    steps = later_steps(embed.get("chain"), embed.get("chord"))
    return [(step.get("options") or {}).get("task_id") for step in steps]


def later_steps(chain: Any, chord: Any) -> list[Any]:
    """Return the signatures that a job's message carries along to be run after it: its chain, its chord's body."""
    steps = list(chain or [])
    if isinstance(chord, dict):
        steps.append(chord)
    members: list[Any] = []
    for step in steps:
        kwargs = step.get("kwargs") or {}
        if step.get("subtask_type") in ("group", "chain"):
            members += kwargs.get("tasks") or []
        elif step.get("subtask_type") == "chord":
            header = kwargs.get("header") or []
            members += [*(header if isinstance(header, (list, tuple)) else [header]), kwargs.get("body") or {}]
        else:
            members.append(step)
    return members
