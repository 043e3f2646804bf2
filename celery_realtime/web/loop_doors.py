"""Bound the connections of servers of asyncio that have not finished a request, each of which takes a file.

A process has often no more than 1,024 of them; without one, nobody can connect. Seen in uvicorn 0.54, which waits for a
request for ever, and in hypercorn 0.18, which does so for five seconds. Granian does not let itself be changed.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from celery_realtime.web.doors import MOST_WAITING, Waiting

#: By module, what uvicorn speaks HTTP with.
PROTOCOLS = {
    "uvicorn.protocols.http.httptools_impl": "HttpToolsProtocol",
    "uvicorn.protocols.http.h11_impl": "H11Protocol",
    "uvicorn.protocols.http.zttp_impl": "ZttpProtocol",
}
#: What says that a connection of it begins, ends, and waits for its next request.
METHODS = ("connection_made", "connection_lost", "on_response_complete")


class LoopDoors:
    """Bounds the connections without a request of the servers of asyncio in this process."""

    def __init__(self) -> None:
        self._is_installed = False

    def install(self) -> None:
        """Do so from now on; called within a request, so that the server is loaded."""
        if not self._is_installed:
            self._is_installed = True
            follow_servers()


def follow_servers() -> None:
    """Bound those that are loaded, and not bounded yet."""
    for module, name in PROTOCOLS.items():
        kind: Any = getattr(sys.modules.get(module), name, None)
        if all(hasattr(kind, method) for method in METHODS) and not hasattr(kind, "waiting_connections"):
            follow_uvicorn(kind, Waiting(MOST_WAITING, close_protocol))
    kind = getattr(sys.modules.get("hypercorn.asyncio.tcp_server"), "TCPServer", None)
    if hasattr(kind, "run") and hasattr(kind, "protocol_send") and not hasattr(kind, "waiting_connections"):
        follow_hypercorn(kind, Waiting(MOST_WAITING, close_writer))


def follow_uvicorn(kind: Any, waiting: Waiting) -> None:
    """Bound the connections that a class of uvicorn's protocols speaks HTTP with.

    Args:
        kind: The class, which is changed.
        waiting: Takes those that wait for a request.
    """
    made, lost, completed = (getattr(kind, method) for method in METHODS)

    @functools.wraps(made)
    def connection_made(protocol: Any, transport: Any) -> Any:
        waiting.enter(protocol, protocol)
        return made(protocol, transport)

    @functools.wraps(lost)
    def connection_lost(protocol: Any, error: Any) -> Any:
        waiting.leave(protocol)
        return lost(protocol, error)

    @functools.wraps(completed)
    def on_response_complete(protocol: Any) -> Any:
        waiting.enter(protocol, protocol)
        return completed(protocol)

    kind.waiting_connections = waiting
    kind.connection_made, kind.connection_lost, kind.on_response_complete = (
        connection_made,
        connection_lost,
        on_response_complete,
    )


def close_protocol(protocol: Any) -> bool:
    """Close a connection of uvicorn, unless a request has come by now, or it has become a WebSocket."""
    transport, cycle = protocol.transport, getattr(protocol, "cycle", None)
    if transport is None or transport.is_closing() or transport.get_protocol() is not protocol:
        return False
    if cycle is not None and not cycle.response_complete:
        return False
    transport.abort() if transport.get_write_buffer_size() else transport.close()
    return True


def follow_hypercorn(kind: Any, waiting: Waiting) -> None:
    """Bound the connections of hypercorn's servers of TCP.

    Args:
        kind: Their class, which is changed.
        waiting: Takes those that wait for a request.
    """
    run, send = kind.run, kind.protocol_send

    @functools.wraps(run)
    async def run_and_follow(server: Any) -> Any:
        waiting.enter(server, server.writer)
        try:
            return await run(server)
        finally:
            waiting.leave(server)

    @functools.wraps(send)
    async def protocol_send(server: Any, event: Any) -> Any:
        is_idle = getattr(event, "idle", None)
        if is_idle is not None:
            waiting.enter(server, server.writer) if is_idle else waiting.leave(server)
        return await send(server, event)

    kind.waiting_connections, kind.run, kind.protocol_send = waiting, run_and_follow, protocol_send


def close_writer(writer: Any) -> bool:
    """Close a connection of hypercorn."""
    writer.transport.abort()
    return True
