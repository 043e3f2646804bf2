"""Decide which project a job belongs to: one answer for its producer, a worker's main process and its child."""

from __future__ import annotations

import contextlib
import functools
import logging
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar, Token
from typing import Any, NamedTuple

from celery import Celery

from celery_realtime import databases
from celery_realtime.jobs.arguments import answers_of
from celery_realtime.jobs.canvas import HEADER
from celery_realtime.jobs.celery_tasks import is_celerys_own
from celery_realtime.jobs.seams import arguments_of, follow_commits, request_fields, task_of_request
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.rooms import normalise_project_id
from celery_realtime.settings import Settings

logger = logging.getLogger(__name__)

#: By the id of a job that has replaced itself: its project, in which it goes on whatever its replacement names.
CONTINUED_HEADER = "realtime_continued_project"


#: Makes the block in which a resolver is called. Stale connections of a task are closed by Celery, before and after it,
#: and those of a worker's main process by nobody else.
Around = Callable[[], contextlib.AbstractContextManager[Any]]


class Call(NamedTuple):
    """The call of a task, as far as it decides about a project.

    Attributes:
        task: The task's name.
        job_id: The task id.
        fields: What its message carries.
        args: Positional arguments.
        kwargs: Keyword arguments.
    """

    task: str
    job_id: str
    fields: Mapping[str, Any]
    args: Any
    kwargs: Any


def call_of_request(request: Any) -> Call:
    """Return the call that a request is of.

    Args:
        request: A worker's ``Request`` or a task's ``Context``.
    """
    return Call(task_of_request(request), request.id, request_fields(request), *arguments_of(request))


class _Deferring:
    """Has what is deferred to the end of a transaction belong to the project in which that was said."""

    def __init__(self) -> None:
        self._projects: weakref.WeakSet[Projects] = weakref.WeakSet()
        self._is_following = False

    def add(self, projects: Projects) -> None:
        """Heed what surrounds calls in these, for as long as they live."""
        self._projects.add(projects)

    def follow(self) -> None:
        """Begin, once Django's databases are loaded; nothing has been deferred before that."""
        if not self._is_following:
            self._is_following = follow_commits(self._prepare)

    def _prepare(self, function: Callable[[], Any]) -> Callable[[], Any]:
        for projects in list(self._projects):
            function = projects.as_of_now(function)
        return function


_deferring = _Deferring()


class Projects:
    """Which project a job belongs to.

    A job has one for its run: retries and replacements go on in it. Else, in this order: its ``project_id`` header; its
    ``project_id`` argument; ``with realtime.project(...)``; the project of the job that publishes it; the resolver;
    what was tracked by hand. A producer with this package writes the answer into the header; a worker works out those
    of others, in its main process and in its children alike.

    Args:
        app: The Celery app.
        settings: Returns the settings.
        tracked: Returns the project that a job was tracked for, by its id, or None.
    """

    def __init__(self, app: Celery, settings: Callable[[], Settings], tracked: Callable[[str], str | None]) -> None:
        self._app = app
        self._settings = settings
        self._tracked = tracked
        self._log = RateLimitedLogger(logger)
        self._surrounding: ContextVar[str | None] = ContextVar("celery_realtime_project", default=None)
        _deferring.add(self)

    def of_copy(self, app: Celery) -> Projects:
        """Return those of a copy of the app in this process; what surrounds a call surrounds it for both."""
        projects = Projects(app, self._settings, self._tracked)
        projects._surrounding = self._surrounding
        return projects

    # -- what surrounds a call ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def surrounding(self, project_id: object) -> Iterator[None]:
        """Give everything that is published inside a project; see :meth:`celery_realtime.Realtime.project`."""
        _deferring.follow()
        token = self._surrounding.set(normalise_project_id(project_id))
        try:
            yield
        finally:
            self._surrounding.reset(token)

    def as_of_now(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """Return a function that is called later, and then publishes in the project that surrounds this call."""
        project_id = self._surrounding.get()
        if project_id is None:
            return function

        @functools.wraps(function)
        def as_then() -> Any:
            with self.surrounding(project_id):
                return function()

        return as_then

    def enter(self, project_id: str | None) -> Token[str | None]:
        """Make a job's project the surrounding one while it runs; the result is for :meth:`leave`."""
        _deferring.follow()
        return self._surrounding.set(project_id)

    def leave(self, token: Token[str | None]) -> None:
        """Undo :meth:`enter`."""
        try:
            self._surrounding.reset(token)
        except ValueError:  # the job ended in another context than it began in
            self._surrounding.set(None)

    def is_outside(self, project_id: str | None) -> bool:
        """Tell whether a project is another one than that in which things are published here."""
        return self._surrounding.get() not in (None, project_id)

    def _inherited(self) -> str | None:
        """Return the surrounding project, or that of the job that runs here."""
        surrounding = self._surrounding.get()
        running = self._app.current_task
        if surrounding is None and running is not None and running.app is self._app:
            return self.readable(request_fields(running.request).get(HEADER), running.name, running.request.id)
        return surrounding

    # -- which project --------------------------------------------------------------------------------------------

    def of_publication(self, call: Call) -> str | None:
        """Return the project of a job that is published here and now."""
        return self._decide(call, self._inherited())

    def of_call(self, call: Call) -> str | None:
        """Return the project that a job would have if it was published here and now.

        Raises:
            TypeError, ValueError: Its ``project_id`` header is not a project id.
        """
        check_header(call.fields)
        return self._named(call, self._inherited())

    def of_request(self, request: Any) -> str | None:
        """Return the project of a job that a worker has received, runs, or is told the end of.

        Args:
            request: A worker's ``Request`` or a task's ``Context``.
        """
        return self.of_request_and_call(request, call_of_request(request))

    def of_request_and_call(self, request: Any, call: Call) -> str | None:
        """Return the project of a job as :meth:`of_request` does, given its call too."""
        if getattr(request, "is_eager", False):
            return self._decide(call, self._surrounding.get())
        return self.of_message(call)

    def of_message(self, call: Call) -> str | None:
        """Return the project of a job that a worker has received."""
        return self._decide(call, None, contextlib.nullcontext if self._app.current_task else databases.in_any_thread)

    def of_step(self, call: Call, inherited: str | None) -> str | None:
        """Return the project of a job that was to be published by one of the project ``inherited``."""
        return self._decide(call, inherited)

    def _decide(self, call: Call, inherited: str | None, around: Around = contextlib.nullcontext) -> str | None:
        return self._named(call, inherited, around) if self._settings().enabled else None

    def _named(self, call: Call, inherited: str | None, around: Around = contextlib.nullcontext) -> str | None:
        continued = call.fields.get(CONTINUED_HEADER)
        if isinstance(continued, dict) and call.job_id in continued:
            return self.readable(continued[call.job_id], call.task, call.job_id)
        if is_celerys_own(call.task):  # what it publishes inherits its project
            return self.readable(call.fields.get(HEADER), call.task, call.job_id) or inherited
        return (
            self.readable(call.fields.get(HEADER), call.task, call.job_id)
            or self.readable(
                project_argument(self._app.tasks.get(call.task), call.args, call.kwargs), call.task, call.job_id
            )
            or inherited
            or self._resolve(call, around)
            or self._tracked(call.job_id)
        )

    def _resolve(self, call: Call, around: Around) -> str | None:
        resolver = self._settings().project_resolver
        if resolver is None:
            return None
        with self._log.suppressing(
            "realtime_project_resolver failed for task %s, so the job has no project and is shown to nobody; mend "
            "the resolver",
            call.task,
            job_id=call.job_id,
        ):
            with around():
                project = resolver(call.task, tuple(call.args or ()), dict(call.kwargs or {}))
            return self.readable(project, call.task, call.job_id)
        return None

    def readable(self, value: object, task: object, job_id: str | None) -> str | None:
        """Return the project id that others wrote for a job; one that is not an id is logged and counts as none."""
        if value is None:
            return None
        try:
            return normalise_project_id(value)
        except (TypeError, ValueError) as error:
            self._log.warning(
                "a job of task %s has no project, so it is shown to nobody; give it a project id that is one: %s",
                task,
                error,
                job_id=job_id,
            )
            return None


def check_header(headers: Mapping[str, Any] | None) -> None:
    """Refuse a ``project_id`` header that is not a project id.

    Raises:
        TypeError, ValueError: It is not.
    """
    header = (headers or {}).get(HEADER)
    if header is not None:
        normalise_project_id(header)


# -- the project among a call's arguments -----------------------------------------------------------------------


def takes_project(task: Any) -> bool:
    """Tell whether ``project_id=`` is taken by a task: by its function, a decorator of it, or a ``__call__``."""
    return answers_of(task.__class__, HEADER).takes


def project_argument(task: Any, args: Any, kwargs: Any) -> object:
    """Return what a call passes as the ``project_id`` argument of its task, or None."""
    if isinstance(kwargs, dict) and kwargs.get(HEADER) is not None:
        return kwargs[HEADER]
    if task is None or not isinstance(args, (list, tuple)):
        return None
    by_position = answers_of(task.__class__, HEADER).by_position
    position = by_position.index(HEADER) if HEADER in by_position else len(args)
    return args[position] if position < len(args) else None


def take_off(task: Any, kwargs: Any) -> None:
    """Remove a ``project_id`` that nobody takes from the arguments with which a task is about to be called.

    It came from a producer that does not know the task's function: by ``send_task``, or without this package.
    """
    if isinstance(kwargs, dict) and HEADER in kwargs and not takes_project(task):
        del kwargs[HEADER]
