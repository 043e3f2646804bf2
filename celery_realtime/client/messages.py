"""Read what a server sends: the events of one project, and answers to requests; malformed parts are left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from celery_realtime.client.protocol import BATCH_EVENT, ENTRY_EVENTS, HIDDEN_EVENT, MARK, RESYNC_EVENT


class Item(NamedTuple):
    """An event and its position in the history; both parts of the position are None where it has none."""

    event: str
    data: Any
    epoch: str | None
    offset: int | None


class Answer(NamedTuple):
    """A granted subscription.

    Args:
        epoch: Of the project's history; None without one, as ``offset`` is.
        offset: The last event that the answer covers.
        recovered: ``events`` are all that was missed.
        events: What was missed.
        jobs: The jobs of the snapshot, as they came.
        workflows: The workflows of the snapshot, as they came.
        next: Where to read on for further jobs; None if there are no others.
    """

    epoch: str | None
    offset: int | None
    recovered: bool
    events: list[Item]
    jobs: Any
    workflows: Any
    next: str | None


class Page(NamedTuple):
    """Further jobs of a snapshot.

    Args:
        epoch: Of the project's history.
        offset: The last event that the page covers.
        jobs: The jobs, as they came.
        next: Where to read on; None if nothing is left.
        unread: Of jobs that were asked for by their ids, those that there was no room for.
    """

    epoch: str
    offset: int
    jobs: Any
    next: str | None
    unread: list[Any]


def _position_in(fields: Mapping[str, Any]) -> tuple[str, int] | tuple[None, None]:
    """Return the epoch and offset among the fields; None for both unless both are well-formed."""
    epoch, offset = fields.get("epoch"), fields.get("offset")
    if not isinstance(epoch, str) or not isinstance(offset, int) or isinstance(offset, bool):
        return None, None
    return epoch, offset


def items_of(name: str, data: Any, project_id: str) -> Iterator[Item]:
    """Yield the events of a project in what a client received, of whatever project.

    Args:
        name: The name of the received event, which may be a batch.
        data: Its data.
        project_id: The project.
    """
    if name != BATCH_EVENT:
        yield from _item_of(name, data, {}, project_id)
        return
    for item in data if isinstance(data, list) else []:
        if _is_event(item):
            yield from _item_of(item["event"], item.get("data"), item, project_id)


def _item_of(name: str, data: Any, beside: dict[str, Any], project_id: str) -> Iterator[Item]:
    """Yield one event; in a batch, its mark stands beside data that are no object."""
    fields = data if isinstance(data, dict) else {}
    mark = fields if name in (*ENTRY_EVENTS, RESYNC_EVENT, HIDDEN_EVENT) else fields.get(MARK) or beside
    if isinstance(mark, dict) and mark.get("project_id") == project_id and not mark.get("replayed"):
        yield Item(name, data, *_position_in(mark))


def _is_event(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("event"), str)


def read_answer(answer: Any) -> Answer | None:
    """Return an answer that grants the subscription, and has all that is needed to go on from it; else None."""
    if not isinstance(answer, dict) or not answer.get("ok"):
        return None
    events = answer.get("events")
    epoch, offset = _position_in(answer)
    if (answer.get("epoch"), answer.get("offset")) != (epoch, offset):
        return None
    if not isinstance(events, list) or not all(_is_event(item) for item in events):
        return None
    first = (offset or 0) - len(events) + 1
    items = [Item(item["event"], item.get("data"), epoch, number) for number, item in enumerate(events, first)]
    recovered = bool(answer.get("recovered")) and epoch is not None
    return Answer(epoch, offset, recovered, items, answer.get("jobs"), answer.get("workflows"), _next_in(answer))


def read_page(answer: Any) -> Page | None:
    """Return an answer that has further jobs, and says as of when; else None."""
    if not isinstance(answer, dict) or not answer.get("ok"):
        return None
    epoch, offset = _position_in(answer)
    if epoch is None or offset is None:
        return None
    unread = answer.get("unread")
    return Page(epoch, offset, answer.get("jobs"), _next_in(answer), unread if isinstance(unread, list) else [])


def _next_in(answer: Mapping[str, Any]) -> str | None:
    place = answer.get("next")
    return place if isinstance(place, str) and place else None


def refusal_in(answer: Any) -> dict[str, Any] | None:
    """Return ``{"code", "message"}`` of an answer that refuses; None if it does not, or gives no code."""
    error = answer.get("error") if isinstance(answer, dict) and not answer.get("ok") else None
    return error if has_code(error) else None


def has_code(error: Any) -> bool:
    """Return whether something is a refusal with a code."""
    return isinstance(error, dict) and isinstance(error.get("code"), str)
