"""Read what else Celery knows of a job: its queue, its limits, when it may start, and what a person calls it."""

from __future__ import annotations

import inspect
import logging
import weakref
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

from celery import Celery
from msgspec import UNSET, UnsetType

from celery_realtime.bounded import BoundedDict
from celery_realtime.encoding import describe_error, legible, one_line, text_of
from celery_realtime.events import MAX_JOB_ID, Details, at
from celery_realtime.jobs.lineage import published_at, run_of
from celery_realtime.jobs.projects import Call
from celery_realtime.jobs.seams import queue_of
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.values import is_text

logger = logging.getLogger(__name__)

#: The header of a job's message, and the attribute of its task, that say what a person calls the job.
LABEL = "label"

#: How often a job may be retried, where a call of ``self.retry`` says something else than its task.
MAX_RETRIES_HEADER = "realtime_max_retries"

#: The header of a job's message that names the job that it was made from.
RERUN_OF = "rerun_of"

#: Characters of a label.
MAX_LABEL = 200

#: Queues whose names are remembered, by where a message was published.
REMEMBERED = 1000


class Route(NamedTuple):
    """Where a message is published.

    Attributes:
        queue: The queue's name, if it is known.
        priority: The message's priority.
    """

    queue: str | None
    priority: Any


class DetailsReader:
    """Read the details of the jobs of an app from what their messages carry, and from their tasks.

    Args:
        app: The app.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._labels = Labels()
        self._queues: BoundedDict[tuple[str, str], str] = BoundedDict(REMEMBERED)

    def of(self, call: Call, route: Route | None = None) -> Details:
        """Return the details of a job.

        Args:
            call: The call that the job is of.
            route: Where its message is published; by default where it came from, as its fields say.
        """
        fields, task = call.fields, self._app.tasks.get(call.task)
        queue, priority = self._route_of(fields) if route is None else route
        limits = fields.get("timelimit")
        hard, soft = limits if isinstance(limits, (list, tuple)) and len(limits) == 2 else (None, None)
        run, rerun_of = run_of(fields), fields.get(RERUN_OF)
        return Details(
            label=self._labels.of(task, call),
            queue=legible(queue) if queue else UNSET,
            priority=priority if type(priority) is int and priority else UNSET,
            eta=_time(fields.get("eta")),
            expires_at=_time(fields.get("expires")),
            max_retries=_max_retries(task, fields),
            soft_time_limit=_seconds(soft or getattr(task, "soft_time_limit", None)),
            time_limit=_seconds(hard or getattr(task, "time_limit", None)),
            queued_at=UNSET if run is None else at(published_at(run)),
            rerun_of=UNSET if rerun_of is None else _job_id(rerun_of),
        )

    def _route_of(self, fields: Mapping[str, Any]) -> Route:
        info = fields.get("delivery_info")
        if not isinstance(info, Mapping):
            return Route(None, None)
        exchange, routing_key = info.get("exchange") or "", info.get("routing_key")
        if not exchange or not isinstance(routing_key, str):  # the exchange without a name has the queue's for a key
            return Route(routing_key if isinstance(routing_key, str) else None, info.get("priority"))
        where = str(exchange), routing_key
        queue = self._queues.get(where)
        if queue is None:
            queue = self._queues[where] = queue_of(self._app, *where) or ""
        return Route(queue, info.get("priority"))


def _job_id(value: object) -> str | UnsetType:
    """Return the id of a job that a message names; whoever publishes may have written anything there."""
    is_one = isinstance(value, str) and 0 < len(value) <= MAX_JOB_ID and value.isprintable()
    return str(value) if is_one else UNSET


def _max_retries(task: Any, fields: Mapping[str, Any]) -> int | UnsetType:
    """Return how often a job may be retried: what its retry was called with, its ``autoretry_for``, or its task."""
    options = getattr(task, "retry_kwargs", None)
    default = options.get("max_retries") if isinstance(options, Mapping) else None
    for number in (fields.get(MAX_RETRIES_HEADER), default, getattr(task, "max_retries", None)):
        if type(number) is int:
            return number
    return UNSET


def _seconds(limit: object) -> int | float | UnsetType:
    return limit if isinstance(limit, (int, float)) and not isinstance(limit, bool) and 0 < limit < 1e12 else UNSET


def _time(value: object) -> str | UnsetType:
    seconds = epoch_seconds(value)
    try:
        return UNSET if seconds is None else at(round(seconds * 1000))
    except (ValueError, OverflowError):  # there is no such year in UTC
        return UNSET


def epoch_seconds(value: object) -> float | None:
    """Return a time in a message, which Celery writes in ISO 8601, in seconds since the epoch; None for no time."""
    try:
        when = datetime.fromisoformat(value.replace("Z", "+00:00")) if isinstance(value, str) else value
        if not isinstance(when, datetime):
            return None
        return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()
    except (ValueError, OverflowError):
        return None


class Labels:
    """What people call the jobs of tasks: a header of the message, or the task's ``label``, filled in."""

    def __init__(self) -> None:
        self._log = RateLimitedLogger(logger)
        #: By the class of a task, the names of its function's arguments, and the defaults that they have.
        self._parameters: weakref.WeakKeyDictionary[type, tuple[list[str], dict[str, Any]]] = (
            weakref.WeakKeyDictionary()
        )

    def of(self, task: Any, call: Call) -> str | UnsetType:
        """Return the label of a job; unset if it has none, or if none can be made of its arguments."""
        label = call.fields.get(LABEL)
        if label is None:
            pattern = getattr(task, LABEL, None)
            label = self._filled_in(task, text_of(pattern), call) if is_text(pattern) else None
        line = "" if label is None else one_line(text_of(label))[:MAX_LABEL]
        return line or UNSET

    def _filled_in(self, task: Any, pattern: str, call: Call) -> str | None:
        try:
            args = tuple(call.args or ())
            names, defaults = self._parameters_of(task)
            return pattern.format(*args, **{**defaults, **dict(zip(names, args, strict=False)), **(call.kwargs or {})})
        except Exception as error:  # noqa: BLE001 - an argument's __format__ may raise anything
            self._log.warning(
                "the label of task %s cannot be made of its arguments, so its jobs have none; see its label=: %s",
                *(call.task, describe_error(error)),
            )
            return None

    def _parameters_of(self, task: Any) -> tuple[list[str], dict[str, Any]]:
        known = self._parameters.get(task.__class__)
        if known is None:
            parameters = _signature(task.run)
            names = [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY]
            defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
            known = self._parameters[task.__class__] = names, defaults
        return known


def _signature(function: Any) -> list[inspect.Parameter]:
    """Return the parameters of a function that have a name of their own each."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
