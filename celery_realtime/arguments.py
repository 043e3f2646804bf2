"""Find the project among the arguments of a task call."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Hashable
from typing import Any

HEADER = "project_id"


def takes_project(task: Any) -> bool:
    """Tell whether a task's function has an argument that ``project_id=`` can fill."""
    names, open_ended = _parameters(task.__class__)
    return open_ended or HEADER in names


def project_argument(task: Any, args: Any, kwargs: Any) -> object:
    """Return what a call passes as the ``project_id`` argument of its task, or None."""
    if isinstance(kwargs, dict) and kwargs.get(HEADER) is not None:
        return kwargs[HEADER]
    if task is None or not isinstance(args, (list, tuple)):
        return None
    names, _ = _parameters(task.__class__)
    position = names.index(HEADER) if HEADER in names else len(args)
    return args[position] if position < len(args) else None


@functools.lru_cache(maxsize=4096)
def _parameters(task_class: Hashable) -> tuple[tuple[str, ...], bool]:
    """Return the names of a task function's parameters, bound ``self`` left out, and whether it takes any keyword."""
    run = task_class.run  # type: ignore[attr-defined]
    if inspect.isfunction(run) and not isinstance(vars(task_class).get("run"), staticmethod):
        run = functools.partial(run, None)
    try:
        parameters = inspect.signature(run).parameters.values()
    except (TypeError, ValueError):
        return (), True
    names = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    return names, any(p.kind is p.VAR_KEYWORD for p in parameters)
