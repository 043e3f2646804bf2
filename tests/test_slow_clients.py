"""A browser that does not read what it is told delays nobody, and fills no memory."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from celery_realtime import events
from celery_realtime.events import Job
from celery_realtime.progress import Progress, progress_update
from tests.integration.slow_browser import SlowBrowser
from tests.waiting import wait_for
from tests.web_servers import Web, steps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.web_servers import Kind

BACKLOG = 200
LONG = "x" * 20000


@pytest.fixture(params=["sync", "asgi"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture
def web(kind: Kind, redis_url: str) -> Iterator[Web]:
    web = Web(kind, redis_url, history_url=redis_url, history_size=5000, max_backlog=BACKLOG, batch_size=10)
    yield web.attach().start()
    web.stop()


@pytest.fixture
def slow(web: Web) -> Iterator[SlowBrowser]:
    browser = SlowBrowser(web.url, web.token("slow"), "alpha")
    yield browser
    browser.close()


def waiting(web: Web) -> int:
    """Return how many packets wait for the client that has most."""
    return max((socket.queue.qsize() for socket in sockets(web)), default=0)


def sockets(web: Web) -> list[Any]:
    return list(web.server.eio.sockets.values())


def bytes_waiting(web: Web) -> int:
    """Return how many bytes wait for the client that has most."""
    inside = "_queue" if web.kind == "asgi" else "queue"
    queues = [list(getattr(socket.queue, inside)) for socket in sockets(web)]
    return max((sum(len(packet.data or "") for packet in queue if packet) for queue in queues), default=0)


def test_a_browser_that_never_reads_is_given_up_and_others_hear_all(web: Web, slow: SlowBrowser) -> None:
    other = web.subscriber("alpha")
    longest = 0
    for number in range(500):
        web.realtime.manager.emit_to_project("alpha", "step", {"number": number, "text": LONG})
        if number % 50 == 49:
            assert web.realtime.flush(10)
            wait_for(lambda number=number: len(other.of("step")) == number + 1, timeout=20)
            longest = max(longest, waiting(web))
    assert steps(other) == list(range(500))
    wait_for(lambda: "slow" not in web.users(), timeout=20)
    assert longest <= BACKLOG + 50
    wait_for(lambda: waiting(web) <= 3)  # a goodbye that nobody reads
    assert not web.manager.pacer._held


@pytest.mark.parametrize("asks", ["subscribe_project", "subscribe_job", "get_result"])
def test_who_asks_and_does_not_read_is_refused_more(web: Web, slow: SlowBrowser, asks: str) -> None:
    bound = web.manager.pacer.most_bytes = 1_000_000
    other = web.subscriber("alpha")
    for name in ("one", "two", "three"):
        job = Job(job_id=name, project_id="alpha")
        told = events.status_change(job, "SUCCESS", result=b'"%s"' % (LONG.encode() * 3))
        web.realtime.manager.put_status(told)
        other.wait_for_event("agent_status", job_id=name)
    most = 0
    for number in range(1, 301):
        slow.ask(number, asks, {"project_id": "alpha", "job_id": "one"})
        most = max(most, bytes_waiting(web))
    slow.read_until(lambda: len(slow.answers) == 301)
    assert most < 2 * bound
    refused = [answer for answer in slow.answers.values() if not answer["ok"]]
    assert {answer["error"]["code"] for answer in refused} == {"too_many_requests"}
    wait_for(lambda: slow.answer(asks, {"project_id": "alpha", "job_id": "one"})["ok"])
    assert other.subscribe("alpha")["ok"]


def test_few_but_long_events_are_too_much_as_well(web: Web, slow: SlowBrowser) -> None:
    web.manager.pacer.most, web.manager.pacer.most_bytes = 1_000_000, 1_000_000
    other = web.subscriber("alpha")
    for number in range(2000):
        web.realtime.manager.emit_to_project("alpha", "step", {"number": number, "text": LONG})
        other.wait_for_event("step", number=number)
        if "slow" not in web.users():
            break
    wait_for(lambda: "slow" not in web.users())
    slow.read_to_the_end()
    assert [error["code"] for error in slow.of("error")] == ["too_slow"]


def test_what_comes_back_recovers_what_it_missed(web: Web, slow: SlowBrowser) -> None:
    for number in range(1000):
        web.realtime.manager.emit_to_project("alpha", "step", {"number": number, "text": LONG})
    assert web.realtime.flush(20)
    wait_for(lambda: "slow" not in web.users(), timeout=20)
    history = web.realtime.manager.history
    assert history is not None
    place = {"epoch": history.read("alpha").epoch, "offset": 980}
    again = web.connect(web.token("slow"))
    answer = again.subscribe("alpha", since=place)
    assert answer["recovered"]
    assert [item["data"]["number"] for item in answer["events"]] == list(range(980, 1000))


def test_a_browser_that_reads_late_gets_the_newest_progress_and_every_status(web: Web, slow: SlowBrowser) -> None:
    manager = web.realtime.manager
    job = Job(job_id="one", project_id="alpha")

    def tell(percent: float) -> None:
        manager.put(events.outgoing_progress(progress_update(job, Progress(percent, LONG[:490]))))
        assert manager.flush(5)

    manager.put_status(events.status_change(job, "STARTED"))
    other = web.subscriber("alpha")
    # Fill what the kernel keeps for it, and then a third of what it may have waiting.
    number = 0
    while waiting(web) <= BACKLOG // 3:
        web.realtime.manager.emit_to_project("alpha", "step", {"number": number, "text": LONG})
        assert manager.flush(5)
        wait_for(lambda: len(other.of("step")) == number + 1)  # noqa: B023
        number += 1
        assert number < 3000
    for percent in range(100):
        tell(percent)
    wait_for(lambda: len(other.of("agent_progress")) == 100, timeout=20)
    assert waiting(web) < BACKLOG

    reading = threading.Thread(target=lambda: slow.read_until(lambda: _progress(slow)[-1:] == [99]), daemon=True)
    reading.start()
    reading.join(20)
    assert _progress(slow)[-1] == 99
    assert len(_progress(slow)) < 50
    assert [data["number"] for data in slow.of("step")] == list(range(number))
    manager.put_status(events.status_change(job, "SUCCESS"))
    slow.read_until(lambda: [data["status"] for data in slow.of("agent_status")][-1:] == ["success"])


def _progress(browser: Any) -> list[float]:
    return [data["progress"] for data in browser.of("agent_progress")]
