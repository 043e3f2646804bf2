"""The RabbitMQ that all processes of a test run share is started once, ends with the run, and nobody disturbs it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.processes import ROOT, SHARED_PORTS, ProcessError, free_port
from tests.programs import require
from tests.services import RabbitMQServer
from tests.shared_rabbitmq import Address, SharedRabbitMQ, SharedServer
from tests.waiting import wait_for

DISTURBANCES: list[tuple[str, tuple[Any, ...]]] = [
    *((name, ()) for name in ("start", "stop", "kill", "kill_main", "pause", "resume", "restart")),
    ("send_signal", (signal.SIGTERM,)),
    ("set_memory_alarm", (True,)),
    ("close_connections", ()),
    ("manage", ("DELETE", "connections/username/guest")),
    ("manage", ("PUT", "parameters/anything", {})),
]


@pytest.fixture
def shared() -> Iterator[SharedServer]:
    server = SharedServer()
    yield server
    server.end()


@pytest.mark.parametrize(("name", "arguments"), DISTURBANCES)
def test_what_disturbs_other_tests_is_refused_and_the_error_says_what_to_ask_for(
    rabbitmq_server: RabbitMQServer, name: str, arguments: tuple[Any, ...]
) -> None:
    with pytest.raises(ProcessError, match="own_rabbitmq_broker"):
        getattr(rabbitmq_server, name)(*arguments)

    assert rabbitmq_server.running


def test_whoever_asks_gets_the_same_server_and_virtual_hosts_of_his_own(
    rabbitmq_server: RabbitMQServer, shared_rabbitmq_address: Address, tmp_path: Path
) -> None:
    other = SharedRabbitMQ(shared_rabbitmq_address, tmp_path)

    assert (other.pid, other.port) == (rabbitmq_server.pid, rabbitmq_server.port)
    assert other.port in SHARED_PORTS
    assert other.fresh_url() != rabbitmq_server.fresh_url()
    assert not [*tmp_path.iterdir()]


def test_whoever_asks_is_told_why_it_does_not_start(
    shared: SharedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in ("epmd", "rabbitmq"):
        require(program)
    monkeypatch.setenv("CELERY_TEST_SERVICES", "no")

    with pytest.raises(ProcessError, match="is not started in this run"):
        SharedRabbitMQ(shared.address, tmp_path)


def test_a_run_that_has_ended_starts_none(shared: SharedServer, tmp_path: Path) -> None:
    address = shared.address
    shared.end()

    with pytest.raises((ProcessError, OSError, EOFError)):
        SharedRabbitMQ(address, tmp_path)


@pytest.mark.parametrize("process", ["gw0", "gw5"])
def test_no_test_is_given_a_port_of_the_shared_server(process: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", process)
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "6")

    assert not {free_port() for _ in range(50)} & {*SHARED_PORTS}


@pytest.mark.long  # that a child ends with its parent is tried in tests/integration/test_infrastructure.py
@pytest.mark.service
@pytest.mark.parametrize("number", [None, signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_of_it_outlives_the_run_however_that_ends(tmp_path: Path, number: signal.Signals | None) -> None:
    folder = tmp_path / "run"
    test = "tests/test_shared_rabbitmq.py::test_whoever_asks_gets_the_same_server_and_virtual_hosts_of_his_own"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "2", "--basetemp", str(folder), test]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        wait_for(lambda: "beam.smp" in _names(folder) or run.poll() is not None, timeout=120)
        assert run.poll() is None
        if number is not None:
            run.send_signal(number)
        assert run.wait(240) == 0 or number is not None

    wait_for(lambda: not _names(folder), timeout=120)


def _names(folder: Path) -> list[str]:
    """Return the names of the programs that run in a folder, or have it among their arguments."""
    processes = psutil.process_iter(["name", "cmdline", "cwd"])
    found = [process.info for process in processes]
    return [info["name"] for info in found if str(folder) in " ".join([*(info["cmdline"] or ()), info["cwd"] or ""])]
