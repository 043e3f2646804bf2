"""The web server of ``studio``, which publishes its jobs too: ``python -m studio_web``."""

from __future__ import annotations

import os
from typing import Any

from celery import chain
from flask import Flask, request
from flask_socketio import SocketIO
from studio import HERE, celery, realtime

web = Flask(__name__)
socketio = SocketIO(web, client_manager=realtime.client_manager(), async_mode="threading")
realtime.init_socketio(socketio, authorize_cancel=lambda _user, _project, _job: True)


@web.post("/start")
def start() -> dict[str, str]:
    """Publish a job, or a chain of jobs; return the id of the last one, and where the package is."""
    order: dict[str, Any] = request.get_json()
    steps = [celery.tasks[f"studio.{name}"].si(*args) for name, *args in order["steps"]]
    result = chain(*steps).apply_async(headers={"project_id": order["project"]})
    return {"job": result.id, "here": HERE}


@web.post("/revoke")
def revoke() -> dict[str, Any]:
    """Take a user's access to a project back, and return what came of that."""
    order: dict[str, Any] = request.get_json()
    result: Any = realtime.revoke_access(order["user"], order["project"])
    return {"accepted": bool(result), "confirmed": result.confirmed, "unconfirmed": [*result.unconfirmed]}


@web.post("/token")
def token() -> dict[str, str]:
    """Return a token of this version's."""
    order: dict[str, Any] = request.get_json()
    return {"token": realtime.issue_token(order["user"], order["projects"])}


if __name__ == "__main__":
    host, port = os.environ["HOST"], int(os.environ["PORT"])
    print(f"Listening on http://{host}:{port}", flush=True)  # noqa: T201
    socketio.run(web, host=host, port=port, allow_unsafe_werkzeug=True)
