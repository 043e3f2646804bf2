"""Hold what travels against ``docs/asyncapi.yaml``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import fastjsonschema
import msgspec
import yaml

from tests.processes import ROOT

ASYNCAPI = ROOT / "docs" / "asyncapi.yaml"

#: What clients have heard in the present test, and been answered: whether it is an answer, the name of the event or of
#: the request, and the payload as JSON, since a test may change what it was given. It is looked at when the test is
#: over, so that no client reads more slowly for that.
travelled: list[tuple[bool, str, bytes]] = []
MOST_TRAVELLED = 2000

#: What is answered in JSON over plain HTTP.
HTTP_ANSWERS = ("http_jobs", "http_job")


@functools.cache
def document() -> dict[str, Any]:
    """Return the document, as it is in the repository."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loaded: dict[str, Any] = yaml.load(ASYNCAPI.read_text(encoding="utf-8"), loader)
    return loaded


@functools.cache
def _validator(place: str) -> Callable[[Any], Any]:
    """Return what raises for data that are not as a place in the document has it."""
    part = document()["components"]
    for name in place.split("/"):
        part = part[name]
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", **part, "components": document()["components"]}
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
    message = document()["components"]["messages"].get(event)
    return (
        message is not None
        and message["name"] == event
        and message["x-packet"] in ("EVENT", "SSE")
        and event not in requests()
    )


def problem_of_event(event: str, data: Any) -> str | None:
    """Return what is not as the document has it in what a server has sent."""
    return problem_of(event_message(event), data)


def problem_of_answer(request: str, data: Any, answer: Any) -> str | None:
    """Return what is not as the document has it in a request that was granted, or in an answer."""
    message = _answer_message(request, answer)
    return problem_of(message, answer) or (None if message == "refused" else problem_of(request, data))


@functools.cache
def requests() -> tuple[str, ...]:
    """Return the names of the requests of the document."""
    return tuple(name for name, one in document()["operations"].items() if "reply" in one and name != "connect")


def note_event(event: str, data: Any) -> None:
    """Note what a client has heard."""
    _note(False, event, data)


def note_answer(request: str, answer: Any) -> None:
    """Note what a request was answered with."""
    _note(True, request, answer)


def note_reply(path: str, content: Any) -> None:
    """Note what was answered in JSON over plain HTTP."""
    if "/jobs" in path:
        _note(True, "http_job" if "/jobs/" in path else "http_jobs", content)


def _note(is_answer: bool, name: str, data: Any) -> None:
    if len(travelled) < MOST_TRAVELLED:
        travelled.append((is_answer, name, msgspec.json.encode(data)))


def violations() -> list[str]:
    """Return what of all that has travelled is not as the document has it, and forget what has travelled.

    Answers to requests of an application's own are not looked at.
    """
    known, found = [*travelled], list[str]()
    travelled.clear()
    for is_answer, name, payload in known:
        data = msgspec.json.decode(payload)
        if not is_answer or name in requests() or name in HTTP_ANSWERS:
            message = _answer_message(name, data) if is_answer else event_message(name)
            found += [f"{problem}\n    {data!s:.500}" for problem in _problems(message, data)]
    return found


def _answer_message(request: str, answer: Any) -> str:
    is_granted = isinstance(answer, dict) and answer.get("ok") is True
    return f"{request}.answer" if is_granted else "refused"


def _problems(message: str, data: Any) -> Iterator[str]:
    """Yield what is wrong with a message; of a list, with each item by its name, which is quicker."""
    if message == "agent_batch" and isinstance(data, list) and all(isinstance(item, dict) for item in data):
        problems = [problem_of_part(_items().get(item.get("event"), "CustomItem"), item) for item in data]
    else:
        problems = [problem_of(message, data)]
    yield from (problem for problem in problems if problem is not None)


@functools.cache
def _items() -> dict[str, str]:
    """Return the names of the schemas of what can be in a list, by the name of the event."""
    schemas = document()["components"]["schemas"]
    names = [item["$ref"].rpartition("/")[2] for item in schemas["BatchItem"]["anyOf"]]
    of_event = {name: schemas[name]["properties"]["event"].get("const") for name in names}
    return {event: name for name, event in of_event.items() if event is not None}
