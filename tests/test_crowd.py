"""Of the clients that a Redis allows, the last ones are not ours, and few are ours at the same time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from celery_realtime.channel.listener import Listener
from celery_realtime.channel.speaker import Speaker
from celery_realtime.crowd import Crowd, CrowdedError, Turnstile, clients_of
from celery_realtime.history.store import History
from celery_realtime.urls import RedisAddress
from tests.appended import status
from tests.channels import PROBE
from tests.processes import ROOT
from tests.services import RedisServer
from tests.waiting import wait_for

MOST = 16


def test_the_last_clients_are_left_to_others_and_before_that_connections_do_not_stay() -> None:
    crowds = {count: Crowd({"connected_clients": count, "maxclients": 32}) for count in range(33)}
    assert [count for count, crowd in crowds.items() if crowd.is_full] == [29, 30, 31, 32]
    assert [count for count, crowd in crowds.items() if crowd.is_dense] == list(range(17, 33))
    with pytest.raises(CrowdedError, match="29 of 32 clients"):
        crowds[29].check()
    crowds[28].check()


def test_of_a_large_redis_a_fixed_number_is_left() -> None:
    crowd = Crowd({"connected_clients": 9_400, "maxclients": 10_000})
    assert not crowd.is_dense
    assert not crowd.is_full
    assert Crowd({"connected_clients": 9_501, "maxclients": 10_000}).is_dense
    assert Crowd({"connected_clients": 9_937, "maxclients": 10_000}).is_full


def test_a_server_that_does_not_say_how_many_it_allows_takes_any_number() -> None:
    assert not Crowd({"connected_clients": 10**6}).is_dense
    Crowd({}).check()


def test_what_redis_says_is_read_as_text_or_bytes() -> None:
    assert clients_of(b"# Clients\r\nconnected_clients:3\r\nmaxclients:30\r\n")["maxclients"] == "30"
    assert clients_of("connected_clients:3\n") == {"connected_clients": "3"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that allows few clients."""
    server = RedisServer(tmp_path_factory.mktemp("small"), options=["--maxclients", str(MOST)]).start()
    yield server
    server.kill()


@pytest.fixture
def crowd(small: RedisServer) -> Iterator[ExitStack]:
    """Connections that leave no room for ours; they close with the stack."""
    with ExitStack() as stack:
        stack.enter_context(redis.Redis(port=small.port)).ping()
        look = stack.enter_context(redis.Redis(port=small.port))

        def is_full() -> bool:
            if look.info("clients")["connected_clients"] < MOST - 1:
                stack.enter_context(redis.Redis(port=small.port, single_connection_client=True)).ping()
                return False
            return True

        wait_for(is_full, timeout=30)
        yield stack


@pytest.mark.service
def test_a_history_waits_while_there_is_no_room_and_goes_on_when_there_is(
    small: RedisServer, crowd: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    history = History(small.url(), "crowd", 10, 60.0)
    for number in range(3):
        assert history.append([status("STARTED", job=f"job-{number}")]) is None
    assert caplog.text.count("(maxclients) are connected") == 1
    crowd.close()
    wait_for(lambda: history.append([status("STARTED")]), timeout=30)
    history.close()


@pytest.mark.service
def test_a_publisher_waits_while_there_is_no_room(
    small: RedisServer, crowd: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    speaker = Speaker(small.url())
    assert speaker.publish_events([PROBE]) == 0
    assert speaker.publish_events([PROBE]) == 0
    assert caplog.text.count("(maxclients) are connected") == 1
    crowd.close()
    wait_for(lambda: speaker.publish_events([PROBE]) == 1, timeout=30)
    speaker.close()


@pytest.mark.service
def test_a_listener_says_that_there_is_no_room_and_listens_when_there_is(
    small: RedisServer, crowd: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener(small.url(), "crowd")
    messages = listener.messages(lambda: 0.01)
    next(messages)
    assert not listener.wait(0)
    assert "not hearing" in caplog.text
    assert "(maxclients) are connected" in caplog.text
    crowd.close()
    wait_for(lambda: next(messages) or listener.wait(0), timeout=30)
    messages.close()


@pytest.mark.service
def test_where_many_are_connected_ours_are_closed_after_each_use(small: RedisServer) -> None:
    with ExitStack() as stack:
        for _ in range(MOST // 2):
            stack.enter_context(redis.Redis(port=small.port, single_connection_client=True)).ping()
        named = RedisAddress(small.url(), {"client_name": "ours"})
        history, speaker = (
            History(named, "dense", 10, 60.0),
            Speaker(small.url(), connection_options={"transport_options": {"client_name": "ours"}}),
        )
        look = stack.enter_context(redis.Redis(port=small.port))
        for number in range(2):
            assert history.append([status("STARTED", job=f"job-{number}")])
            assert speaker.publish_events([PROBE]) == 1
        wait_for(lambda: all(client["name"] != "ours" for client in look.client_list()), timeout=30)
        history.close()
        speaker.close()


TURNS = """
import os, sys, time
from celery_realtime.crowd import turnstile
turnstile.install()
path = sys.argv[1]
children = []
for _ in range(3):
    pid = os.fork()
    if not pid:
        for _ in range(5):
            while not turnstile.enter():
                pass
            made = os.open(path, os.O_CREAT | os.O_EXCL)  # fails if another one is inside
            time.sleep(0.01)
            os.close(made)
            os.unlink(path)
            turnstile.leave()
        os._exit(0)
    children.append(pid)
pid = os.fork()
if not pid:
    while not turnstile.enter():
        pass
    os._exit(0)  # without leaving
children.append(pid)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


def test_one_process_of_a_worker_at_a_time_has_its_turn_whoever_dies_in_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TURNS, str(tmp_path / "inside")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_in_a_process_without_children_nobody_takes_turns() -> None:
    assert not Turnstile().enter()


def test_threads_of_a_process_take_turns_too() -> None:
    turnstile = Turnstile()
    turnstile.install()
    turnstile.install()
    assert turnstile.enter()
    assert not turnstile.enter()
    turnstile.leave()
    assert turnstile.enter()
    turnstile.leave()
