"""Find the project among the arguments of a task call."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Hashable
from typing import Any

HEADER = "project_id"


def takes_project(task: Any) -> bool:
    """Tell whether a task's function has an argument that ``project_id=`` can fill."""
    return _parameters(task.__class__)[1]


def project_argument(task: Any, args: Any, kwargs: Any) -> object:
    """Return what a call passes as the ``project_id`` argument of its task, or None."""
    if isinstance(kwargs, dict) and kwargs.get(HEADER) is not None:
        return kwargs[HEADER]
    if task is None or not isinstance(args, (list, tuple)):
        return None
    by_position, _ = _parameters(task.__class__)
    position = by_position.index(HEADER) if HEADER in by_position else len(args)
    return args[position] if position < len(args) else None


@functools.lru_cache(maxsize=4096)
def _parameters(task_class: Hashable) -> tuple[tuple[str, ...], bool]:
    """Return what a task function takes by position, bound ``self`` left out, and whether ``project_id=`` fills one."""
    run = task_class.run  # type: ignore[attr-defined]
    if inspect.isfunction(run) and not isinstance(inspect.getattr_static(task_class, "run"), staticmethod):
        run = functools.partial(run, None)
    try:
        parameters = inspect.signature(run).parameters.values()
    except (TypeError, ValueError):
        return (), True
    by_position = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
    by_keyword = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return by_position, HEADER in by_keyword or any(p.kind is p.VAR_KEYWORD for p in parameters)
