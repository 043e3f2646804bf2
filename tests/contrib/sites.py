"""The example projects, started as their pages say, and those who look at them with a browser's cookies."""

from __future__ import annotations

import http.cookiejar
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.client_recorder import Recorder
from tests.processes import HOST, ROOT, ManagedProcess, Worker, accepts_connections, free_port, python_path

if TYPE_CHECKING:
    from tests.launcher import Launcher
    from tests.services import Broker

#: Seconds to wait for what takes a moment on a machine with nothing else to do.
LONG = 60.0
SECRET = "a long and random string of the tests"
EXAMPLES = ROOT / "example_project"


class Site:
    """An example project with its worker, on a broker of its own.

    Args:
        launcher: Starts and ends the processes.
        broker: What they talk over.
        folder: The project's name below ``example_project``.
        app: What follows ``celery -A``.
    """

    def __init__(self, launcher: Launcher, broker: Broker, folder: str, app: str) -> None:
        self.launcher = launcher
        self.folder = EXAMPLES / folder
        paths = [str(self.folder), python_path()["PYTHONPATH"]]
        self.env = {
            **broker.env,
            "PYTHONPATH": os.pathsep.join(paths),
            "DATABASE": str(launcher.folder / f"{folder}.sqlite3"),
            "REALTIME_SECRET_KEY": SECRET,
            "XDG_RUNTIME_DIR": str(launcher.folder),  # gunicorn makes a socket there, else in the user's home
        }
        self._app = app

    def run(self, *arguments: str) -> str:
        """Run ``python ...`` to its end, and return what it said."""
        process = self._process("run", [*arguments])
        self.launcher.start(process)
        assert process._started.wait(LONG) == 0, process.log_tail
        return process.log_tail

    def start_worker(self) -> Worker:
        """Start the worker; it may not be ready yet."""
        worker = Worker(self._app, folder=self.launcher.folder, concurrency=1, env=self.env)
        return self.launcher.start(worker, wait=False)

    def serve(self, command: str, env: dict[str, str] | None = None) -> str:
        """Start a web server, and return its URL.

        Args:
            command: What follows ``python -m``, or a program of the project; ``{port}`` stands for the port.
            env: Added to the environment.
        """
        port = free_port()
        program, *rest = command.format(port=port).split()
        start = [program] if program.endswith(".py") else ["-m", program]
        web = self._process(program, [*start, *rest], env, port)
        self.launcher.start(web)
        return f"http://{HOST}:{port}"

    def _process(
        self, name: str, arguments: list[str], env: dict[str, str] | None = None, port: int | None = None
    ) -> ManagedProcess:
        return ManagedProcess(
            [sys.executable, *arguments],
            folder=self.launcher.folder,
            name=f"{Path(name).stem}-{port or free_port()}",
            env={**self.env, **(env or {})},
            cwd=self.folder,
            ready=None if port is None else lambda: accepts_connections(port),
            start_timeout=LONG,
        )


class Browser:
    """Somebody with cookies.

    Args:
        url: The address of the site.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._cookies = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self._cookies)
        )

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        """Get a page."""
        return self._open(urllib.request.Request(self.url + path, headers=headers or {}))

    def post_json(self, path: str, data: Any, headers: dict[str, str]) -> Answer:
        """Send JSON."""
        headers = {"Content-Type": "application/json", **headers}
        return self._open(urllib.request.Request(self.url + path, json.dumps(data).encode(), headers))

    def post(self, path: str, **fields: str) -> Answer:
        """Send a form, with the site's own protection against forgery where it has one."""
        token = self.cookies.get("csrftoken")
        headers = {"X-CSRFToken": token, "Referer": self.url} if token else {}
        data = urllib.parse.urlencode(fields).encode()
        return self._open(urllib.request.Request(self.url + path, data=data, headers=headers))

    def _open(self, request: urllib.request.Request) -> Answer:
        try:
            with self._opener.open(request, timeout=LONG) as response:
                return Answer(response)
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error)

    @property
    def cookies(self) -> dict[str, str]:
        """Its cookies."""
        return {cookie.name: cookie.value or "" for cookie in self._cookies}

    def options(self, path: str, headers: dict[str, str]) -> Answer:
        """Ask beforehand, as browsers do for pages of another origin."""
        return self._open(urllib.request.Request(self.url + path, headers=headers, method="OPTIONS"))

    def socket(
        self,
        launcher: Launcher,
        token: str | None = None,
        transports: list[str] | None = None,
    ) -> Recorder:
        """Connect a Socket.IO client with the cookies, which is closed with the launcher."""
        client = Recorder()
        launcher.closes(client)
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        client.sio.connect(
            self.url,
            headers={"Cookie": cookie},
            auth=None if token is None else {"token": token},
            transports=transports or ["websocket"],
            wait_timeout=LONG,
        )
        return client


class Answer:
    """What a site has answered."""

    def __init__(self, response: Any) -> None:
        self.status: int = response.status
        self.headers = response.headers
        self.text: str = response.read().decode()

    def json(self) -> Any:
        """Return what it says in JSON."""
        return json.loads(self.text)
