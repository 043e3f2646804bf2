"""Rules of an application in either form, and how a web server answers those that they refuse."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import socketio

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.client_recorder import Recorder
    from tests.web_servers import Web

FORBIDDEN = {"code": "forbidden", "message": "this project does not exist, or is not open to you"}


def refusal(client: Recorder, web: Web, **options: Any) -> dict[str, Any]:
    """Try to connect, and return what the server refuses it with."""
    with pytest.raises(socketio.exceptions.ConnectionError):
        client.connect(web.url, transports=["websocket"], **options)
    [said] = client.refusals
    assert client.connects == 0
    assert web.handlers.clients() == {}
    return said


def refusal_of_second(web: Web, token: str) -> str:
    """Try to connect beside others, and return the code that the server refuses it with."""
    client = web.client()
    with pytest.raises(socketio.exceptions.ConnectionError):
        client.connect(web.url, token=token, transports=["websocket"])
    return client.refusals[0]["data"]["code"]


def error_of(client: Recorder, event: str, data: Any) -> dict[str, Any]:
    """Ask for what is refused; return the error, which also comes as an event."""
    client.clear()
    answer = client.call(event, data)
    assert answer == {"ok": False, "error": answer["error"]}
    client.wait(lambda events: events)
    assert client.of("error") == [answer["error"]]
    return answer["error"]


def sync_or_async(rule: Callable[..., Any], form: str) -> Callable[..., Any]:
    if form == "sync":
        return rule

    async def awaited(*args: Any) -> Any:
        await asyncio.sleep(0)
        return rule(*args)

    return awaited


FORMS = pytest.mark.parametrize("form", ["sync", "async"])


def members(web: Web, project_id: str) -> int:
    return len(web.server.manager.rooms.get("/", {}).get(f"project:{project_id}", {}))
