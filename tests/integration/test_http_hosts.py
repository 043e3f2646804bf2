"""Plain HTTP on the hosts that a user may choose: streams that end with their server, and go on without a hole."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.event_reader import EventReader, ask, path_with
from tests.http_hosts import HOSTS, Host
from tests.integration import jobs
from tests.integration.stage import new_project, producing
from tests.launcher import Launcher
from tests.services import Broker
from tests.variants import long_unless
from tests.waiting import wait_for

#: Each kind of concurrency once: threads, greenlets and an event loop.
ON_HOSTS = pytest.mark.parametrize("name", long_unless(["gunicorn-gthread", "gevent", "uvicorn"], HOSTS))
#: Two ways of ending: a server of threads, and an event loop.
ON_SERVERS = pytest.mark.parametrize("name", long_unless(["gunicorn-gthread", "uvicorn"], HOSTS))
#: Of the others, tests/web/test_http.py shows it on Werkzeug and uvicorn.
ON_ONE = pytest.mark.parametrize("name", long_unless(["gunicorn-gthread"], HOSTS))


@pytest.fixture
def listen() -> Iterator[Callable[..., EventReader]]:
    with ExitStack() as stack:

        def listen(host: Host, project: str, last: str | None = None, **options: Any) -> EventReader:
            token = jobs.realtime.issue_token(f"user-of-{project}", [project])
            headers = {"Authorization": f"Bearer {token}", **({"Last-Event-ID": last} if last else {})}
            url = host.url + path_with("/celery-realtime/events", project=project)
            reader = EventReader(url, headers=headers, **options)
            stack.callback(reader.close)
            return reader

        yield listen


@pytest.fixture
def start(launcher: Launcher, redis_broker: Broker) -> Iterator[Callable[..., Host]]:
    with producing(redis_broker):
        yield lambda name, **env: launcher.start(Host(name, launcher.folder, {**redis_broker.env, **env}))


@pytest.fixture(autouse=True)
def _needed(name: str) -> None:
    if name == "hypercorn":  # which no other test needs
        pytest.importorskip("hypercorn")


def say(project: str, *numbers: int) -> None:
    for number in numbers:
        jobs.realtime.manager.emit_to_project(project, "step", {"number": number})
    assert jobs.realtime.flush(60)


def steps(*readers: EventReader) -> list[int]:
    return [data["number"] for reader in readers for data in reader.of("step")]


@ON_SERVERS
def test_streams_end_with_their_server_and_go_on_with_the_next(
    start: Callable[[str], Host], listen: Callable[..., EventReader], name: str
) -> None:
    host, project = start(name), new_project()
    before = listen(host, project)
    assert before.wait_for_event("agent_snapshot")["recovered"] is False
    say(project, 1, 2)
    before.wait_for_event("step", 2)  # at once, and not when a buffer is full
    others = [listen(host, project) for _ in range(10)]
    for reader in others:
        reader.wait_for_event("agent_snapshot")
    say(project, 3)
    for reader in (before, *others):
        reader.wait(lambda reader: 3 in steps(reader))

    host.send_signal(15)
    wait_for(lambda: not host.running)  # it does not wait for streams
    for reader in (before, *others):
        reader.wait_for_end()
    say(project, 4, 5)
    host.start()

    after = listen(host, project, before.last_id)
    after.wait_for_event("step", 2)
    say(project, 6)
    after.wait_for_event("step", 3)
    assert steps(before, after) == [1, 2, 3, 4, 5, 6]
    assert [sent.event for sent in after.events] == ["agent_resumed", "step", "step", "step"]
    assert "Traceback" not in host.log or name == "hypercorn"  # asyncio has it log each connection that it ends


@ON_ONE
def test_who_does_not_read_holds_up_nobody(
    start: Callable[[str], Host], listen: Callable[..., EventReader], name: str
) -> None:
    host, project = start(name), new_project()
    slow = listen(host, project, receive_buffer=4096, reads=False)
    quick = listen(host, project)
    quick.wait_for_event("agent_snapshot")
    text, count = "x" * 50_000, 0
    while count < 1200:
        for _ in range(100):
            count += 1
            jobs.realtime.manager.emit_to_project(project, "long", {"text": text})
        assert jobs.realtime.flush(60)
        quick.wait_for_event("long", count)
    assert "reads too slowly" in host.log
    slow.go_on()
    slow.wait_for_end()


@ON_HOSTS
def test_who_hangs_up_makes_room_for_others(
    start: Callable[..., Host], listen: Callable[..., EventReader], name: str
) -> None:
    host, project = start(name, HTTP_STREAMS="2"), new_project()

    def admitted() -> EventReader | None:
        reader = listen(host, project)
        if reader.status == 200:
            return reader
        assert reader.status == 503
        reader.close()
        return None

    for _ in range(3):
        held = [wait_for(admitted) for _ in range(2)]
        for reader in held:
            reader.wait_for_event("agent_snapshot")
        assert admitted() is None
        for reader in held:
            reader.close()


@ON_ONE
def test_refusals_and_json_are_the_same(start: Callable[[str], Host], name: str) -> None:
    host, project = start(name), new_project()
    say(project, 1)
    token = jobs.realtime.issue_token("ada", [project])
    path = "/celery-realtime/jobs"
    assert ask(host.url + path_with(path, project=project)).status == 401
    assert ask(host.url + path_with(path, project="other", token=token)).status == 403
    answer = ask(host.url + path_with(path, project=project, token=token))
    assert (answer.status, answer.content["offset"]) == (200, 1)
    assert token not in host.log


@pytest.mark.parametrize("name", long_unless(["gevent"], HOSTS))  # which would read it before it answers
def test_the_body_of_a_request_that_is_refused_is_not_waited_for(start: Callable[[str], Host], name: str) -> None:
    place = urlsplit(start(name).url)
    with socket.create_connection((place.hostname, place.port), timeout=60) as connection:
        head = f"POST /celery-realtime/jobs HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: 500000000\r\n\r\n"
        connection.sendall(head.encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))  # up to the end of the connection
    assert answer.split(b" ", 2)[1] == b"429"
    assert b"too_many_requests" in answer


@pytest.mark.long  # test_streams_end_with_their_server_and_go_on_with_the_next has eleven
@pytest.mark.parametrize("name", ["gunicorn-gevent", "gevent", "uvicorn"])
def test_many_streams_are_sent_all(start: Callable[[str], Host], listen: Callable[..., EventReader], name: str) -> None:
    host, projects = start(name), [new_project() for _ in range(10)]
    readers = [listen(host, project) for project in projects for _ in range(30)]
    for reader in readers:
        reader.wait_for_event("agent_snapshot")
    for number in range(20):
        for project in projects:
            say(project, number)
    for reader in readers:
        reader.wait_for_event("step", 20)
        assert steps(reader) == [*range(20)]
