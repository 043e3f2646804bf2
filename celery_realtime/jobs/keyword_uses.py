"""Read in the source of a function whether it may take, of its ``**kwargs``, what it does not name.

A name may be made when the function runs (``f"{kind}_id"``), be read from settings, or be whatever the wrapped function
has no parameter for. Such a function is left what it takes: a call that would have worked without this package works.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any

from celery_realtime.jobs.mentions import body_of, parts_of
from celery_realtime.jobs.star_calls import callees_of, resolve

#: How far calls of helpers are followed, and attributes of attributes.
DEPTH = 3

#: Methods of a dict by which one of its items is asked for or taken out, and those by which many are.
_OF_ONE = ("pop", "get", "setdefault")
_OF_MANY = ("popitem", "clear")

#: Methods by which names are compared with a part of one, of which Search knows.
_COMPARISONS = ("startswith", "endswith")

_LOOPS = (ast.For, ast.AsyncFor, ast.comprehension)


class Wrapped:
    """Knows what a wrapper wraps, and what calls that in its place.

    Args:
        layers: What is wrapped, and the other wrappers around it.
        name: The argument that it is about.
        selves: What the first argument of a method may be, such as the class of a task.
    """

    def __init__(self, layers: Iterable[Any], name: str, *selves: Any) -> None:
        self._layers = list(layers)
        self._bodies = [body for body in map(body_of, self._layers) if body is not None]
        self._name = name
        self._selves = selves

    def is_behind(self, value: Any, depth: int = DEPTH) -> bool:
        """Tell whether a call of something, with all keyword arguments, surely leads to what is wrapped, or fails."""
        if any(value is layer for layer in self._layers):
            return True
        body = None if issubclass(type(value), type) else body_of(value)
        if body is not None and any(body is other for other in self._bodies):
            return True
        if depth == 0:
            return False
        parts = parts_of(value)
        return any(self.is_behind(part, depth - 1) for part in parts) or (
            body is not None and self._leads_on(body, depth)
        )

    def _leads_on(self, body: FunctionType, depth: int) -> bool:
        if rest_of(body) is None:
            return False
        callees = [resolve(path, body, own) for path in callees_of(body) for own in self._selves]
        return any(callee is not None and self.is_behind(callee, depth - 1) for callee in callees)

    def refuses(self, callee: Any) -> bool:
        """Tell whether a call of something surely fails because of the argument; proxies are not asked."""
        kind = type(callee)
        if kind is not inspect.Signature and not issubclass(kind, (FunctionType, MethodType, type)):
            return False
        try:
            signature = callee if kind is inspect.Signature else inspect.signature(callee)
        except (TypeError, ValueError):
            return False
        parameters = signature.parameters.values()
        takes_rest = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        return not takes_rest and self._name not in [parameter.name for parameter in parameters]


def rest_of(function: FunctionType) -> str | None:
    """Return the name of a function's ``**kwargs``."""
    code = function.__code__
    if not code.co_flags & inspect.CO_VARKEYWORDS:
        return None
    return code.co_varnames[code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & inspect.CO_VARARGS)]


def keeps_some(function: FunctionType, wrapped: Wrapped, of_self: Any) -> bool:
    """Tell whether a function may not pass on all of its ``**kwargs``, by names that its code does not have.

    Without its source, that cannot be told.

    Args:
        function: The function.
        wrapped: What it wraps.
        of_self: The class of its first argument, or that itself.
    """
    rest = rest_of(function)
    node = None if rest is None else _node_of(function.__code__)
    return node is not None and _Uses(node, str(rest), function, of_self).keep_some(wrapped)


def takes_unnamed(function: FunctionType, dictionary: str, of_self: Any) -> bool:
    """Tell whether a function may take an item out of a dict that it is passed, by a name that its code does not have.

    Args:
        function: The function.
        dictionary: The name of the argument.
        of_self: The class of its first argument, or that itself.
    """
    node = _node_of(function.__code__)
    return node is not None and _Uses(node, dictionary, function, of_self).are_unknown


@functools.lru_cache(256)
def _node_of(code: CodeType) -> ast.AST | None:
    """Return the syntax tree of a function, whose nodes know the ones that they are parts of."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, TypeError, SyntaxError):  # there is no source, or it stands in the middle of something
        return None
    for node in ast.walk(tree):
        for part in ast.iter_child_nodes(node):
            part.whole = node  # type: ignore[attr-defined]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return next((node for node in ast.walk(tree) if isinstance(node, kinds) and node.name == code.co_name), None)


def _whole(node: ast.AST) -> ast.AST:
    """Return what a node is a part of."""
    whole: ast.AST = node.whole  # type: ignore[attr-defined]
    return whole


class _Uses:
    """What a function does with a dict that has a name in it.

    Args:
        node: The function's.
        name: The dict's.
        function: The function.
        of_self: The class of its first argument, or that itself.
        depth: How far helpers are followed.
    """

    def __init__(self, node: ast.AST, name: str, function: FunctionType, of_self: Any, depth: int = DEPTH) -> None:
        self._function = function
        self._depth = depth
        self._of_self = of_self
        self._names = {name}
        self._parts = list(ast.walk(node))
        self._uses = [part for part in self._parts if isinstance(part, ast.Name) and part.id == name]
        self._add_copies()

    def _add_copies(self) -> None:
        """Follow what is assigned a copy of it."""
        for use in list(self._uses):
            value = _copied(use)
            whole = None if value is None else _whole(value)
            if isinstance(whole, ast.Assign) and len(whole.targets) == 1 and isinstance(whole.targets[0], ast.Name):
                name = whole.targets[0].id
                if name not in self._names:
                    self._names.add(name)
                    self._uses += [part for part in self._parts if isinstance(part, ast.Name) and part.id == name]

    @property
    def are_unknown(self) -> bool:
        """Whether items are looked for, or taken out, by names that are made, or chosen, when it runs."""
        return any(self._is_unknown(use) for use in self._uses)

    def keep_some(self, wrapped: Wrapped) -> bool:
        """Tell whether not all of it is passed on, or something else may be done with it."""
        if self.are_unknown:
            return True
        stars = [call for use in self._uses if (call := _star_call(use)) is not None]
        is_used = any(isinstance(use.ctx, ast.Load) for use in self._uses)
        return is_used and not any(self._passes_on(call, wrapped) for call in [*stars, *self._plain_calls()])

    # -- calls ----------------------------------------------------------------------------------------------------

    def _plain_calls(self) -> Iterator[ast.Call]:
        """Yield the calls that are passed the dict as an argument."""
        for use in self._uses:
            whole = _whole(use)
            call = _whole(whole) if isinstance(whole, ast.keyword) else whole
            if isinstance(call, ast.Call) and call.func is not use:
                yield call

    def _passes_on(self, call: ast.Call, wrapped: Wrapped) -> bool:
        """Tell whether a call leads to what is wrapped, or fails, as far as is known."""
        arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
        if any(wrapped.is_behind(value) for value in map(self._value, arguments) if value is not None):
            return True
        value, owner = self._value(call.func), self._value(getattr(call.func, "value", call.func))
        if not any(keyword.arg is None for keyword in call.keywords):
            uses = self._in_helper(call, value)
            return uses is not None and not uses.keep_some(wrapped)
        if value is None:
            return True
        return wrapped.is_behind(value) or wrapped.refuses(owner if type(owner) is inspect.Signature else value)

    def _value(self, node: ast.expr) -> Any:
        """Return what an expression stands for, or None if that cannot be said without running it."""
        path = tuple(_path(node))
        return None if not path or "" in path else resolve(path, self._function, self._of_self)

    # -- names of items -------------------------------------------------------------------------------------------

    def _is_unknown(self, use: ast.Name) -> bool:
        whole: Any = _whole(use)
        if isinstance(use.ctx, ast.Store):
            assignment = _whole(whole) if isinstance(whole, ast.Tuple) else whole
            return not (isinstance(assignment, ast.Assign) and self._is_made_of_all(assignment.value))
        if isinstance(whole, ast.Subscript):
            return not self._is_known(whole.slice)
        if isinstance(whole, ast.Compare) and use in whole.comparators:
            return not self._is_known(whole.left)
        if isinstance(whole, ast.Attribute):
            return self._is_unknown_method(whole)
        return _is_subtracted_from(use)

    def _is_made_of_all(self, value: ast.expr) -> bool:
        """Tell whether an expression is a copy of the dict, or what a helper has made of it that takes nothing out."""
        if any(_copied(use) is value for use in self._uses):
            return True
        uses = self._in_helper(value, self._value(value.func)) if isinstance(value, ast.Call) else None
        return uses is not None and not uses.are_unknown

    def _in_helper(self, call: ast.Call, helper: Any) -> _Uses | None:
        """Return what a function does with the dict that a call passes to it; None if that cannot be told."""
        if type(helper) is not FunctionType or self._depth == 0:
            return None
        names = helper.__code__.co_varnames[: helper.__code__.co_argcount]
        names = names[1:] if isinstance(call.func, ast.Attribute) and names[:1] == ("self",) else names
        passed = [*zip(names, call.args, strict=False), *((each.arg, each.value) for each in call.keywords)]
        name = next((name for name, value in passed if name in names and value in self._uses), None)
        node = None if name is None else _node_of(helper.__code__)
        return None if node is None else _Uses(node, str(name), helper, self._of_self, self._depth - 1)

    def _is_unknown_method(self, method: ast.Attribute) -> bool:
        call = _whole(method)
        if method.attr in _OF_MANY or (method.attr in _OF_ONE and not (isinstance(call, ast.Call) and call.args)):
            return True
        return method.attr in _OF_ONE and isinstance(call, ast.Call) and not self._is_known(call.args[0])

    def _is_known(self, key: ast.expr) -> bool:
        """Tell whether the name of an item stands in the code, or in what the code refers to."""
        if isinstance(key, ast.Constant):
            return True
        if isinstance(key, ast.Name):
            loops = [part for part in self._parts if isinstance(part, _LOOPS) and _first_target(part) == key.id]
            values = [value for part in self._parts if (value := _assigned(part, key.id)) is not None]
            if loops or values:
                is_known = all(isinstance(value, ast.Constant) for value in values)
                return is_known and all(self._is_known_loop(loop, key.id) for loop in loops)
        return issubclass(type(self._value(key)), str)

    def _is_known_loop(self, loop: Any, name: str) -> bool:
        """Tell whether a loop is over names that are known, or chooses among all by such ones."""
        if not self._is_over_names(loop.iter):
            return isinstance(loop.iter, (ast.Tuple, ast.List, ast.Set)) or self._value(loop.iter) is not None
        is_comprehension = isinstance(loop, ast.comprehension)
        tests = loop.ifs if is_comprehension else [part.test for part in loop.body if isinstance(part, ast.If)]
        return bool(tests) and all(self._is_known_test(test, name) for test in tests)

    def _is_over_names(self, node: ast.AST) -> bool:
        return any(isinstance(part, ast.Name) and part.id in self._names for part in ast.walk(node))

    def _is_known_test(self, test: ast.expr, name: str) -> bool:
        if isinstance(test, ast.BoolOp):
            return all(self._is_known_test(part, name) for part in test.values)
        if isinstance(test, ast.Compare):
            [left, *_], [operator, *more], [right, *_] = [test.left], test.ops, test.comparators
            is_of_name = isinstance(left, ast.Name) and left.id == name
            is_known = isinstance(right, (ast.Constant, ast.Tuple, ast.List, ast.Set)) or self._value(right) is not None
            return is_of_name and is_known and not more and isinstance(operator, (ast.In, ast.Eq))
        method = test.func if isinstance(test, ast.Call) else None
        return isinstance(method, ast.Attribute) and method.attr in _COMPARISONS


def _path(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Attribute):
        yield from _path(node.value)
        yield node.attr
    else:
        yield node.id if isinstance(node, ast.Name) else ""


def _copied(use: ast.Name) -> ast.AST | None:
    """Return the expression that is a copy of a dict, or itself: ``dict(kwargs)``, ``{**kwargs}``, ``kwargs or {}``."""
    whole = _whole(use)
    if isinstance(whole, (ast.Dict, ast.IfExp, ast.BoolOp)) or (
        isinstance(whole, ast.BinOp) and isinstance(whole.op, ast.BitOr)
    ):
        return whole
    if isinstance(whole, ast.keyword):
        whole = _whole(whole)
    if isinstance(whole, ast.Call) and isinstance(whole.func, ast.Name) and whole.func.id == "dict":
        return whole
    if not isinstance(whole, ast.Attribute) or whole.attr not in ("copy", "items"):
        return None
    return _whole(whole) if whole.attr == "copy" else _with_all_names(_whole(_whole(whole)))


def _with_all_names(loop: ast.AST) -> ast.AST | None:
    """Return the dict that a comprehension makes of the items of another one, if it chooses none by their names."""
    made = _whole(loop) if isinstance(loop, ast.comprehension) else None
    if not isinstance(made, ast.DictComp) or not isinstance(made.key, ast.Name):
        return None
    name = made.key.id
    chosen_by = [test for test in made.generators[0].ifs if not _leaves_out_named(test, name)]
    is_chosen = any(isinstance(part, ast.Name) and part.id == name for test in chosen_by for part in ast.walk(test))
    return made if name == _first_target(loop) and not is_chosen else None


def _leaves_out_named(test: ast.expr, name: str) -> bool:
    """Tell whether a test is passed by all names but those that stand in it, or begin or end as it says."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return all(_leaves_out_named(part, name) for part in test.values)
    if isinstance(test, ast.Compare):
        is_of_name = isinstance(test.left, ast.Name) and test.left.id == name
        is_other = len(test.ops) == 1 and isinstance(test.ops[0], (ast.NotEq, ast.NotIn))
        return is_of_name and is_other and _is_constant(test.comparators[0])
    call = test.operand if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return False
    is_of_name = isinstance(call.func.value, ast.Name) and call.func.value.id == name
    return is_of_name and call.func.attr in _COMPARISONS and all(map(_is_constant, call.args))


def _is_constant(node: ast.expr) -> bool:
    parts = node.elts if isinstance(node, (ast.Tuple, ast.List, ast.Set)) else [node]
    return all(isinstance(part, ast.Constant) for part in parts)


def _star_call(use: ast.Name) -> ast.Call | None:
    """Return the call that is passed all items of a dict, or of a copy of it that is made there."""
    for value in (use, _copied(use)):
        keyword = None if value is None else _whole(value)
        if isinstance(keyword, ast.keyword) and keyword.arg is None:
            call = _whole(keyword)
            if isinstance(call, ast.Call) and not (isinstance(call.func, ast.Name) and call.func.id == "dict"):
                return call
    return None


def _assigned(node: ast.AST, name: str) -> ast.expr | None:
    """Return what a statement assigns to a name, if it does."""
    is_target = isinstance(node, ast.Assign) and any(isinstance(it, ast.Name) and it.id == name for it in node.targets)
    return node.value if is_target and isinstance(node, ast.Assign) else None


def _first_target(loop: Any) -> str | None:
    target = loop.target.elts[0] if isinstance(loop.target, ast.Tuple) and loop.target.elts else loop.target
    return target.id if isinstance(target, ast.Name) else None


def _is_subtracted_from(use: ast.Name) -> bool:
    """Tell whether others are left out of the names in a dict, as in ``set(kwargs) - known``."""
    whole = _whole(use)
    while isinstance(whole, (ast.Call, ast.Attribute)):
        whole = _whole(whole)
    return isinstance(whole, ast.BinOp) and isinstance(whole.op, ast.Sub)
