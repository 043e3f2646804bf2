"""Read in the source of a function what it passes all of its ``**kwargs`` to."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any


def callees_of(function: FunctionType) -> list[tuple[str, ...]]:
    """Return the names, such as ``("self", "open")``, of what a function calls with all of its ``**kwargs``.

    Without its source, there are none.
    """
    return [path for path, _ in _star_calls(function.__code__)]


def names_beside(function: FunctionType, keyword: str) -> bool:
    """Tell whether a function passes a keyword argument of its own beside all of its ``**kwargs``."""
    return any(keyword in keywords for _, keywords in _star_calls(function.__code__))


def enclosed_callee(function: Any) -> FunctionType | None:
    """Return the only function of an outer scope that a function calls with all of its ``**kwargs``, if there is one.

    A decorator that notes what it wraps needs no such look.
    """
    if type(function) is not FunctionType:
        return None
    enclosed = _closure(function)
    callees = {path[0] for path in callees_of(function) if len(path) == 1 and path[0] in enclosed}
    found = [enclosed[name] for name in callees if type(enclosed[name]) is FunctionType]
    return found[0] if len(found) == len(callees) == 1 else None


def resolve(path: tuple[str, ...], function: FunctionType, of_self: type) -> Any:
    """Return what names stand for in a function, or None if that cannot be said without running it.

    Args:
        path: A name, and those of attributes.
        function: The function.
        of_self: The class of its first argument.
    """
    first, *rest = path
    code = function.__code__
    if rest and code.co_argcount and first == code.co_varnames[0]:
        value: Any = of_self
    else:
        value = _closure(function).get(first, function.__globals__.get(first))
    for name in rest:
        value = inspect.getattr_static(value, name, None)
    return value.__func__ if issubclass(type(value), (staticmethod, classmethod)) else value  # a proxy is not asked


def _closure(function: FunctionType) -> dict[str, Any]:
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # it is empty
            continue
    return found


@functools.lru_cache(256)
def _star_calls(code: CodeType) -> list[tuple[tuple[str, ...], frozenset[str]]]:
    """Return the callee of each call that is passed all keyword arguments, and the ones that are passed beside."""
    if not code.co_flags & inspect.CO_VARKEYWORDS:
        return []
    rest = code.co_varnames[code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & inspect.CO_VARARGS)]
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, TypeError, SyntaxError):  # there is no source, or it stands in the middle of something
        return []
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _passes(node, rest)]
    return [(tuple(_path(call.func)), frozenset(each.arg for each in call.keywords if each.arg)) for call in calls]


def _passes(call: ast.Call, rest: str) -> bool:
    return any(
        keyword.arg is None and isinstance(keyword.value, ast.Name) and keyword.value.id == rest
        for keyword in call.keywords
    )


def _path(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Attribute):
        yield from _path(node.value)
        yield node.attr
    elif isinstance(node, ast.Name):
        yield node.id
    else:
        yield ""  # something that is made when it runs, such as super()
