"""Walk the signatures that a job's message carries along: what runs after it, at any depth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

Signature = Mapping[str, Any]

#: The header of a job's message, and the argument of its task, that name its project.
HEADER = "project_id"

#: The parts of a composite signature, by its kind; Celery's others (``xmap``, ``starmap``, ``chunks``) are tasks.
_PARTS = {"chain": ("tasks",), "group": ("tasks",), "chord": ("header", "body")}

#: Where a message, and the options of a signature, hold what runs after a success.
_BEHIND_MESSAGE = ("chain", "chord", "callbacks")
_BEHIND_SIGNATURE = ("chain", "chord", "link")

#: And what runs after a failure.
_AFTER_FAILURE_OF_MESSAGE = ("errbacks",)
_AFTER_FAILURE_OF_SIGNATURE = ("link_error",)


class Behind(NamedTuple):
    """A task that runs after a job.

    Attributes:
        signature: Of the task.
        member: The member of a chord that the task waits for, or None of a task that waits for no chord.
    """

    signature: Signature
    member: str | None


def tasks_behind(job_id: str, embed: Mapping[str, Any]) -> Iterator[Behind]:
    """Yield all tasks that a job's success would have led to, each id once.

    That is the rest of its chain, the body of its chord and its callbacks, with all that hangs behind those.

    Args:
        job_id: The job.
        embed: What its message carries: ``chain``, ``chord`` and ``callbacks``.
    """
    seen: set[str] = set()
    waiting = _following(embed, _BEHIND_MESSAGE, job_id, None)
    while waiting:
        signature, member = waiting.pop()
        options = options_of(signature)
        step_id = options.get("task_id")
        if is_task(signature):
            if step_id in seen:
                continue  # a chord's body is in each member of its header: what is behind it has been walked too
            if step_id:
                seen.add(step_id)
            yield Behind(signature, member)
        waiting += _following(options, _BEHIND_SIGNATURE, step_id, member)
        waiting += [Behind(part, member) for part in reversed(parts_of(signature))]


def carries_any(embed: Mapping[str, Any]) -> bool:
    """Tell whether a message carries anything along that its job's success leads to."""
    return any(embed.get(name) for name in _BEHIND_MESSAGE)


def _following(
    holder: Mapping[str, Any], names: tuple[str, ...], holder_id: str | None, member: str | None
) -> list[Behind]:
    """Return what hangs behind a message or a signature, the last to be walked first."""
    return [
        Behind(signature, holder_id if name == "chord" else member)
        for name in reversed(names)
        for signature in reversed(_signatures(holder.get(name)))
    ]


def leads_to(embed: Mapping[str, Any], job_id: str) -> bool:
    """Tell whether a job's success would lead to a job."""
    return any(options_of(step.signature).get("task_id") == job_id for step in tasks_behind("", embed))


def is_task(signature: Signature) -> bool:
    """Tell whether a signature is one task, and not made of others."""
    return str(signature.get("subtask_type")) not in _PARTS


def parts_of(signature: Signature) -> list[Signature]:
    """Return the signatures that a chain, group or chord is made of; of a chord, its body last."""
    kwargs = signature.get("kwargs") or {}
    names = _PARTS.get(str(signature.get("subtask_type")), ())
    return [part for name in names for part in _signatures(kwargs.get(name))]


def options_of(signature: Signature) -> Mapping[str, Any]:
    """Return the options of a signature, such as its ``task_id``."""
    return signature.get("options") or {}


def _signatures(value: Any) -> list[Signature]:
    """Return the signatures in what may be one, a list of them or nothing."""
    if isinstance(value, Mapping):
        return [value]
    if not isinstance(value, (list, tuple)):
        return []
    return [signature for signature in value if isinstance(signature, Mapping)]


# -- headers ----------------------------------------------------------------------------------------------------


def write_headers(embed: dict[str, Any], headers: Mapping[str, Any]) -> None:
    """Write headers into all that a message carries along, unless a signature has its own.

    The signatures are copied: the caller may use the same ones again.

    Args:
        embed: What the message carries; its members are replaced.
        headers: The headers.
    """
    for name in (*_BEHIND_MESSAGE, *_AFTER_FAILURE_OF_MESSAGE):
        if embed.get(name):
            embed[name] = _with_headers(headers, embed[name])


def _with_headers(headers: Mapping[str, Any], value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_with_headers(headers, item) for item in value]
    if not isinstance(value, dict):
        return value
    copied = value.clone() if hasattr(value, "clone") else dict(value)
    options = dict(options_of(copied))
    headers = {**_inherited_by(copied, headers), **(options.get("headers") or {})}
    if is_task(copied):  # a chord would overwrite its body's
        options["headers"] = headers
    for name in (*_BEHIND_SIGNATURE, *_AFTER_FAILURE_OF_SIGNATURE):
        if options.get(name):
            options[name] = _with_headers(headers, options[name])
    copied["options"] = options
    names = _PARTS.get(str(copied.get("subtask_type")), ())
    if names and isinstance(copied.get("kwargs"), dict):
        parts = {name: _with_headers(headers, copied["kwargs"].get(name)) for name in names}
        copied["kwargs"] = {**copied["kwargs"], **parts}
    return copied


def _inherited_by(signature: Signature, headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the headers that a signature inherits: not a project, if it names one by an argument."""
    kwargs = signature.get("kwargs")
    if is_task(signature) and isinstance(kwargs, Mapping) and kwargs.get(HEADER) is not None:
        return {name: value for name, value in headers.items() if name != HEADER}
    return headers
