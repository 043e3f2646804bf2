"""Put clients into the rooms of projects, on whichever server of the channel they are connected to."""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from celery_realtime.rooms import normalise_project_id, project_room


class Publisher(Protocol):
    """What tells the other servers, such as a write-only Kombu manager."""

    def enter_room(self, sid: str, namespace: str, room: str) -> Any:
        """Have the server that a client is connected to put it into a room."""

    def leave_room(self, sid: str, namespace: str, room: str) -> Any:
        """Have the server that a client is connected to take it out of a room."""


class ClientRooms:
    """The rooms of connected clients, without asking an authorizer: the caller vouches for them.

    Args:
        publisher: Returns what tells the other servers.
        namespace: Returns the Socket.IO namespace of the projects.

    Attributes:
        server: The Socket.IO server of this process, while there is one. It moves its own clients itself.
    """

    def __init__(self, publisher: Callable[[], Publisher], namespace: Callable[[], str]) -> None:
        self._publisher = publisher
        self._namespace = namespace
        self._server: Callable[[], Any] = lambda: None
        #: What an asyncio server is about to do; asyncio holds tasks weakly.
        self._tasks: set[asyncio.Future[Any]] = set()

    @property
    def server(self) -> Any:
        """As the attribute; whoever serves it keeps it, and not what sends to it."""
        return self._server()

    @server.setter
    def server(self, server: Any) -> None:
        self._server = weakref.ref(server)

    def enter(self, project_id: object, sid: str) -> None:
        """Put a client into the room of a project."""
        room = project_room(normalise_project_id(project_id))
        server = self._mover()
        if server is not None:
            self._finish(server.enter_room(sid, room, namespace=self._namespace()))
        else:
            self._publisher().enter_room(sid, self._namespace(), room)

    def leave(self, project_id: object, sid: str) -> None:
        """Take a client out of the room of a project."""
        room = project_room(normalise_project_id(project_id))
        server = self._mover()
        if server is not None:
            self._finish(server.leave_room(sid, room, namespace=self._namespace()))
        else:
            self._publisher().leave_room(sid, self._namespace(), room)

    def _mover(self) -> Any:
        """Return this process's server if it can be asked, which an asyncio server can be in its event loop only."""
        server = self.server
        if server is None or not inspect.iscoroutinefunction(server.enter_room) or _in_event_loop():
            return server
        return None

    def _finish(self, outcome: Any) -> None:
        """Let what an asyncio server returned run on in its event loop."""
        if inspect.isawaitable(outcome):
            task = asyncio.ensure_future(outcome)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
