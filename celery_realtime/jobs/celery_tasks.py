"""Tell Celery's own tasks from those of users.

``celery.chord_unlock`` and ``celery.backend_cleanup`` are no jobs of the user's. ``celery.map``, ``celery.starmap`` and
``celery.chunks`` are, since they run the user's tasks and have results that the user waits for. ``celery.accumulate``
ends a job that has replaced itself by a group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PREFIX = "celery."
_ACCUMULATE = "celery.accumulate"
_CHORD_UNLOCK = "celery.chord_unlock"
_OF_ITEMS = ("celery.map", "celery.starmap", "celery.chunks")


def is_celerys_own(task: str | None) -> bool:
    """Tell whether a task is Celery's own work, which is not shown."""
    return str(task).startswith(_PREFIX) and task not in (_ACCUMULATE, *_OF_ITEMS)


def is_of_items(task: str | None) -> bool:
    """Tell whether a task calls another one for each of many items."""
    return task in _OF_ITEMS


def shown_name(task: str, kwargs: Any, before: str | None = None) -> str:
    """Return the name that a job is shown under: that of the user's task that it stands for.

    Args:
        task: The name of its task.
        kwargs: The keyword arguments of its task.
        before: The name that the job was shown under before it replaced itself.
    """
    if task == _ACCUMULATE and before is not None:
        return before
    if task in _OF_ITEMS and isinstance(kwargs, Mapping):
        item = kwargs.get("task")
        name = item.get("task") if isinstance(item, Mapping) else None
        return name if isinstance(name, str) else task
    return task


def carried_by(task: str, args: Any, embed: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a task's message carries along: its ``embed``, or the chord's body that ``celery.chord_unlock`` has.

    It publishes the body on result backends that do not count a chord's members themselves.
    """
    unlocked = _chord_of(task, args)
    return embed if unlocked is None else {**embed, "chord": unlocked[1]}


def group_of(task: str, args: Any, fields: Mapping[str, Any]) -> Any:
    """Return the id of the group that a task's message is a member of, or that ``celery.chord_unlock`` waits for."""
    unlocked = _chord_of(task, args)
    return fields.get("group") if unlocked is None else unlocked[0]


def _chord_of(task: str, args: Any) -> tuple[Any, Any] | None:
    """Return the arguments of ``celery.chord_unlock``, a group's id and a chord's body. Seen in Celery 5.7."""
    if task != _CHORD_UNLOCK or not isinstance(args, (list, tuple)) or len(args) < 2:
        return None
    return args[0], args[1]
