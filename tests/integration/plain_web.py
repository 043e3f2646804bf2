"""A Socket.IO server without the extension: it shows that the clients of the tests do their part."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import parse_qs

import socketio
from werkzeug.serving import make_server

TOKEN = "ada:secret"

server = socketio.Server(async_mode="threading")


@server.event
def connect(sid: str, environ: dict[str, Any], auth: dict[str, str] | None) -> None:
    query = parse_qs(environ.get("QUERY_STRING", ""))
    token = (auth or {}).get("token") or query.get("token", [""])[0]
    if token != TOKEN:
        raise socketio.exceptions.ConnectionRefusedError("unauthorized")


@server.event
def subscribe_project(sid: str, data: dict[str, Any]) -> dict[str, Any]:
    if data["project_id"] != "apollo":
        server.emit("error", {"code": "forbidden", "message": "not yours"}, to=sid)
        return {"ok": False}
    server.emit("agent_status", {"job_id": "job-1", "status": "queued"}, to=sid)
    server.emit("agent_progress", {"job_id": "job-2", "progress": 50}, to=sid)
    server.emit("transcript_line", {"text": "hello", "_realtime": {"job_id": "job-1"}}, to=sid)
    server.emit("agent_status", {"job_id": "job-1", "status": "success"}, to=sid)
    return {"ok": True, "project_id": data["project_id"]}


def main() -> None:
    host, port = os.environ["HOST"], int(os.environ["PORT"])
    web = make_server(host, port, socketio.WSGIApp(server), threaded=True)
    print(f"Listening on http://{host}:{port}", flush=True)  # noqa: T201  (WebServer waits for it)
    web.serve_forever()


if __name__ == "__main__":
    main()
