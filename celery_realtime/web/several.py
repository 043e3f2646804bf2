"""Emit each event once, and in order, to clients that have several subscriptions in a project."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from celery_realtime.channel.wire import Heard


class Rooms(Protocol):
    """Who is in which room of this server."""

    def participants(self, namespace: str, room: str) -> list[tuple[str, str]]:
        """Return the session id, and that of the Engine.IO socket, of each client in a room."""

    def is_in_room(self, sid: str, namespace: str, room: str) -> bool:
        """Return whether a client is in a room."""


class Place(NamedTuple):
    """Where an event goes: to those who follow its project, or its job.

    Attributes:
        namespace: The Socket.IO namespace.
        room: Of those who get single events.
        batch_room: Of those who get batches.
    """

    namespace: str
    room: str
    batch_room: str


class Wanted(NamedTuple):
    """Events that came together which one client gets by the same subscriptions.

    Attributes:
        sid: The client.
        namespace: The Socket.IO namespace.
        rooms: The rooms of these subscriptions.
        events: The events.
        in_batch: Whether all its subscriptions asked for batches.
    """

    sid: str
    namespace: str
    rooms: tuple[str, ...]
    events: tuple[Heard, ...]
    in_batch: bool


class SeveralRooms:
    """Finds the clients that would get events in more than one room.

    Such a client gets all events that came together by itself: one after the other, if any of its subscriptions in
    which it gets one of them asked for no batches.

    Args:
        rooms: Who is in which room of this server.
    """

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    def wanted(self, places: list[tuple[Heard, list[Place]]]) -> list[Wanted]:
        """Return what these clients get of events that came together; nobody else gets that.

        Args:
            places: The events in order, and for each where it goes: its project first.
        """
        return [
            wanted for namespace, sid in self._clients(places) for wanted in self._of_client(namespace, sid, places)
        ]

    def _clients(self, places: list[tuple[Heard, list[Place]]]) -> list[tuple[str, str]]:
        """Return the clients, of those who follow a job that something was heard of, that are in another room, too."""
        projects = {of_event[0] for _, of_event in places if len(of_event) > 1}
        jobs = {place for _, of_event in places for place in of_event[1:]}
        found: dict[tuple[str, str], int] = {}
        for place in jobs:
            for sid in self._members(place):
                found[place.namespace, sid] = found.get((place.namespace, sid), 0) + 1
        return [
            (namespace, sid)
            for (namespace, sid), count in found.items()
            if count > 1 or any(self._is_in(sid, project) for project in projects)
        ]

    def _members(self, place: Place) -> set[str]:
        rooms = (place.room, place.batch_room)
        return {sid for room in rooms for sid, _ in self._rooms.participants(place.namespace, room)}

    def _is_in(self, sid: str, place: Place) -> bool:
        return any(self._rooms.is_in_room(sid, place.namespace, room) for room in (place.room, place.batch_room))

    def _of_client(self, namespace: str, sid: str, places: list[tuple[Heard, list[Place]]]) -> Iterator[Wanted]:
        by_event = [
            (self._rooms_of(namespace, sid, of_event), event)
            for event, of_event in places
            if sid not in skipped_by(event.skip_sid)
        ]
        single = {place.room for _, of_event in places for place in of_event}
        in_batch = not any(room in single for rooms, _ in by_event for room in rooms)
        for rooms, group in itertools.groupby(by_event, key=lambda pair: pair[0]):
            events = tuple(event for _, event in group)
            if rooms:
                yield Wanted(sid, namespace, rooms, events, in_batch)

    def _rooms_of(self, namespace: str, sid: str, places: Iterable[Place]) -> tuple[str, ...]:
        return tuple(
            room
            for place in places
            if place.namespace == namespace
            for room in (place.room, place.batch_room)
            if self._rooms.is_in_room(sid, namespace, room)
        )


def skipped_by(skip_sid: object) -> list[object]:
    """Return the clients that something is not emitted to as a list."""
    return list(skip_sid) if isinstance(skip_sid, list) else [skip_sid]
