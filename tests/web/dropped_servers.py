"""A program that makes apps with Socket.IO servers as factories do, drops them, and says what of them stays.

Called with ``threading``, ``gevent`` or ``asyncio``; the URLs of the broker and of the history, the latter empty for
none; how many apps to make; and ``client`` to have each serve a client. Prints a line of JSON.
"""

# ruff: noqa: E402 - gevent patches first
from __future__ import annotations

import sys

MODE, BROKER, HISTORY, COUNT, CLIENT = sys.argv[1:]

if MODE == "gevent":
    from gevent import monkey

    monkey.patch_all()

import asyncio
import contextlib
import gc
import json
import threading
import weakref
from typing import Any

import psutil
import socketio
import uvicorn
from celery import Celery
from flask import Flask
from flask_socketio import SocketIO
from werkzeug.serving import make_server

from celery_realtime import Realtime
from celery_realtime.contrib.flask import init_flask
from tests.waiting import wait_for, wait_for_async

HOST, PATIENCE = "127.0.0.1", 60.0


def new_realtime() -> Realtime:
    celery = Celery("factory", broker=BROKER, set_as_current=False)
    return Realtime(celery, history_url=HISTORY or None, secret_key="a long and random string of the tests")


def use(url: str, token: str, emit: Any) -> None:
    """Be a client that follows a project until it has heard an event of it."""
    client = socketio.SimpleClient()
    client.connect(url, auth={"token": token}, transports=["websocket"])
    assert client.call("subscribe_project", {"project_id": "alpha"}, timeout=PATIENCE)["ok"]
    emit("alpha", "line", {})
    while client.receive(timeout=PATIENCE)[0] != "line":
        pass
    client.disconnect()


# -- on threads and greenlets -------------------------------------------------------------------------------------


def make_flask() -> list[weakref.ref[Any]]:
    """Make a Flask app, let it serve a client, and drop it."""
    app, realtime = Flask("factory"), new_realtime()
    app.extensions["celery"] = realtime.app
    sockets = SocketIO(app, client_manager=realtime.client_manager(), async_mode=MODE)
    init_flask(app, sockets, realtime)
    if CLIENT:
        http = make_server(HOST, 0, app, threaded=True)
        thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        use(
            f"http://{HOST}:{http.port}",
            realtime.issue_token("ada", projects=["alpha"]),
            realtime.manager.emit_to_project,
        )
        http.shutdown()
        http.server_close()
        thread.join()
    server = sockets.server
    assert server.manager.wait_until_listening(PATIENCE)
    return [weakref.ref(one) for one in (app, realtime, realtime.app, server, server.eio, server.manager)]


# -- on an event loop ---------------------------------------------------------------------------------------------


async def make_asgi() -> list[weakref.ref[Any]]:
    """Make an ASGI app, let it serve a client, and drop it; the loop goes on."""
    realtime = new_realtime()
    server = socketio.AsyncServer(async_mode="asgi", client_manager=realtime.async_client_manager())
    realtime.init_socketio(server)
    if CLIENT:
        config = uvicorn.Config(socketio.ASGIApp(server), host=HOST, port=0, log_level="error", lifespan="off")
        http = uvicorn.Server(config)
        serving = asyncio.create_task(http.serve())
        await wait_for_async(lambda: http.started)
        url = f"http://{HOST}:{http.servers[0].sockets[0].getsockname()[1]}"
        token = realtime.issue_token("ada", projects=["alpha"])
        await asyncio.to_thread(use, url, token, realtime.manager.emit_to_project)
        http.should_exit = http.force_exit = True
        await serving
    listener = server.manager.reader.listener
    assert await asyncio.to_thread(listener.wait, PATIENCE)
    return [weakref.ref(one) for one in (realtime, realtime.app, server, server.eio, server.manager)]


# -- what stays ---------------------------------------------------------------------------------------------------


def rest(refs: list[weakref.ref[Any]]) -> dict[str, Any]:
    gc.collect()
    connections = [each.raddr for each in psutil.Process().net_connections() if each.status == "ESTABLISHED"]
    return {
        "objects": [type(one()).__name__ for one in refs if one() is not None],
        "threads": [thread.name for thread in threading.enumerate() if "realtime" in thread.name],
        "connections": len(connections),
    }


def have_gone(refs: list[weakref.ref[Any]]) -> bool:
    return not any(rest(refs).values())


async def main_asgi() -> dict[str, Any]:
    refs = [one for _ in range(int(COUNT)) for one in await make_asgi()]
    with contextlib.suppress(AssertionError):
        await wait_for_async(lambda: have_gone(refs) and not other_tasks(), timeout=PATIENCE)
    return {**rest(refs), "tasks": other_tasks()}


def other_tasks() -> list[str]:
    return [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]


def main() -> dict[str, Any]:
    refs = [one for _ in range(int(COUNT)) for one in make_flask()]
    with contextlib.suppress(AssertionError):
        wait_for(lambda: have_gone(refs), timeout=PATIENCE)
    return rest(refs)


sys.stdout.write(json.dumps(asyncio.run(main_asgi()) if MODE == "asyncio" else main()))
