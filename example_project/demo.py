"""Start the whole example with one command (a private Redis, a worker, the web server), and clean up afterwards.

Run it with ``python -m example_project.demo``; ``--check`` runs one job, verifies it, and stops.

How it cleans up: each program runs under a guard, a small process that leads a process group of its own. The guard
reads from a pipe whose other end only the demo holds. When the pipe closes, because the demo closes it or because the
demo has ended in whatever way, the guard terminates its program and then its whole process group. This needs nothing
but POSIX.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import deque
from http.client import HTTPException
from importlib.util import find_spec
from typing import IO, TYPE_CHECKING, Any, NoReturn

from .embedded_redis import answers, find_redis_server, free_port, server_command, server_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PORT = 8080
#: Seconds.
START_TIMEOUT = 60.0
CHECK_TIMEOUT = 30.0
#: The time that a program gets to exit by itself, in seconds. A worker without a running job needs 2.5.
GRACE = 4.0
#: The same if the demo or its user is gone, and the programs should not stay for long.
ORPHAN_GRACE = 2.0
POLL = 0.05
LAST_LINES = 25
#: What there is to see at first, of each a user, a kind, and about how long it takes.
FIRST_JOBS = (
    ("grace", "transcribe", 2),
    ("ada", "fail", 1),
    ("ada", "backup", 2),
    ("ada", "chain", 20),
    ("ada", "answer", 40),
    ("ada", "group", 8),
    ("ada", "flaky", 6),
    ("ada", "transcribe", 15),
    ("ada", "episode", 20),
)
SPLIT_BROKER = ("CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")
#: The web server is on this machine: use no proxy, whatever the environment says.
HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor())


class StartError(Exception):
    """The demo cannot start with these options; the message says what to change."""


class DemoError(Exception):
    """A part of the demo failed, or was not ready in time; the message says which."""


class Stopped(Exception):
    """The demo was asked to stop, or the process that started it has ended."""


def say(text: str, stream: int = 1) -> None:
    """Write a line immediately; an error because nobody reads it is ignored."""
    with contextlib.suppress(OSError):
        os.write(stream, f"{text}\n".encode())


# The guard: a process of its own for each program


def guard(directory: str, command: list[str]) -> NoReturn:
    """Run a program, report to the demo how it ended, and kill every process of this group, including this one.

    :param directory: removed at the end.
    """
    try:
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    except OSError as error:
        report(f"could not be started: {error}")
    else:
        threading.Thread(target=end_with_demo, args=(program, directory), daemon=True).start()
        report(describe(program.wait()))
    end_group(directory)


def end_with_demo(program: subprocess.Popen[bytes], directory: str) -> None:
    message = sys.stdin.buffer.read()  # Returns when the demo closes its end; empty if the demo has died.
    program.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        program.wait(GRACE if message else ORPHAN_GRACE)
    end_group(directory)


def report(text: str) -> None:
    with contextlib.suppress(OSError):  # The demo may be gone; the guard has to clean up all the same.
        os.write(sys.stdout.fileno(), text.encode())


def describe(code: int) -> str:
    return f"ended with exit code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"


def end_group(directory: str) -> NoReturn:
    shutil.rmtree(directory, ignore_errors=True)
    # Only the group that this process leads: if it were not the leader, no group would have this number.
    os.killpg(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached")


# The programs, as the demo sees them


def make_directory() -> str:
    return tempfile.mkdtemp(prefix="celery-realtime-demo-")


class Child:
    """A program that runs until this process stops it, and no longer than this process.

    :param directory: for its temporary files, of which billiard, for example, leaves some; removed at the end.
    :param verbose: show its output.
    """

    def __init__(self, name: str, command: list[str], env: dict[str, str], *, directory: str, verbose: bool) -> None:
        self.name = name
        self._directory = directory
        self._verbose = verbose
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)
        # The guard's standard input is the pipe that it watches, its standard output carries its report, and its
        # standard error the program's output. It has a session of its own, so that Ctrl-C in the terminal does not
        # reach it: the demo decides.
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "example_project.demo", "--guard", directory, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env | {"TMPDIR": directory},
            start_new_session=True,
        )
        assert self._guard.stdin
        assert self._guard.stdout
        self._pipe, self._report = self._guard.stdin, self._guard.stdout
        self._reader = threading.Thread(target=self._read, args=(self._guard.stderr,), daemon=True)
        self._reader.start()

    def _read(self, output: IO[bytes]) -> None:
        for line in output:
            text = line.decode(errors="replace").rstrip()
            self._last_lines.append(text)
            if self._verbose:
                say(f"[{self.name}] {text}")

    def fileno(self) -> int:
        """Return what to ``select`` on: readable once the guard has reported or has ended."""
        return self._report.fileno()

    def describe_end(self) -> str:
        """Return how the program ended, and its last lines of output. Only for a child that has ended."""
        how = self._report.read().decode() or "lost its guard process"
        self.kill()
        return "\n".join([f"The {self.name} {how}. Its last lines:", *(f"  {line}" for line in self._last_lines)])

    def stop(self, requests: StopRequests) -> None:
        """Give the program some time to exit by itself, then kill it."""
        deadline = time.monotonic() + GRACE + 1
        with contextlib.suppress(OSError):  # The guard may be gone.
            os.write(self._pipe.fileno(), b"" if requests.abandoned() else b"grace")
        self._pipe.close()
        while not ended([self]) and not requests.stop_at_once() and time.monotonic() < deadline:
            pass
        self.kill()

    def kill(self) -> None:
        """Kill what is left of the program, and read the rest of its output."""
        if self._guard.returncode is None:  # Not waited for yet, so the group's number is not reused.
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: not permitted when all have ended.
                os.killpg(self._guard.pid, signal.SIGKILL)
            self._guard.wait()
        self._reader.join(timeout=1)
        shutil.rmtree(self._directory, ignore_errors=True)


def ended(children: list[Child]) -> list[Child]:
    """Wait a moment for a child to end, and return those that have ended."""
    return select.select(children, [], [], POLL)[0]


class StopRequests:
    """Requests to stop: signals are counted, and never raised in the middle of something."""

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._terminals = [stream for stream in (0, 1, 2) if os.isatty(stream)]
        self._signals = 0
        # Also signals that were ignored at the start, as SIGINT is in a shell's background job.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._count)

    def _count(self, *_: object) -> None:
        self._signals += 1

    def stop(self) -> bool:
        return self._signals > 0 or self.abandoned()

    def stop_at_once(self) -> bool:
        return self._signals > 1

    def abandoned(self) -> bool:
        """Return whether the parent has ended, or the terminal was closed.

        Only the leader of the session is notified of the latter. If that is make, it waits for this process silently.
        """
        return os.getppid() != self._parent or not all(map(os.isatty, self._terminals))


class Demo:
    """The running programs, in the order in which they were started."""

    def __init__(self, requests: StopRequests, *, verbose: bool = False) -> None:
        self._requests = requests
        self._verbose = verbose
        self._children: list[Child] = []

    def start(self, name: str, command: list[str], env: dict[str, str], *, directory: str | None = None) -> None:
        folder = directory or make_directory()
        self._children.append(Child(name, command, env, directory=folder, verbose=self._verbose))

    def wait_for(self, condition: Callable[[], object], timeout: float, what: str) -> None:
        """Wait until ``condition`` holds.

        :param timeout: seconds.
        :raises DemoError: it did not hold in time (the message names ``what``), or a program ended.
        :raises Stopped: the demo was asked to stop.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            if self._requests.stop():
                raise Stopped
            for child in ended(self._children):
                raise DemoError(f"{child.describe_end()}\nStopping the rest.")
            if time.monotonic() > deadline:
                raise DemoError(
                    f"{what}: not within {timeout:.0f} seconds. --verbose shows the output of the programs."
                )

    def stop(self) -> None:
        """Stop the web server first and the broker last, so that the programs still running have what they need."""
        while self._children:
            self._children[-1].stop(self._requests)
            self._children.pop()


# What is started


def run(options: argparse.Namespace, demo: Demo) -> None:
    port = choose_port(options.host, options.port)
    url = f"http://{'127.0.0.1' if options.host == '0.0.0.0' else options.host}:{port}/"
    env = environment(options, port) | start_broker(options, demo)
    demo.start("worker", worker_command(options.concurrency), env)
    demo.start("web server", [sys.executable, "-m", "example_project.app"], env)
    demo.wait_for(lambda: page_answers(url), START_TIMEOUT, f"The page {url}")
    say(announcement(options, port, url))
    if options.check:
        check(demo, url)
    else:
        start_jobs(url, () if options.empty else FIRST_JOBS)
        demo.wait_for(lambda: False, float("inf"), "The end")


def start_jobs(url: str, jobs: Iterable[tuple[str, str, float]]) -> None:
    """Start jobs, so that whoever opens the page sees some; ``jobs`` has a user, a kind and seconds for each."""
    try:
        for user, kind, seconds in jobs:
            project = post(f"{url}login", {"user": user})["projects"][0]
            post(f"{url}jobs", {"project_id": project, "kind": kind, "options": {"seconds": seconds}})
    except DemoError as error:  # If a program has ended, the demo is about to say so.
        say(f"Not all of the first jobs could be started: {error}", 2)


def environment(options: argparse.Namespace, port: int) -> dict[str, str]:
    settings = {"HOST": options.host, "PORT": str(port), "ASYNC_MODE": options.async_mode}
    # Celery would prefer these two to the broker of the options.
    inherited = {name: value for name, value in os.environ.items() if name not in SPLIT_BROKER}
    return {"SECRET_KEY": secrets.token_hex()} | inherited | settings


def start_broker(options: argparse.Namespace, demo: Demo) -> dict[str, str]:
    """Start a private Redis for what the options do not name, and return the URLs of the broker and the results."""
    broker, results = options.broker_url, options.result_backend
    if broker and not results and broker.startswith(("redis", "valkey")):
        results = broker
    if broker:
        require_broker(broker)
    if not (broker and results):
        port = start_redis(options.redis_server, demo)
        broker, results = broker or server_url(port, 0), results or server_url(port, 1)
    return {"CELERY_BROKER_URL": broker, "CELERY_RESULT_BACKEND": results}


def require_broker(url: str) -> None:
    from celery import Celery  # Not at the top: the guards import this module too.

    with Celery().connection_for_write(url) as connection:
        try:
            connection.connect()
        except Exception as error:
            raise StartError(f"The broker {connection.as_uri()} does not answer: {error}") from error


def start_redis(server: str | None, demo: Demo) -> int:
    try:
        program = find_redis_server(server)
    except LookupError as error:
        raise StartError(f"{error} Or use a broker of your own: --broker-url URL.") from error
    port, directory = free_port(), make_directory()
    command = server_command(program, port=port, directory=directory)
    demo.start("Redis server", command, {**os.environ}, directory=directory)
    demo.wait_for(lambda: answers(port), START_TIMEOUT, f"{program} on port {port}")
    return port


def worker_command(concurrency: int) -> list[str]:
    # A name of its own, in case another worker uses the same broker. A single worker does not need mingle and gossip,
    # which take a second at the start.
    name = f"demo-{os.getpid()}@%h"
    worker = [sys.executable, "-m", "celery", "-A", "example_project.tasks", "worker", "--hostname", name]
    return [*worker, "--concurrency", str(concurrency), "--loglevel", "INFO", "--without-mingle", "--without-gossip"]


def choose_port(host: str, wanted: int | None) -> int:
    """Return the requested port, or the first free one from 8080 on if none is requested.

    :raises StartError: the port is taken, or cannot be used on this host.
    """
    try:
        if wanted == 0:
            return free_port(host)
        candidates = range(PORT, PORT + 100) if wanted is None else [wanted]
        for port in candidates:
            if not is_taken(host, port):
                return port
    except OSError as error:
        raise StartError(f"Cannot listen on {host}, port {wanted or PORT}: {error.strerror or error}.") from error
    if wanted is None:
        raise StartError(f"All ports of {host} from {PORT} to {PORT + 99} are taken. Choose another one with --port.")
    raise StartError(f"Port {wanted} of {host} is taken. Choose another one with --port, or leave --port out.")


def is_taken(host: str, port: int) -> bool:
    # If another process listens on all addresses, macOS still allows a single one: so check for an answer first.
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return True
        raise
    return False


def page_answers(url: str) -> bool:
    try:
        with HTTP.open(url, timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, HTTPException):
        return False


def announcement(options: argparse.Namespace, port: int, url: str) -> str:
    lines = [f"The demo is running: {url}"]
    if options.port is None and port != PORT:
        lines.append(f"  Port {PORT} is taken, so this is the next free one. Choose with --port.")
    if not options.host.startswith("127.") and options.host != "localhost":
        lines.append("  Anyone who can reach this machine can use it: its login asks for no password.")
    if not options.check:
        lines.append("  Ctrl-C stops everything.")
    return "\n".join(lines)


# The check: one job, as a user would run it


def check(demo: Demo, url: str) -> None:
    """Log in, subscribe, start a job, and verify that it succeeds.

    :raises DemoError: a step failed; the message says which.
    """
    user = post(f"{url}login", {"user": "ada"})
    project = user["projects"][0]
    events = subscribe(url, get(f"{url}token")["token"], project)
    say(f"Logged in as {user['user']}, subscribed to the project {project}.")
    job = {"project_id": project, "kind": "transcribe", "options": {"seconds": 1}}
    follow(demo, post(f"{url}jobs", job)["jobs"][0], events)


def subscribe(url: str, token: str, project: str) -> list[dict[str, Any]]:
    """Connect a Socket.IO client, and return a list that fills with the events of the project's jobs.

    It is never disconnected: the server's end does that, and an orderly disconnect takes up to three seconds.
    """
    # The client's transports would use a proxy for this machine, too.
    os.environ.update(no_proxy="*", NO_PROXY="*")
    import socketio  # Not at the top: only the check needs it.

    events: list[dict[str, Any]] = []
    client = socketio.Client(handle_sigint=False, reconnection=False)
    client.on("agent_status", events.append)
    client.on("agent_progress", events.append)
    try:
        client.connect(url, auth={"token": token}, transports=transports(), wait_timeout=CHECK_TIMEOUT)
        answer = client.call("subscribe_project", {"project_id": project}, timeout=CHECK_TIMEOUT)
    except socketio.exceptions.SocketIOError as error:
        raise DemoError(f"The Socket.IO connection failed: {error!r}") from error
    if not (isinstance(answer, dict) and answer.get("ok")):
        raise DemoError(f"The subscription was refused: {answer}")
    return events


def transports() -> list[str]:
    """Return the available transports: each needs a package that python-socketio does not install."""
    available = [way for way, package in (("polling", "requests"), ("websocket", "websocket")) if find_spec(package)]
    if not available:
        raise DemoError("The check needs the Socket.IO client: pip install 'python-socketio[client]'")
    return available


def follow(demo: Demo, job_id: str, events: list[dict[str, Any]]) -> None:
    """Wait for all events of a job, and verify them.

    The web server reports that it is queued, the worker the rest, in no particular order: the offset gives the order.
    """

    def events_named(name: str) -> list[dict[str, Any]]:
        named = [event for event in list(events) if event["job_id"] == job_id and event["event"] == name]
        return sorted(named, key=lambda event: event.get("offset", 0))

    def statuses() -> list[str]:
        return [event["status"] for event in events_named("status_change")]

    def complete() -> bool:
        return {"queued", "running"}.issubset(statuses()) and not {"success", "error"}.isdisjoint(statuses())

    demo.wait_for(complete, CHECK_TIMEOUT, f"All events of the job {job_id}")
    progress = [event["progress"] for event in events_named("progress_update")]
    say(f"The job: {', '.join(statuses())}; progress: {', '.join(map(str, progress))}.")
    if statuses() != ["queued", "running", "success"] or not progress:
        raise DemoError("The job should have made progress and succeeded.")


def get(url: str) -> Any:
    return fetch(urllib.request.Request(url))


def post(url: str, data: dict[str, Any]) -> Any:
    headers = {"Content-Type": "application/json"}
    return fetch(urllib.request.Request(url, json.dumps(data).encode(), headers))


def fetch(request: urllib.request.Request) -> Any:
    try:
        with HTTP.open(request, timeout=CHECK_TIMEOUT) as response:
            return json.load(response)
    except (OSError, HTTPException, ValueError) as error:
        raise DemoError(f"{request.get_method()} {request.full_url}: {error}") from error


# The command


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m example_project.demo", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--port", type=port_number, help=f"port of the page; 0 for any (default: {PORT} or the next free one)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--broker-url", metavar="URL", help="use this broker, and start no Redis for it")
    parser.add_argument(
        "--result-backend", metavar="URL", help="default: the broker if it is Redis, else a private Redis"
    )
    parser.add_argument("--redis-server", metavar="PATH", help="the server program to start (default: search for one)")
    parser.add_argument("--async-mode", choices=["threading", "eventlet", "gevent"], default="threading")
    parser.add_argument(
        "--concurrency", type=int, default=2, metavar="N", help="worker processes (default: %(default)s)"
    )
    parser.add_argument(
        "--check", action="store_true", help="run one job as a user would, then stop; exit code 0 on success"
    )
    parser.add_argument("--empty", action="store_true", help="start no jobs: the page has none until you start one")
    parser.add_argument("--verbose", action="store_true", help="show the output of the programs")
    return parser.parse_args(arguments)


def port_number(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return port


def main(arguments: list[str]) -> int:
    """Run the demo and return its exit code: 0 on success, 1 if a part failed, 2 if it could not start."""
    if arguments[:1] == ["--guard"]:
        guard(arguments[1], arguments[2:])
    options = parse(arguments)
    demo = Demo(StopRequests(), verbose=options.verbose)
    try:
        code, message = outcome(options, demo)
        say(message, 2 if code else 1)
    finally:
        demo.stop()
    return code


def outcome(options: argparse.Namespace, demo: Demo) -> tuple[int, str]:
    try:
        run(options, demo)
    except StartError as error:
        return 2, str(error)
    except DemoError as error:
        return 1, str(error)
    except Stopped:
        return int(options.check), "Stopping everything."
    return 0, "The check passed."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
