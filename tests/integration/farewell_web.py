"""A web server that is interrupted as soon as it has spoken: ``python -m tests.integration.farewell_web``."""

from __future__ import annotations

import os
import signal

from werkzeug.serving import make_server

from tests.integration.farewell_scripts import emit
from tests.integration.jobs_web import app


@app.post("/say/<project>")
def say(project: str) -> str:
    emit(project)
    os.kill(os.getpid(), signal.SIGINT)
    return "said"


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests in the background may ignore it
    host, port = os.environ["HOST"], int(os.environ["PORT"])
    web = make_server(host, port, app, threaded=True)
    print(f"Listening on http://{host}:{port}", flush=True)  # noqa: T201
    web.serve_forever()
