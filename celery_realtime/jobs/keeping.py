"""Keep of a job's message what is needed to run the job again, where that is asked for."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from celery import Celery
from msgspec import UNSET

from celery_realtime.clocks import time
from celery_realtime.events import Job
from celery_realtime.jobs.canvas import HEADER, options_of
from celery_realtime.jobs.details import LABEL, RERUN_OF, epoch_seconds
from celery_realtime.jobs.seams import (
    as_bytes,
    as_json,
    bound_task_classes,
    on_bind,
    queue_of_publication,
    read_message,
    timelimit_of,
    without_delay,
)
from celery_realtime.kept_messages import KeptMessage, Publication, WaitingMessages, pack
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.settings import Settings

logger = logging.getLogger(__name__)

#: The attribute of a task that beats the setting of the same name.
OPTION = "keep_messages"

#: Headers of a message that are of that one publication, and those of other libraries that name its trace.
_OF_ONE_PUBLICATION = frozenset(
    [
        *("id", "root_id", "parent_id", "group", "group_index", "eta", "expires", "retries", "origin"),
        *("replaced_task_nesting", "compression", RERUN_OF),
        *("traceparent", "tracestate", "baggage", "sentry-trace"),
    ]
)

#: What our own headers begin with: what a job hands down, and the mark of a publication.
_OURS = "realtime_"

#: Options of a callback that name the publication that it was made for.
_OF_ONE_CALL = frozenset(["task_id", "root_id", "parent_id", "group_id", "group_index", "reply_to", "chord"])

#: Keyword arguments of kombu's ``Producer.publish`` that are not properties of the message.
_NO_PROPERTIES = frozenset(
    [
        *("exchange", "routing_key", "serializer", "compression", "retry", "retry_policy", "delivery_mode", "declare"),
        *("headers", "timeout", "confirm_timeout", "correlation_id", "reply_to", "content_type", "content_encoding"),
    ]
)


class _TaskOptions:
    """Whether the class of any task says that its messages are kept, so that nobody has to look at each."""

    def __init__(self) -> None:
        self.is_used = False

    def note(self, task_class: type) -> None:
        """Look at the class of a task."""
        if getattr(task_class, OPTION, None):
            self.is_used = True


#: Of the tasks of all apps in this process.
task_options = _TaskOptions()


@functools.cache
def install() -> None:
    """Look at all tasks, those that are made later included; once in a process."""
    for task_class in bound_task_classes():
        task_options.note(task_class)
    on_bind(task_options.note)


class Keeping:
    """Keeps the messages that an app publishes of jobs in projects.

    Args:
        app: The Celery app.
        settings: Returns the settings.
        waiting: Where messages wait until they are stored.
    """

    def __init__(self, app: Celery, settings: Callable[[], Settings], waiting: WaitingMessages) -> None:
        self._app = app
        self._settings = settings
        self._waiting = waiting
        self._log = RateLimitedLogger(logger)

    def concerns(self, task_name: str) -> bool:
        """Tell whether the messages of a task are to be kept: by its own ``keep_messages``, or by the setting."""
        settings = self._settings()
        wanted = getattr(self._app.tasks.get(task_name), OPTION, None)
        if wanted is None:
            return settings.keep_messages
        if not isinstance(wanted, bool):
            self._log.warning(
                "keep_messages of task %s must be True or False, not %r, so its messages are not kept; mend the option",
                *(task_name, wanted),
            )
            return False
        if wanted and (lack := settings.lack_of_keeping) is not None:
            self._log.error("keep_messages of task %s %s; so its messages are not kept", task_name, lack)
            return False
        return wanted

    def keep(self, job: Job, body: Any, way: Mapping[str, Any]) -> None:
        """Keep the message of a job's first attempt, as it is handed to the broker.

        Args:
            job: The job, which must have a project and a run.
            body: The body, which has not been serialized yet.
            way: The keyword arguments of kombu's ``Producer.publish``.
        """
        assert job.project_id is not None
        assert job.run is not None
        publication = Publication(job.project_id, job.job_id, job.run)
        with self._log.suppressing(
            "cannot keep the message of a job of task %s, so it cannot be run again; see what it is called with",
            job.task,
            job_id=job.job_id,
            project_id=job.project_id,
        ):
            packed = pack(self._kept(job, body, way))
            self._waiting.put(publication, packed if len(packed) <= self._settings().keep_message_size else b"")

    def _kept(self, job: Job, body: Any, way: Mapping[str, Any]) -> KeptMessage:
        message = read_message(way.get("headers"), body)
        fields = message.fields
        callbacks = {name: _fresh(message.embed.get(name)) for name in ("callbacks", "errbacks")}
        content = (message.args or (), message.kwargs or {}, {**callbacks, "chain": None, "chord": None})
        content_type, content_encoding, content_bytes = as_bytes(content, way.get("serializer"))
        expires_at = epoch_seconds(fields.get("expires"))
        exchange, routing_key = without_delay(_name_of(way.get("exchange")), str(way.get("routing_key") or ""))
        return KeptMessage(
            project_id=job.project_id or "",
            job_id=job.job_id,
            run=job.run or "",
            shown=job.task or "",
            body=content_bytes,
            content_type=content_type,
            content_encoding=content_encoding,
            compression=way.get("compression"),
            exchange=exchange,
            routing_key=routing_key,
            queue=queue_of_publication(exchange, routing_key, way.get("declare")),
            delivery_mode=way.get("delivery_mode"),
            headers=as_json(dict(_headers(job, way.get("headers") or {}, fields))),
            properties=as_json({name: value for name, value in way.items() if name not in _NO_PROPERTIES}),
            expires_in=None if expires_at is None else expires_at - time.time(),
        )


def _headers(job: Job, headers: Mapping[str, Any], fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the headers of the next publication of a job, in Celery's protocol 2, whichever this one has."""
    yield from {"lang": "py", "shadow": None, "timelimit": timelimit_of(fields), "task": fields.get("task")}.items()
    for name, value in headers.items():
        if name not in _OF_ONE_PUBLICATION and not name.startswith(_OURS):
            yield name, value
    yield HEADER, job.project_id
    if job.details is not None and job.details.label is not UNSET:
        yield LABEL, job.details.label  # it may be made of the arguments, which nobody reads who publishes it again


def _name_of(exchange: Any) -> str:
    return str(getattr(exchange, "name", exchange) or "")


def _fresh(value: Any) -> Any:
    """Return signatures without what is of the publication that they were made for, at any depth."""
    if isinstance(value, (list, tuple)):
        return [_fresh(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    options = {name: part for name, part in options_of(value).items() if name not in _OF_ONE_CALL}
    for name in ("link", "link_error", "chain"):
        if options.get(name):
            options[name] = _fresh(options[name])
    if isinstance(options.get("headers"), Mapping):
        options["headers"] = {
            name: header
            for name, header in options["headers"].items()
            if name not in _OF_ONE_PUBLICATION and not name.startswith(_OURS)
        }
    kwargs = value.get("kwargs")
    if value.get("subtask_type") in ("chain", "group", "chord") and isinstance(kwargs, Mapping):
        kwargs = {name: _fresh(part) if name in ("tasks", "header", "body") else part for name, part in kwargs.items()}
    return {**value, "options": options, "kwargs": kwargs}
