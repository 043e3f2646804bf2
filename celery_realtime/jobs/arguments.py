"""Tell what a call of a task does with an argument: whether somebody takes it, and which one stands where.

A task's function may be wrapped in decorators, and called by a ``__call__`` of its base. Each of them may take an
argument by its name, refuse it, or pass it on. One that passes on whatever comes (``**kwargs``), and neither mentions
the name nor looks for names that are made when it runs, does not take it: then it is up to what is called next. In
doubt it is taken.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

from celery.app.task import Task

from celery_realtime.jobs.keyword_uses import Wrapped, keeps_some, takes_unnamed
from celery_realtime.jobs.mentions import Search, body_of
from celery_realtime.jobs.seams import wrapper_of
from celery_realtime.jobs.star_calls import enclosed_callee


class Answers(NamedTuple):
    """What is known of the calls of a task.

    Attributes:
        by_position: The names of what its function takes by position, a bound ``self`` left out.
        takes: Whether a keyword argument is taken by somebody; without it, each call that has one fails.
    """

    by_position: tuple[str, ...]
    takes: bool


# Not functools.lru_cache, which would keep the classes of tasks, and with them their apps.
_answers: weakref.WeakKeyDictionary[type, dict[str, Answers]] = weakref.WeakKeyDictionary()


def answers_of(task_class: type, name: str) -> Answers:
    """Return what calls of a task do with a keyword argument.

    Args:
        task_class: The task's class; Celery makes one for each function.
        name: The argument's name.
    """
    answers = _answers.setdefault(task_class, {})
    if name not in answers:
        run, is_bound = _run_of(task_class)
        answers[name] = Answers(_names_by_position(run, is_bound), _takes(task_class, run, name))
    return answers[name]


def _run_of(task_class: type) -> tuple[Any, bool]:
    """Return the function of a task, and whether it is passed the task itself."""
    static = inspect.getattr_static(task_class, "run")
    if isinstance(static, functools.partialmethod):  # a partial function of the unbound method has the same arguments
        return functools.partial(static.func, task_class, *static.args, **static.keywords), False
    if isinstance(static, (staticmethod, classmethod)):
        return static.__func__, isinstance(static, classmethod)
    return static, inspect.isfunction(static)


# -- by position ------------------------------------------------------------------------------------------------


def _names_by_position(function: Any, is_bound: bool) -> tuple[str, ...]:
    """Return the names that a function gives to what it takes by position; a decorator's own, if it has some."""
    layers = list(_layers(function))
    for layer in layers:
        try:
            parameters = list(inspect.signature(layer, follow_wrapped=False).parameters.values())
        except (TypeError, ValueError):
            return ()
        names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][is_bound:]
        takes_rest = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        if names or not takes_rest or layer is layers[-1]:
            return tuple(names)
    return ()


def _layers(function: Any) -> Iterator[Any]:
    """Yield a function and, in turn, what each of its decorators has noted that it wraps, or passes all on to."""
    seen: set[int] = set()
    while function is not None and id(function) not in seen:
        seen.add(id(function))
        yield function
        wrapped = getattr(function, "__wrapped__", None)
        function = enclosed_callee(function) if wrapped is None else wrapped


# -- by keyword -------------------------------------------------------------------------------------------------


def _takes(task_class: type, run: Any, name: str) -> bool:
    layers = list(_layers(run))
    before = getattr(task_class, "before_start", None)  # it is passed the same dict as the function
    if before is not vars(Task).get("before_start") and _is_looked_for(before, name, layers, task_class):
        return True
    for call in _own_calls(task_class):
        answer = _first_answer(list(_layers(call)), name, layers, task_class)
        if answer is not None:
            return answer
    answer = _first_answer(layers, name, layers, task_class)
    return True if answer is None else answer  # the last one takes whatever comes


def _own_calls(task_class: type) -> Iterator[Any]:
    """Yield each ``__call__`` that is not Celery's own, in the order in which they call each other."""
    for base in task_class.__mro__[: task_class.__mro__.index(Task)] if Task in task_class.__mro__ else ():
        call = vars(base).get("__call__")
        if callable(call):
            yield call


def _first_answer(calls: list[Any], name: str, layers: list[Any], task_class: type) -> bool | None:
    for call in calls:
        answer = _answer(call, name, [*calls, *layers], task_class)
        if answer is not None:
            return answer
    return None


def _answer(function: Any, name: str, layers: list[Any], task_class: type) -> bool | None:
    """Tell whether a callable takes a keyword argument; None if it passes on what comes."""
    wrapper = wrapper_of(function)
    if wrapper is not None:
        return True if _is_looked_for(wrapper, name, layers, task_class) else None
    body = body_of(function)
    if body is None or isinstance(function, functools.partial):
        return _answer_of_signature(function, name)
    code = body.__code__
    by_keyword = code.co_varnames[code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount]
    if name in by_keyword:
        return True
    if not code.co_flags & inspect.CO_VARKEYWORDS:
        return False
    of_self = task_class if body is function else function
    if Search(name, layers, task_class).finds_in(function) or keeps_some(
        body, Wrapped(layers, name, task_class, of_self), of_self
    ):
        return True
    return None


def _is_looked_for(function: Any, name: str, layers: list[Any], task_class: type) -> bool:
    """Tell whether a function that is passed keyword arguments in a dict, as the last argument, may take one."""
    body = body_of(function)
    if body is None or Search(name, layers, task_class).finds_in(function):
        return body is not None
    last = body.__code__.co_varnames[: body.__code__.co_argcount][-1:]
    return any(takes_unnamed(body, dictionary, task_class) for dictionary in last)


def _answer_of_signature(function: Any, name: str) -> bool | None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return name in named or any(p.kind is p.VAR_KEYWORD for p in parameters)


def looks_for(task_class: type, method: Any, name: str) -> bool:
    """Tell whether a method of a task's class, which is passed the arguments of a call as a dict, looks for one."""
    body = body_of(method)
    if body is None:
        return False
    dictionary = body.__code__.co_varnames[2 : body.__code__.co_argcount][:1]
    return Search(name, (), task_class).finds_in(method) or any(
        takes_unnamed(body, each, task_class) for each in dictionary
    )
