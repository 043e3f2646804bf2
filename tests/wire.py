"""Hold what travels against ``docs/asyncapi.yaml``."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import fastjsonschema
import yaml

from tests.tools.wire.files import ASYNCAPI

#: What was not as the document has it, in this process; a fixture fails the test that it was in.
violations: list[str] = []
MOST_VIOLATIONS = 10


@functools.cache
def document() -> dict[str, Any]:
    """Return the document, as it is in the repository."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loaded: dict[str, Any] = yaml.load(ASYNCAPI.read_text(encoding="utf-8"), loader)
    return loaded


_lock = threading.Lock()


@functools.cache
def _validator(place: str) -> Callable[[Any], Any]:
    """Return what raises for data that are not as a place in the document has it."""
    part = document()["components"]
    for name in place.split("/"):
        part = part[name]
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", **part, "components": document()["components"]}
    with _lock:
        validate: Callable[[Any], Any] = fastjsonschema.compile(schema)
        return validate


def problem_of(message: str, data: Any) -> str | None:
    """Return what is not as a message of the document has it; None if all is.

    Args:
        message: Its name there.
        data: Its payload.
    """
    return _problem(f"messages/{message}/payload", message, data)


def problem_of_part(name: str, data: Any) -> str | None:
    """Return what is not as a schema of the document has it, such as ``Job``; None if all is."""
    return _problem(f"schemas/{name}", name, data)


def _problem(place: str, name: str, data: Any) -> str | None:
    try:
        _validator(place)(data)
    except fastjsonschema.JsonSchemaValueException as error:
        return f"{name}: {error.message}"
    return None


def event_message(event: str) -> str:
    """Return the name in the document of what a server sends as an event."""
    return event if is_ours(event) else "custom"


def is_ours(event: str) -> bool:
    """Return whether the document has an event by its name."""
    operation = document()["operations"].get(event)
    return operation is not None and operation["action"] == "send"


def problem_of_event(event: str, data: Any) -> str | None:
    """Return what is not as the document has it in what a server has sent."""
    return problem_of(event_message(event), data)


def problem_of_answer(request: str, data: Any, answer: Any) -> str | None:
    """Return what is not as the document has it in a request that was granted, or in an answer."""
    if not isinstance(answer, dict) or answer.get("ok") is not True:
        return problem_of("refused", answer)
    return problem_of(request, data) or problem_of(f"{request}.answer", answer)


@functools.cache
def requests() -> tuple[str, ...]:
    """Return the names of the requests of the document."""
    return tuple(name for name, one in document()["operations"].items() if "reply" in one and name != "connect")


def note_event(event: str, data: Any) -> None:
    """Note what is not as the document has it in what a client has heard."""
    _note(problem_of_event(event, data), data)


def note_answer(request: str, answer: Any) -> None:
    """Note what is not as the document has it in what a request was answered with; those of an application are none."""
    if request in requests():
        is_granted = isinstance(answer, dict) and answer.get("ok") is True
        _note(problem_of(f"{request}.answer" if is_granted else "refused", answer), answer)


def _note(problem: str | None, data: Any) -> None:
    if problem is not None and len(violations) < MOST_VIOLATIONS:
        violations.append(f"{problem}\n    {data!s:.500}")
