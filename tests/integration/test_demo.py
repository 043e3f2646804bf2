"""The demo starts everything, stops everything, and leaves nothing behind, however it ends."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import sys
import urllib.request
from typing import TYPE_CHECKING

import psutil
import pytest

from example_project.embedded_redis import VARIABLE
from tests.processes import HOST, ManagedProcess
from tests.services import BROKERS
from tests.variants import long_unless
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEMO = [sys.executable, "-m", "example_project.demo"]
#: A demo that waits for its programs until they end, were it for ever.
PATIENT_DEMO = [
    sys.executable,
    "-c",
    "import sys; from example_project import demo; demo.GRACE = 1e6; sys.exit(demo.main(sys.argv[1:]))",
]
#: The demo, three guards, Redis, the web server, the worker and its two pool processes.
FAMILY = 9
#: A word in the command of each program.
PROGRAMS = {"Redis server": "--appendonly", "worker": "celery", "web server": "example_project.app"}
ADDRESS = re.compile(r"http://\S+")
PASSED = re.compile(r"queued, running, success; progress: \d.*\nThe check passed\.")
#: Seconds, for a busy machine. Each of the three programs gets up to four to end by itself, one after the other.
STOP_TIMEOUT = 60
#: Seconds, for a busy machine. With the demo or its user gone, the worker gets two, the others need next to nothing.
ORPHAN_TIMEOUT = 20

#: A shell as the parent: it waits, where it would give its place to a command that is the last one.
SHELL = ["sh", "-c", '"$@"; true', "sh"]
#: A terminal, in which a process waits for the demo and does not mind a hangup, as make does.
TERMINAL = [
    sys.executable,
    "-c",
    "import pty, sys; pty.spawn(sys.argv[1:])",
    "sh",
    "-c",
    "trap '' HUP; \"$@\"; true",
    "sh",
]
#: What a shell does to its background jobs.
IGNORING_SIGINT = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]

HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor())


class Demo:
    """A demo that a test started, and every process of it that was seen.

    Args:
        folder: Where its log goes; it has its temporary files there, too.
        args: Its options.
        prefix: The command that starts it.
        command: What it is started as.
        env: Added to this process's environment.
    """

    def __init__(
        self,
        folder: Path,
        *args: str,
        prefix: list[str] | None = None,
        command: list[str] = DEMO,
        env: dict[str, str] | None = None,
    ) -> None:
        self._temporary = folder / "tmp"
        self._temporary.mkdir()
        env = {"TMPDIR": str(self._temporary)} | (env or {})
        self.process = ManagedProcess([*(prefix or []), *command, *args], folder=folder, name="demo", env=env)
        self.process.start()
        self._root = psutil.Process(self.process.pid)
        self.family: set[psutil.Process] = set()

    def look(self) -> set[psutil.Process]:
        """Remember every process that there is."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.family |= {self._root, *self._root.children(recursive=True)}
        return self.alive()

    def alive(self) -> set[psutil.Process]:
        return {process for process in self.family if is_alive(process)}

    @property
    def output(self) -> str:
        return self.process.current_log

    def wait_until_up(self, family: int = FAMILY) -> str:
        """Wait for the page and for every process, and return the address."""
        match = self.process.wait_for_log(r"The demo is running: (\S+)")
        wait_for(lambda: len(self.look()) == family, message=f"{family} processes are expected")
        return match[1]

    def wait_until_gone(self, timeout: float) -> None:
        wait_for(lambda: not self.alive(), timeout=timeout, message="processes were left behind")
        wait_for(lambda: list(self._temporary.iterdir()) == [], message="files were left behind")

    def wait_for_exit(self, timeout: float = STOP_TIMEOUT) -> int:
        wait_for(lambda: not self.process.running, timeout=timeout, message="the demo still runs")
        self.wait_until_gone(60)
        return self.process.kill()

    def guard_of(self, name: str) -> psutil.Process:
        commands = {process: process.cmdline() for process in self.look()}
        [guard] = [process for process, words in commands.items() if "--guard" in words and PROGRAMS[name] in words]
        return guard

    def program(self, name: str) -> psutil.Process:
        [program] = self.guard_of(name).children()
        return program

    def kill(self) -> None:
        for process in self.look():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.kill()
        wait_for(lambda: not self.alive(), message="processes were left behind")


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    """Start demos on ports that are free, unless the options say another one."""
    demos = []

    def start(*args: str, port: int | None = 0, empty: bool = True, **how) -> Demo:
        folder = tmp_path / str(len(demos))
        folder.mkdir()
        options = ([] if port is None else ["--port", str(port)]) + ["--empty"] * empty
        demos.append(Demo(folder, *options, *args, **how))
        return demos[-1]

    yield start
    for demo in demos:
        demo.kill()


def post(url: str, data: dict) -> None:
    request = urllib.request.Request(url, json.dumps(data).encode(), {"Content-Type": "application/json"})
    HTTP.open(request, timeout=60).close()


def start_long_job(demo: Demo, url: str) -> None:
    """Have the worker busy. The demo must be a ``--verbose`` one."""
    post(f"{url}login", {"user": "ada"})
    post(f"{url}jobs", {"project_id": "apollo", "kind": "transcribe", "options": {"seconds": 100}})
    demo.process.wait_for_log(r"transcribe\[.+ received")


# Other tests send SIGINT and SIGTERM.
@pytest.mark.parametrize("number", long_unless([signal.SIGHUP], [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]))
def test_the_page_answers_at_the_one_address_that_is_printed_until_a_signal_stops_everything(start, number):
    demo = start()
    url = demo.wait_until_up()
    with HTTP.open(url, timeout=60) as response:
        assert response.status == 200
    assert ADDRESS.findall(demo.output) == [url]
    demo.process.send_signal(number)
    assert demo.wait_for_exit() == 0


def test_a_signal_during_the_start_stops_everything(start):
    demo = start()
    wait_for(lambda: len(demo.look()) > 3)
    demo.process.send_signal(signal.SIGTERM)
    demo.look()
    assert demo.wait_for_exit() == 0
    assert not ADDRESS.search(demo.output)


@pytest.mark.parametrize(
    ("prefix", "family"),
    [
        pytest.param([], FAMILY, id="demo", marks=pytest.mark.long),  # as is what has no terminal
        pytest.param(SHELL, FAMILY + 1, id="parent", marks=pytest.mark.long),  # the terminal shows it, too
        pytest.param(TERMINAL, FAMILY + 2, id="terminal"),
    ],
)
def test_nothing_outlives_a_killed_one_while_a_job_runs(start, prefix, family):
    demo = start("--verbose", prefix=prefix, empty=False)
    demo.wait_until_up(family)
    demo.process.wait_for_log(r"answer\[.+ received")  # one of those that it starts itself, which takes long
    demo.process.kill_main()
    demo.wait_until_gone(ORPHAN_TIMEOUT)


@pytest.mark.long  # each start of the demo takes seconds of a processor; the tests beside it start and stop it, too
def test_ctrl_c_works_although_a_shell_had_it_ignored_and_stops_the_broker_last(start):
    demo = start("--verbose", prefix=IGNORING_SIGINT)
    demo.wait_until_up()
    demo.process.wait_for_log("worker.+ ready")
    demo.process.send_signal(signal.SIGINT)
    assert demo.wait_for_exit() == 0
    assert demo.output.index("Warm shutdown") < demo.output.index("User requested shutdown")
    assert "Cannot" not in demo.output


@pytest.mark.long  # each start of the demo takes seconds of a processor; the tests beside it start and stop it, too
def test_a_running_job_delays_the_stop_by_seconds_only(start):
    demo = start("--verbose")
    start_long_job(demo, demo.wait_until_up())
    demo.process.send_signal(signal.SIGINT)
    assert demo.wait_for_exit() == 0


@pytest.mark.long  # each start of the demo takes seconds of a processor; the tests beside it start and stop it, too
def test_a_second_ctrl_c_waits_for_nobody(start):
    demo = start("--verbose", command=PATIENT_DEMO)
    start_long_job(demo, demo.wait_until_up())
    for process in (demo.program("worker"), demo.guard_of("worker")):  # neither the one nor the other ends it
        process.suspend()
    demo.process.send_signal(signal.SIGINT)
    demo.process.wait_for_log("Stopping everything")
    demo.process.send_signal(signal.SIGINT)
    assert demo.wait_for_exit() == 0


# The worker and the web server end after their broker, as it does.
@pytest.mark.parametrize("name", long_unless(["Redis server"], PROGRAMS))
def test_a_program_that_dies_is_named_and_ends_the_rest(start, name):
    demo = start()
    demo.wait_until_up()
    demo.program(name).kill()
    assert demo.wait_for_exit() == 1
    assert f"The {name} was killed by SIGKILL" in demo.output


@pytest.mark.long  # each start of the demo takes seconds of a processor; the tests beside it start and stop it, too
def test_a_guard_that_dies_takes_its_program_along(start):
    demo = start()
    demo.wait_until_up()
    demo.guard_of("worker").kill()
    assert demo.wait_for_exit() == 1
    assert "The worker lost its guard" in demo.output


def test_the_last_lines_of_a_program_that_dies_are_shown(start, tmp_path):
    server = tmp_path / "server"
    server.write_text("#!/bin/sh\necho no memory left >&2\nexit 3\n")
    server.chmod(0o755)
    demo = start("--redis-server", str(server))
    assert demo.wait_for_exit() == 1
    assert "The Redis server ended with exit code 3" in demo.output
    assert "  no memory left\n" in demo.output


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server((HOST, 0)) as server:
        yield server.getsockname()[1]


def test_a_taken_port_is_refused_with_advice(start, taken_port):
    demo = start(port=taken_port)
    assert demo.wait_for_exit() == 2
    assert re.search(rf"Port {taken_port} .*--port", demo.output)


@pytest.mark.long  # each start of the demo takes seconds of a processor; the tests beside it start and stop it, too
def test_the_next_free_port_is_taken_when_none_is_asked_for(start):
    first = start(port=None).wait_until_up()
    demo = start(port=None)
    assert demo.wait_until_up() != first
    assert "Port 8080 is taken" in demo.output
    assert "--port" in demo.output


def test_an_address_that_is_not_of_this_machine_is_refused(start):
    demo = start("--host", "192.0.2.1", port=8080)
    assert demo.wait_for_exit() == 2
    assert "192.0.2.1" in demo.output
    assert "Traceback" not in demo.output


def test_without_a_server_the_demo_says_what_to_do(start):
    demo = start(env={VARIABLE: "/nowhere/redis-server"})
    assert demo.wait_for_exit() == 2
    assert re.search(rf"/nowhere/redis-server.*{VARIABLE}.*--broker-url", demo.output)


def test_a_broker_that_does_not_answer_is_refused_without_telling_its_password(start):
    demo = start("--broker-url", "redis://:hush@127.0.0.1:1/0")
    assert demo.wait_for_exit() == 2
    assert "127.0.0.1:1" in demo.output
    assert "hush" not in demo.output


# Eventlet and gevent do here what threads do.
@pytest.mark.parametrize("mode", long_unless(["threading"], ["threading", "eventlet", "gevent"]))
def test_the_check_runs_a_job_and_stops(start, mode):
    demo = start("--check", "--async-mode", mode)
    wait_for(lambda: len(demo.look()) == FAMILY)
    assert demo.wait_for_exit(timeout=60) == 0
    assert PASSED.search(demo.output)


def test_a_check_that_is_interrupted_has_not_passed(start):
    demo = start("--check")
    wait_for(lambda: len(demo.look()) > 3)
    demo.process.send_signal(signal.SIGINT)
    assert demo.wait_for_exit() == 1


@pytest.mark.parametrize("broker", long_unless(["rabbitmq"], BROKERS), indirect=True)
def test_the_check_passes_and_a_private_redis_is_started_only_for_what_is_missing(start, broker):
    demo = start("--check", "--broker-url", broker.url)
    private = {"redis": 0, "rabbitmq": 2}[broker.name]  # For the results, and its guard.
    wait_for(lambda: len(demo.look()) == FAMILY - 2 + private)
    assert demo.wait_for_exit(timeout=60) == 0
    assert PASSED.search(demo.output)
