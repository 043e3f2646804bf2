"""Search in what a wrapper consists of for the name of an argument that it may take out of ``**kwargs``.

Nothing of it is run, and proxies are not asked for what they stand for.
"""

from __future__ import annotations

import dis
import functools
import inspect
import operator
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

from celery.app.task import Task

from celery_realtime.jobs.star_calls import callees_of, resolve

#: How far calls of helpers are followed, and attributes of attributes.
DEPTH = 6

#: How many functions are looked into at most for one wrapper.
MOST = 200

#: Methods by which code that takes all of several arguments, such as ``..._id``, asks for a part of their names.
_ASKING_FOR_PARTS = frozenset(["endswith", "startswith", "removesuffix", "removeprefix"])

_FUNCTIONS = (FunctionType, MethodType, staticmethod, classmethod)
_CONTAINERS = (tuple, list, set, frozenset, dict)
_PLAIN = (bytes, int, float, complex, type(None))


def body_of(function: Any) -> FunctionType | None:
    """Return the function that runs when something is called, if it is Python's."""
    kind = type(function)
    if issubclass(kind, FunctionType):
        return function  # type: ignore[no-any-return]
    if issubclass(kind, (MethodType, staticmethod, classmethod)):
        return body_of(function.__func__)
    call = inspect.getattr_static(kind, "__call__", None)
    return call if type(call) is FunctionType else None


def parts_of(value: Any) -> list[Any]:
    """Return what something has been given: the closure of a function, what is bound or partial, own attributes."""
    kind = type(value)
    if issubclass(kind, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if issubclass(kind, MethodType):
        return [value.__func__, value.__self__]
    if issubclass(kind, FunctionType):
        return [content for cell in value.__closure__ or () for content in _contents(cell)]
    return [attribute for _, attribute in _static_attributes(value, None)]


class Search:
    """A search for the name of an argument.

    It looks at constants and defaults, at what a decorator was given (its closure, or the attributes of an instance),
    at globals, and at the helpers that are called, first of all at those that are passed all of ``**kwargs``. What is
    wrapped is left out: that has its own turn; and so is this package.

    Args:
        name: The name.
        layers: What is left out.
        task_class: Whose methods a ``self`` has.
    """

    def __init__(self, name: str, layers: Iterable[Any], task_class: type) -> None:
        layers = list(layers)
        self._name = name
        self._seen = {id(body) for body in map(body_of, layers) if body is not None}
        self._layers = {id(layer) for layer in layers}
        self._task_class = task_class

    def finds_in(self, wrapper: Any) -> bool:
        """Tell whether a wrapper, which may be one of the layers, has the name."""
        body = body_of(wrapper)
        if body is None:
            return False
        attributes = [] if body is wrapper else [value for _, value in _static_attributes(wrapper, None)]
        return self._is_in_body(body, DEPTH) or any(self._is_in(value, DEPTH) for value in attributes)

    def _is_in(self, value: Any, depth: int) -> bool:
        kind = type(value)  # isinstance() would have proxies look for what they stand for
        if issubclass(kind, str):
            return bool(value == self._name)
        if depth == 0 or id(value) in self._layers or issubclass(kind, _PLAIN):
            return False
        if issubclass(kind, _CONTAINERS):
            return len(value) < MOST and any(self._is_in(item, depth - 1) for item in _items(value))
        if kind is operator.itemgetter:
            return self._is_in(value.__reduce__()[1], depth)
        if issubclass(kind, functools.partial):
            return self._is_in((value.func, value.args, value.keywords), depth)
        return self._is_in_helper(value, depth)

    def _is_in_helper(self, value: Any, depth: int) -> bool:
        body = None if issubclass(type(value), type) else body_of(value)
        if body is None or id(body) in self._seen or len(self._seen) > MOST or _is_ours(body):
            return False
        self._seen.add(id(body))
        return self._is_in_body(body, depth)

    def _is_in_body(self, body: FunctionType, depth: int) -> bool:
        return (
            self._is_constant(body.__code__)
            or any(self._is_in(default, 1) for default in _defaults(body))
            or any(self._is_in(part, depth - 1) for part in self._parts(body))
            or any(self._is_passed_to(callee, depth) for callee in self._callees(body))
        )

    def _is_constant(self, code: CodeType) -> bool:
        asks_for_parts = not _ASKING_FOR_PARTS.isdisjoint(code.co_names)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                if self._name in constant.co_varnames or self._is_constant(constant):
                    return True
            elif self._is_in(constant, 2) or (asks_for_parts and self._begins_or_ends_with(constant)):
                return True
        return False

    def _begins_or_ends_with(self, part: object) -> bool:
        return isinstance(part, str) and part != "" and (self._name.startswith(part) or self._name.endswith(part))

    # -- helpers ------------------------------------------------------------------------------------------------

    def _callees(self, body: FunctionType) -> Iterator[Any]:
        """Yield what a function passes all of its ``**kwargs`` to, but for what is wrapped."""
        for path in callees_of(body):
            callee = resolve(path, body, self._task_class)
            if callee is not None and id(callee) not in self._layers:
                yield callee

    def _is_passed_to(self, callee: Any, depth: int) -> bool:
        """Tell whether a helper that is passed all keyword arguments takes the one by its name."""
        try:
            parameters = inspect.signature(callee).parameters
        except (TypeError, ValueError):
            return False
        if self._name in parameters:
            return True
        takes_rest = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        return takes_rest and self._is_in(callee, depth - 1)

    def _parts(self, body: FunctionType) -> Iterator[Any]:
        """Yield what the code of a function refers to, as far as that can be said without running it."""
        names = _names_in(body.__code__)
        values = [content for cell in body.__closure__ or () for content in _contents(cell)]
        values += [body.__globals__[name] for name in _globals_of(body.__code__) if name in body.__globals__]
        yield from values
        holders = [self._task_class, *_flat(values, DEPTH)]
        for _ in range(DEPTH):
            holders = [value for holder in holders for _, value in _static_attributes(holder, names)][:MOST]
            yield from holders


def _is_ours(body: FunctionType) -> bool:
    return str(body.__globals__.get("__name__")).startswith(f"{__package__.partition('.')[0]}.")


def _defaults(body: FunctionType) -> tuple[Any, ...]:
    return (*(body.__defaults__ or ()), *(body.__kwdefaults__ or {}).values())


def _names_in(code: CodeType) -> set[str]:
    inner = [_names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


def _globals_of(code: CodeType) -> set[str]:
    """Return the names of globals, without those of attributes, which may be the same."""
    own = {each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    inner = [_globals_of(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return own.union(*inner)


def _contents(cell: Any) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # it is empty
        return []


def _items(value: Any) -> list[Any]:
    """Return what a small container has; a mapping's keys too."""
    kind = type(value)
    if not issubclass(kind, _CONTAINERS) or len(value) >= MOST:
        return []
    return [*value, *value.values()] if issubclass(kind, dict) else list(value)


def _flat(values: Iterable[Any], depth: int) -> Iterator[Any]:
    """Yield values, and what the containers among them have."""
    for value in values:
        yield value
        if depth:
            yield from _flat(_items(value), depth - 1)


def _static_attributes(holder: Any, names: set[str] | None) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of those names that something has, all but Celery's own; of None all that it has itself."""
    kind = type(holder)
    if issubclass(kind, (str, *_PLAIN, *_CONTAINERS, *_FUNCTIONS)):
        return
    if names is None:
        names = set(_own_dict(holder)).union(*(base.__dict__.get("__slots__", ()) for base in kind.__mro__))
    for name in names:
        value = inspect.getattr_static(holder, name, None)
        if type(value) is MemberDescriptorType and not issubclass(kind, (type, ModuleType)):
            value = _slot(value, holder)
        if value is not None and value is not vars(Task).get(name):
            yield name, value


def _own_dict(holder: Any) -> dict[str, Any]:
    try:
        own: dict[str, Any] = object.__getattribute__(holder, "__dict__")
    except AttributeError:
        return {}
    return own


def _slot(descriptor: Any, holder: Any) -> Any:
    try:
        return descriptor.__get__(holder)
    except AttributeError:  # it is empty
        return None
