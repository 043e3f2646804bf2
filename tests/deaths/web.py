"""A python-socketio server for the death matrix: ``python -m tests.deaths.web``."""

from __future__ import annotations

import os

import socketio
from werkzeug.serving import make_server

from tests.deaths.app import realtime

assert realtime is not None
server = socketio.Server(async_mode="threading", client_manager=realtime.client_manager())
realtime.init_socketio(server)

if __name__ == "__main__":
    host, port = os.environ["HOST"], int(os.environ["PORT"])
    web = make_server(host, port, socketio.WSGIApp(server), threaded=True)
    print(f"Listening on http://{host}:{port}", flush=True)  # noqa: T201
    web.serve_forever()
