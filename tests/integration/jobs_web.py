"""A Flask-SocketIO server for the jobs of the tests: ``python -m tests.integration.jobs_web``."""
# ruff: noqa: E402

from __future__ import annotations

import os

ASYNC_MODE = os.environ.get("ASYNC_MODE", "threading")
if ASYNC_MODE == "eventlet":
    import eventlet

    eventlet.monkey_patch()
elif ASYNC_MODE == "gevent":
    from gevent import monkey

    monkey.patch_all()

from flask import Flask
from flask_socketio import SocketIO

from tests.integration.jobs import realtime

app = Flask(__name__)
socketio = SocketIO(app, client_manager=realtime.client_manager(), async_mode=ASYNC_MODE)
realtime.init_socketio(
    socketio,
    authorize_cancel=lambda user, _project, _job: user == "ada",
    authorize_rerun=lambda user, _project, _job: user == "ada",
)

if __name__ == "__main__":
    host, port = os.environ["HOST"], int(os.environ["PORT"])
    print(f"Listening on http://{host}:{port}", flush=True)  # noqa: T201
    options = {"allow_unsafe_werkzeug": True} if ASYNC_MODE == "threading" else {}
    socketio.run(app, host=host, port=port, **options)
