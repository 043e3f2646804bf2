"""Tell what a call of a task does with an argument: whether somebody takes it, and which one stands where.

A task's function may be wrapped in decorators, and called by a ``__call__`` of its base. Each of them may take an
argument by its name, refuse it, or pass it on. Who passes on whatever comes (``**kwargs``), and nowhere mentions the
name, does not take it: then it is up to what is called next.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from celery.app.task import Task

#: How far calls of helpers are followed, in the search for who mentions an argument.
DEPTH = 3

#: How many functions are looked into at most for one wrapper.
MOST = 200


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
    if isinstance(static, (staticmethod, classmethod)):
        return static.__func__, isinstance(static, classmethod)
    return static, inspect.isfunction(static)


# -- by position ------------------------------------------------------------------------------------------------


def _names_by_position(function: Any, is_bound: bool) -> tuple[str, ...]:
    """Return the names that a function gives to what it takes by position; a decorator's own, if it has some."""
    for layer in _layers(function):
        try:
            parameters = list(inspect.signature(layer, follow_wrapped=False).parameters.values())
        except (TypeError, ValueError):
            return ()
        names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][is_bound:]
        takes_rest = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        if names or not takes_rest or not hasattr(layer, "__wrapped__"):
            return tuple(names)
    return ()


def _layers(function: Any) -> Iterator[Any]:
    """Yield a function and, in turn, what each of its decorators has noted that it wraps."""
    seen: set[int] = set()
    while function is not None and id(function) not in seen:
        seen.add(id(function))
        yield function
        function = getattr(function, "__wrapped__", None)


# -- by keyword -------------------------------------------------------------------------------------------------


def _takes(task_class: type, run: Any, name: str) -> bool:
    layers = list(_layers(run))
    for call in _own_calls(task_class):
        answer = _answer(call, name, [call, *layers], task_class)
        if answer is not None:
            return answer
    for layer in layers:
        answer = _answer(layer, name, layers, task_class)
        if answer is not None:
            return answer
    return True  # the last one takes whatever comes


def _own_calls(task_class: type) -> Iterator[FunctionType]:
    """Yield each ``__call__`` that is not Celery's own, in the order in which they call each other."""
    for base in task_class.__mro__[: task_class.__mro__.index(Task)] if Task in task_class.__mro__ else ():
        call = vars(base).get("__call__")
        if isinstance(call, FunctionType):
            yield call


def _answer(function: Any, name: str, layers: list[Any], task_class: type) -> bool | None:
    """Tell whether a callable takes a keyword argument; None if it passes on what comes."""
    code = _code_of(function)
    if code is None or isinstance(function, functools.partial):
        return _answer_of_signature(function, name)
    by_keyword = code.co_varnames[code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount]
    if name in by_keyword:
        return True
    if not code.co_flags & inspect.CO_VARKEYWORDS:
        return False
    return True if _Search(name, layers, task_class).finds_in(function) else None


def _answer_of_signature(function: Any, name: str) -> bool | None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return name in named or any(p.kind is p.VAR_KEYWORD for p in parameters)


def _code_of(function: Any) -> CodeType | None:
    """Return the code that runs when something is called, if it is Python's."""
    body = _body_of(function)
    return None if body is None else body.__code__


def _body_of(function: Any) -> FunctionType | None:
    """Return the function that runs when something is called, if it is Python's; asks nothing of proxies."""
    kind = type(function)
    if issubclass(kind, FunctionType):
        return function  # type: ignore[no-any-return]
    if issubclass(kind, (MethodType, staticmethod, classmethod)):
        return _body_of(function.__func__)
    call = inspect.getattr_static(kind, "__call__", None)
    return call if type(call) is FunctionType else None


class _Search:
    """A search for the name of an argument in what a wrapper consists of.

    It looks at constants, at what a decorator was given (its closure, or the attributes of an instance), at globals,
    and at the helpers that are called. What is wrapped is left out: that has its own turn.

    Args:
        name: The name.
        layers: What is left out.
        task_class: Whose methods a ``self`` has.
    """

    def __init__(self, name: str, layers: list[Any], task_class: type) -> None:
        self._name = name
        self._seen = {id(body) for body in map(_body_of, layers) if body is not None}
        self._layers = {id(layer) for layer in layers}
        self._task_class = task_class

    def finds_in(self, wrapper: Any) -> bool:
        """Tell whether a wrapper, which may be one of the layers, has the name."""
        body = _body_of(wrapper)
        assert body is not None
        attributes = [] if body is wrapper else list(vars(wrapper).values())
        return self._is_in_body(body, DEPTH) or any(self._is_in(value, DEPTH) for value in attributes)

    def _is_in(self, value: Any, depth: int) -> bool:
        kind = type(value)  # isinstance() would have proxies look for what they stand for
        if issubclass(kind, str):
            return bool(value == self._name)
        if issubclass(kind, (tuple, list, set, frozenset, dict)):
            return len(value) < MOST and any(type(item) is str and item == self._name for item in list(value))
        is_function = issubclass(kind, (FunctionType, MethodType, staticmethod, classmethod))
        if not is_function or id(value) in self._layers or depth == 0:
            return False
        body = _body_of(value)
        if body is None or id(body) in self._seen or len(self._seen) > MOST:
            return False
        self._seen.add(id(body))
        return self._is_in_body(body, depth)

    def _is_in_body(self, body: FunctionType, depth: int) -> bool:
        return self._is_constant(body.__code__) or any(self._is_in(part, depth - 1) for part in self._parts(body))

    def _is_constant(self, code: CodeType) -> bool:
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                if self._name in constant.co_varnames or self._is_constant(constant):
                    return True
            elif isinstance(constant, (str, tuple, frozenset)) and self._is_in(constant, 1):
                return True
        return False

    def _parts(self, body: FunctionType) -> Iterator[Any]:
        """Yield what the code of a function refers to, as far as that can be said without running it."""
        names = _names_in(body.__code__)
        values = [content for cell in body.__closure__ or () for content in _contents(cell)]
        values += [body.__globals__[name] for name in names if name in body.__globals__]
        yield from values
        for holder in (self._task_class, *values):
            yield from _attributes(holder, names)


def _names_in(code: CodeType) -> set[str]:
    inner = [_names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


def _contents(cell: Any) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # it is empty
        return []


def _attributes(holder: Any, names: set[str]) -> Iterator[Any]:
    """Yield the attributes of those names that a class, a module or an instance's class has, all but Celery's own."""
    kind = type(holder)
    place = holder if issubclass(kind, (type, ModuleType)) else kind
    for name in names:
        value = inspect.getattr_static(place, name, None)
        if value is not None and value is not vars(Task).get(name):
            yield value
