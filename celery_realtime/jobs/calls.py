"""Let ``project_id=`` name the project in each call of a task, and take it off where the call would fail because of it.

It is taken off before anything else sees the call: subclasses of Celery's task that have methods of their own, such as
those that keep a job from being published twice, match arguments with the task's function, and make keys of them.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import Any

from celery.app.task import Task

from celery_realtime.jobs.arguments import looks_for
from celery_realtime.jobs.canvas import HEADER
from celery_realtime.jobs.mentions import body_of
from celery_realtime.jobs.projects import takes_project
from celery_realtime.jobs.seams import bound_task_classes, on_bind
from celery_realtime.jobs.star_calls import names_beside
from celery_realtime.rooms import normalise_project_id

#: The methods that publish or run a job.
METHODS = ("apply_async", "apply")

#: Where what stands for a method has the one within: wrapt's and functools' wrappers, ``partialmethod``, ``property``.
_INNER = ("__wrapped__", "func", "fget", "__func__")

#: How many wrappers around a method are looked into.
MOST_LAYERS = 10

#: What has been put in front of these methods, of whatever class.
_in_front: weakref.WeakSet[Callable[..., Any]] = weakref.WeakSet()


def install() -> None:
    """Put it in front of the methods of all tasks, those that are made later included; to be done once."""
    for method in METHODS:
        setattr(Task, method, _taking_off(vars(Task)[method]))
    for task_class in bound_task_classes():
        _put_in_front(task_class)
    on_bind(_put_in_front)


def _put_in_front(task_class: type) -> None:
    """Let nothing that a task's class has, or inherits, see a call first."""
    for method in METHODS:
        present = inspect.getattr_static(task_class, method)
        if present is vars(Task)[method] or present in _in_front:
            continue  # whoever has changed Celery's own method sees it first, as in each plain task
        if isinstance(present, (classmethod, staticmethod)):
            continue  # it may be called without a task
        own = _own(present) if method in vars(task_class) else _inherited(task_class, method)
        setattr(task_class, method, _taking_off(own, present))
    delay = inspect.getattr_static(task_class, "delay")
    if type(delay) is FunctionType and delay not in _in_front and not _takes_keywords(delay):
        task_class.delay = _naming(delay)  # type: ignore[attr-defined]


def _own(present: Any) -> Any:
    """Return a method as a function; one that is made by wrapt, ``partialmethod`` or ``property`` is none."""
    if type(present) is FunctionType:  # wrapt's say that they are one
        return present

    @functools.wraps(present)
    def own(self: Any, *args: Any, **options: Any) -> Any:
        method = present.__get__(self, type(self)) if hasattr(type(present), "__get__") else present
        return method(*args, **options)

    return own


def _inherited(task_class: type, method: str) -> Any:
    """Return a method that calls the inherited one, whatever that is by then."""

    @functools.wraps(getattr(task_class, method))
    def inherited(self: Any, *args: Any, **options: Any) -> Any:
        return getattr(super(task_class, self), method)(*args, **options)

    return inherited


def _taking_off(original: Any, own: Any = None) -> Any:
    """Put it in front of a method.

    Args:
        original: The method.
        own: What is called by it, if that is not Celery's own.
    """
    takes_headers = _takes_headers(original if own is None else own)

    @functools.wraps(original)
    def call(self: Any, *args: Any, **options: Any) -> Any:
        kwargs = options["kwargs"] if "kwargs" in options else args[1] if len(args) > 1 else None
        if not kwargs or not isinstance(kwargs, Mapping) or HEADER not in kwargs:
            return original(self, *args, **options)
        realtime = getattr(self.app, "realtime", None)
        if realtime is None or takes_project(self):
            return original(self, *args, **options)
        project = kwargs[HEADER]
        if own is not None and _looks_for(type(self), own):  # Celery's own method, which it calls, takes it off
            with _block(realtime, project):
                return original(self, *args, **options)
        others = {name: value for name, value in kwargs.items() if name != HEADER}
        if "kwargs" in options:
            options["kwargs"] = others
        else:
            args = (args[0], others, *args[2:])
        if project is not None and takes_headers:
            options["headers"] = _with_project(options.get("headers"), project)
            if own is None:
                return original(self, *args, **options)
        # Others may have headers of their own in place of these, or none.
        with contextlib.nullcontext() if project is None else realtime.project(project):
            return original(self, *args, **options)

    _in_front.add(call)
    return call


def _block(realtime: Any, project: Any) -> contextlib.AbstractContextManager[Any]:
    """Return a block in a project, if it is one: what a method takes may mean something else to it."""
    try:
        block: contextlib.AbstractContextManager[Any] = realtime.project(normalise_project_id(project))
    except (TypeError, ValueError):
        return contextlib.nullcontext()
    return block


def _with_project(headers: Any, project: Any) -> dict[str, Any]:
    named = dict(headers or {})
    if named.get(HEADER) is None:
        named[HEADER] = project
    return named


def _takes_headers(method: Any) -> bool:
    """Tell whether a method can be called with ``headers=``: it may have no such option, or pass on some of its own."""
    try:
        parameters = inspect.signature(method).parameters
    except (TypeError, ValueError):  # it cannot be told
        return False
    if "headers" in parameters:
        return True
    bodies = [body for body in map(body_of, _layers(method)) if body is not None]
    passes_some = any(names_beside(body, "headers") for body in bodies)
    return any(p.kind is p.VAR_KEYWORD for p in parameters.values()) and not passes_some


def _looks_for(task_class: type, method: Any) -> bool:
    """Tell whether a method of a task's class, as that has it, looks for the argument in the keyword arguments."""
    return any(looks_for(task_class, layer, HEADER) for layer in _layers(method))


def _layers(method: Any) -> Iterator[Any]:
    """Yield a method and, in turn, what is wrapped in it; a function of Python's is searched as it is."""
    for _ in range(MOST_LAYERS):
        yield method
        if type(method) is FunctionType:
            return
        method = next((getattr(method, name) for name in _INNER if hasattr(method, name)), None)
        if method is None:
            return


# -- delay ------------------------------------------------------------------------------------------------------


def _takes_keywords(delay: FunctionType) -> bool:
    parameters = inspect.signature(delay).parameters
    return HEADER in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _naming(original: FunctionType) -> Any:
    """Let ``project_id=`` be in a call of a ``delay`` that would refuse it, and publish in that project."""

    @functools.wraps(original)
    def delay(self: Any, *args: Any, **kwargs: Any) -> Any:
        realtime = getattr(self.app, "realtime", None)
        if HEADER not in kwargs or realtime is None or takes_project(self):
            return original(self, *args, **kwargs)
        project = kwargs.pop(HEADER)
        with contextlib.nullcontext() if project is None else realtime.project(project):
            return original(self, *args, **kwargs)

    _in_front.add(delay)
    return delay
