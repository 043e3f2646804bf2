"""A browser that does not read what it is told delays nobody, and fills no memory."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from celery_realtime import events
from celery_realtime.events import Job
from celery_realtime.jobs.progress import Progress, progress_update
from celery_realtime.web.answers import size_of
from celery_realtime.web.delivery import Emit
from celery_realtime.web.slow_clients import MOST_OF_STREAMS, SlowClients
from tests.integration.slow_browser import SlowBrowser
from tests.stream_readers import Writer
from tests.variants import in_a_loop
from tests.waiting import wait_for
from tests.web_servers import Web, steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.web_servers import Kind

BACKLOG = 200
LONG = "x" * 20000


@pytest.fixture
def make_web(kind: Kind, redis_url: str) -> Iterator[Callable[..., Web]]:
    made: list[Web] = []

    def make(**settings: Any) -> Web:
        defaults = {"history_url": redis_url, "history_size": 5000, "max_backlog": BACKLOG, "batch_size": 10}
        made.append(Web(kind, redis_url, **{**defaults, **settings}))
        return made[-1].attach().start()

    yield make
    for web in made:
        web.stop()


@pytest.fixture
def make_slow() -> Iterator[Callable[[Web], SlowBrowser]]:
    made: list[SlowBrowser] = []

    def make(web: Web) -> SlowBrowser:
        made.append(SlowBrowser(web.url, web.token("slow"), "alpha"))
        return made[-1]

    yield make
    for browser in made:
        browser.close()


@pytest.fixture
def web(make_web: Callable[..., Web]) -> Web:
    return make_web()


@pytest.fixture
def slow(web: Web, make_slow: Callable[[Web], SlowBrowser]) -> SlowBrowser:
    return make_slow(web)


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


# On threads, tests/integration/test_slow_clients.py shows it, as it does of the one that reads late.
@in_a_loop
def test_a_browser_that_never_reads_is_given_up_and_others_hear_all(web: Web, slow: SlowBrowser) -> None:
    other = web.subscriber("alpha")
    longest = 0
    for number in range(500):
        web.realtime.manager.emit_to_project("alpha", "step", {"number": number, "text": LONG})
        if number % 50 == 49:
            assert web.realtime.flush(60)
            wait_for(lambda number=number: len(other.of("step")) == number + 1)
            longest = max(longest, waiting(web))
    assert steps(other) == list(range(500))
    wait_for(lambda: "slow" not in web.users())
    assert longest <= BACKLOG + 50
    wait_for(lambda: waiting(web) <= 3)  # a goodbye that nobody reads
    assert not web.manager.slow_clients.held


@pytest.mark.parametrize("asks", ["subscribe_project", "subscribe_job", "get_result", "read_stream"])
def test_a_client_that_asks_and_does_not_read_is_refused_more(
    make_web: Callable[..., Web], make_slow: Callable[[Web], SlowBrowser], asks: str
) -> None:
    bound = 1_000_000
    web = make_web(max_backlog=1_000, max_backlog_bytes=bound)
    slow = make_slow(web)
    other = web.subscriber("alpha")
    for name in ("one", "two", "three"):
        job = Job(job_id=name, project_id="alpha")
        told = events.status_change(job, "SUCCESS", result=b'"%s"' % (LONG.encode() * 3))
        web.realtime.manager.put_status(told)
        other.wait_for_event("agent_status", job_id=name)
    web.realtime.manager.put_part(Writer(project_id="alpha", job_id="one").part(LONG * 3))
    assert web.realtime.flush(60)
    request = {"project_id": "alpha", "job_id": "one", "stream": "answer"}
    most = 0
    for number in range(1, 301):
        slow.ask(number, asks, request)
        most = max(most, bytes_waiting(web))
    slow.read_until(lambda: len(slow.answers) == 301)
    assert most < 2 * bound
    refused = [answer for answer in slow.answers.values() if not answer["ok"]]
    assert {answer["error"]["code"] for answer in refused} == {"too_many_requests"}
    wait_for(lambda: slow.answer(asks, request)["ok"])
    assert other.subscribe("alpha")["ok"]


def test_few_but_long_events_are_too_much_as_well(
    make_web: Callable[..., Web], make_slow: Callable[[Web], SlowBrowser]
) -> None:
    web = make_web(max_backlog=1_000_000, max_backlog_bytes=1_000_000)
    slow = make_slow(web)
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
    assert web.realtime.flush(60)
    wait_for(lambda: "slow" not in web.users())
    history = web.realtime.manager.history
    assert history is not None
    place = {"epoch": history.read("alpha").epoch, "offset": 980}
    again = web.connect(web.token("slow"))
    answer = again.subscribe("alpha", since=place)
    assert answer["recovered"]
    assert [item["data"]["number"] for item in answer["events"]] == list(range(980, 1000))


@in_a_loop
def test_a_browser_that_reads_late_gets_the_newest_progress_and_every_status(web: Web, slow: SlowBrowser) -> None:
    manager = web.realtime.manager
    job = Job(job_id="one", project_id="alpha")

    def tell(percent: float) -> None:
        manager.put(events.outgoing_progress(progress_update(job, Progress(percent, LONG[:490]))))
        assert manager.flush(60)

    manager.put_status(events.status_change(job, "STARTED"))
    other = web.subscriber("alpha")
    # Fill what the kernel keeps for it, and then a third of what it may have waiting.
    number = 0
    while waiting(web) <= BACKLOG // 3:
        web.realtime.manager.emit_to_project("alpha", "step", {"number": number, "text": LONG})
        assert manager.flush(60)
        wait_for(lambda: len(other.of("step")) == number + 1)  # noqa: B023
        number += 1
        assert number < 3000
    for percent in range(100):
        tell(percent)
    wait_for(lambda: len(other.of("agent_progress")) == 100)
    assert waiting(web) < BACKLOG

    reading = threading.Thread(target=lambda: slow.read_until(lambda: _progress(slow)[-1:] == [99]), daemon=True)
    reading.start()
    reading.join(60)
    assert _progress(slow)[-1] == 99
    assert len(_progress(slow)) < 50
    assert [data["number"] for data in slow.of("step")] == list(range(number))
    manager.put_status(events.status_change(job, "SUCCESS"))
    slow.read_until(lambda: [data["status"] for data in slow.of("agent_status")][-1:] == ["success"])


def _progress(browser: Any) -> list[float]:
    return [data["progress"] for data in browser.of("agent_progress")]


# -- without a server ---------------------------------------------------------------------------------------------


class Clients:
    """Clients of the room project:alpha, and how much waits for each."""

    def __init__(self, **waiting: int) -> None:
        self.waiting = waiting
        self.left: set[str] = set()

    def participants(self, _namespace: str, _room: str | None) -> list[tuple[str, str]]:
        return [(sid, f"eio {sid}") for sid in self.waiting]

    def eio_sid_of(self, sid: str) -> str | None:
        return f"eio {sid}" if sid in self.waiting else None

    def is_in_room(self, sid: str, _namespace: str, _room: str) -> bool:
        return sid not in self.left

    def is_open(self, eio_sid: str) -> bool:
        return eio_sid[4:] in self.waiting

    def packets_waiting(self, eio_sid: str) -> int:
        return self.waiting[eio_sid[4:]]

    def backlog(self, eio_sid: str | None) -> tuple[int, int]:
        waiting = 0 if eio_sid is None else self.waiting[eio_sid[4:]]
        return waiting, waiting * 10


class Guard:
    """A guard over clients of whom 100 packets are too much, and 26 much."""

    def __init__(self, *, give_way: Callable[[], Any] | None = None, **waiting: int) -> None:
        self.clients = Clients(**waiting)
        self.disconnected: list[tuple[str, str]] = []
        self.slow_clients = SlowClients(
            self.clients,
            "/",
            max_backlog=100,
            max_backlog_bytes=100_000,
            disconnect=lambda *client: self.disconnected.append(client),
            give_way=give_way,
        )

    def emit(self, event: str, data: Any, **more: Any) -> list[tuple[str, Any, Any]]:
        emits = self.slow_clients.paced(Emit(event, data, "/", "project:alpha", **more))
        return [(emit.room, emit.data, emit.skip_sid) for emit in emits]

    def due(self) -> list[tuple[str, Any]]:
        return [(emit.room, emit.data) for emit in self.slow_clients.due()]


def progress(percent: int, job_id: str = "one") -> dict[str, Any]:
    return {"job_id": job_id, "progress": percent}


def test_clients_that_keep_up_are_emitted_to_together() -> None:
    assert Guard(fast=0, other=25).emit("step", 1) == [("project:alpha", 1, None)]


def test_a_client_that_lags_gets_all_but_progress_by_itself() -> None:
    guard = Guard(fast=0, slow=26)

    assert guard.emit("step", 1) == [("project:alpha", 1, [None, "slow"]), ("slow", 1, None)]
    assert guard.emit("agent_progress", progress(1)) == [("project:alpha", progress(1), [None, "slow"])]
    assert guard.slow_clients.held == {"slow": 1}


def test_when_it_has_caught_up_it_gets_the_newest_progress_of_each_job() -> None:
    guard = Guard(slow=26)
    for percent in (1, 2, 3):
        guard.emit("agent_progress", progress(percent))
    guard.emit("agent_progress", progress(7, "two"))
    assert guard.due() == []

    guard.clients.waiting["slow"] = 0

    assert guard.due() == [("slow", progress(3)), ("slow", progress(7, "two"))]
    assert guard.slow_clients.held == {}


def test_what_was_held_back_comes_before_anything_newer() -> None:
    guard = Guard(slow=26)
    guard.emit("agent_progress", progress(1))
    guard.clients.waiting["slow"] = 0

    emits = guard.emit("step", 2)

    assert [(room, data) for room, data, _ in emits] == [("project:alpha", 2), ("slow", progress(1)), ("slow", 2)]


def test_the_end_of_a_job_makes_its_progress_pointless() -> None:
    guard = Guard(slow=26)
    guard.emit("agent_progress", progress(99))

    emits = guard.emit("agent_status", {"job_id": "one", "status": "success"})

    assert [room for room, _, _ in emits] == ["project:alpha", "slow"]
    guard.clients.waiting["slow"] = 0
    assert guard.due() == []


def test_progress_that_is_held_back_is_dropped_where_something_newer_is_about_to_come() -> None:
    guard = Guard(slow=26)
    for project in ("alpha", "beta"):
        guard.emit("agent_progress", {**progress(1, project), "project_id": project})

    guard.slow_clients.drop_progress("slow", "alpha")
    guard.slow_clients.drop_progress("nobody", "alpha")
    guard.clients.waiting["slow"] = 0

    assert [data["project_id"] for _, data in guard.due()] == ["beta"]


def test_of_a_batch_only_the_progress_is_held_back() -> None:
    guard = Guard(slow=26)
    items = [{"event": "step", "data": 1}, {"event": "agent_progress", "data": progress(1)}]

    assert guard.emit("agent_batch", items) == [("project:alpha", items, [None, "slow"]), ("slow", items[:1], None)]
    assert guard.emit("agent_batch", items[1:]) == [("project:alpha", items[1:], [None, "slow"])]


def test_nothing_is_emitted_any_more_in_a_room_that_the_client_has_left() -> None:
    guard = Guard(slow=26)
    guard.emit("agent_progress", progress(1))
    guard.clients.waiting["slow"] = 0
    guard.clients.left.add("slow")

    assert guard.due() == []


def test_a_client_that_an_event_leaves_out_is_left_out_though_it_lags() -> None:
    assert Guard(slow=26).emit("step", 1, skip_sid="slow") == [("project:alpha", 1, ["slow", "slow"])]
    assert Guard(slow=26).emit("step", 1, skip_sid=["slow"]) == [("project:alpha", 1, ["slow", "slow"])]


def test_a_client_that_lags_too_far_is_disconnected_once() -> None:
    guard = Guard(slow=101)

    for number in range(3):
        assert guard.emit("step", number) == [("project:alpha", number, [None, "slow"])]
    guard.slow_clients.disconnect_overloaded()

    assert guard.disconnected == [("slow", "eio slow")]


def test_a_client_that_is_disconnected_is_forgotten_when_its_socket_is_gone() -> None:
    guard = Guard(slow=101)
    guard.emit("step", 1)
    del guard.clients.waiting["slow"]
    guard.due()

    guard.clients.waiting["slow"] = 101
    guard.emit("step", 2)

    assert guard.disconnected == [("slow", "eio slow")] * 2


def test_those_who_write_to_clients_have_a_turn_before_any_client_counts_as_slow() -> None:
    guard: Guard

    def write_all() -> None:
        guard.clients.waiting["slow"] = 0

    guard = Guard(give_way=write_all, slow=26)

    assert guard.emit("agent_progress", progress(1)) == [("project:alpha", progress(1), None)]


def test_half_of_what_may_wait_is_enough_to_refuse_more_answers() -> None:
    guard = Guard(one=50, two=51)

    assert not guard.slow_clients.is_loaded("one", 0)
    assert guard.slow_clients.is_loaded("two", 0)
    assert guard.slow_clients.is_loaded("one", 49_501)
    assert not guard.slow_clients.is_loaded("nobody", 0)


# -- streams --------------------------------------------------------------------------------------------------------


class Reader:
    """The one client of a server, for which as many packets wait as a test says."""

    waiting = 0

    def participants(self, _namespace: str, _room: str | None) -> list[tuple[str, str]]:
        return [("reader", "socket")]

    def eio_sid_of(self, _sid: str) -> str:
        return "socket"

    def is_in_room(self, *_: str) -> bool:
        return True

    def is_open(self, _eio_sid: str) -> bool:
        return True

    def packets_waiting(self, _eio_sid: str) -> int:
        return self.waiting

    def backlog(self, _eio_sid: str | None) -> tuple[int, int]:
        return self.waiting, 0


def chunk(position: int, content: Any, generation: int = 1, **more: Any) -> Emit:
    state, stream, project = more.get("state", "open"), more.get("stream", "answer"), more.get("project", "p")
    data = {
        "job_id": "job",
        "project_id": project,
        "stream": stream,
        "generation": generation,
        "position": position,
        "chunk": content,
        "state": state,
    }
    return Emit("agent_stream", data, "/", f"job:1:{project}:job")


def test_a_client_that_lags_gets_fewer_and_larger_chunks_and_no_hole() -> None:
    reader = Reader()
    slow = SlowClients(reader, "/", max_backlog=100, max_backlog_bytes=10**6, disconnect=lambda *_: None, give_way=None)

    def told(emits: Iterator[Emit]) -> list[tuple[int, Any, str]]:
        mine = [one.data for one in emits if one.room == "reader" or not one.skip_sid]
        return [(data["position"], data["chunk"], data["state"]) for data in mine]

    assert told(slow.paced(chunk(0, "ab"))) == [(0, "ab", "open")]
    reader.waiting = 50
    for position, text in ((2, "cd"), (4, "é"), (5, "f")):
        assert told(slow.paced(chunk(position, text))) == []
    assert told(slow.paced(chunk(0, [1], stream="rows"))) == told(slow.paced(chunk(1, [2, 3], stream="rows"))) == []
    assert told(slow.paced(chunk(6, "", state="closed"))) == []
    slow.drop_progress("reader", "p")  # which is all that a newer snapshot makes pointless
    reader.waiting = 0
    assert told(slow.due()) == [(2, "cdéf", "closed"), (0, [1, 2, 3], "open")]
    assert told(slow.paced(chunk(3, [4], stream="rows"))) == [(3, [4], "open")]


def test_of_a_stream_that_begins_anew_meanwhile_what_was_before_is_left_out() -> None:
    reader = Reader()
    slow = SlowClients(reader, "/", max_backlog=100, max_backlog_bytes=10**6, disconnect=lambda *_: None, give_way=None)
    reader.waiting = 50
    for emit in (chunk(7, "old"), chunk(0, "new", generation=2), chunk(3, "er", generation=2)):
        assert [one for one in slow.paced(emit) if one.room == "reader"] == []
    reader.waiting = 0
    assert [one.data["chunk"] for one in slow.due()] == ["newer"]


def test_jobs_of_one_id_in_two_projects_are_two() -> None:
    reader = Reader()
    slow = SlowClients(reader, "/", max_backlog=100, max_backlog_bytes=10**6, disconnect=lambda *_: None, give_way=None)
    reader.waiting = 50

    def hold(emit: Emit) -> None:
        assert [one for one in slow.paced(emit) if one.room == "reader" and one.event != "agent_status"] == []

    for project in ("p", "q"):
        hold(chunk(0, f"of {project}", project=project))
        hold(Emit("agent_progress", {"job_id": "job", "project_id": project, "progress": 5}, "/", f"project:{project}"))
    hold(chunk(4, "!", project="p"))
    hold(Emit("agent_status", {"job_id": "job", "project_id": "q", "status": "success"}, "/", "project:q"))
    reader.waiting = 0
    due = [(emit.data["project_id"], emit.data.get("chunk", emit.data.get("progress"))) for emit in slow.due()]
    assert due == [("p", "of p!"), ("p", 5), ("q", "of q")]


@pytest.mark.parametrize("content", ["x" * 100_000, [{"text": "x" * 99_000}]], ids=["text", "items"])
def test_what_is_held_of_streams_is_bounded_and_shows_by_its_position_what_was_left_out(content: Any) -> None:
    reader = Reader()
    slow = SlowClients(reader, "/", max_backlog=100, max_backlog_bytes=10**6, disconnect=lambda *_: None, give_way=None)
    reader.waiting = 50
    for position in range(0, 5 * len(content), len(content)):
        for number in range(30):
            assert [
                one for one in slow.paced(chunk(position, content, stream=f"s{number}")) if one.room == "reader"
            ] == []
    reader.waiting = 0
    due = [emit.data for emit in slow.due()]
    assert 0 < sum(size_of(data["chunk"]) for data in due) <= 1.1 * MOST_OF_STREAMS
    assert {(data["stream"], data["position"] + len(data["chunk"])) for data in due} == {
        (f"s{number}", 5 * len(content)) for number in range(30)
    }
