"""Over real brokers, every client hears a project in the order of its offsets, plain socket.io clients too."""

from __future__ import annotations

import itertools
import random
import threading
from typing import TYPE_CHECKING, Any

import pytest
import redis

from celery_realtime import events
from celery_realtime.events import Job, Outgoing
from celery_realtime.history.store import History
from tests.race_followers import ThreadFollower
from tests.waiting import wait_for
from tests.web_servers import Web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.client_recorder import Heard, Recorder
    from tests.launcher import Brokers
    from tests.services import Broker, RedisServer

RANKS = {"queued": 0, "running": 1, "success": 2, "error": 2}
_numbers = itertools.count(1)


class Stage:
    """A web server with a history, and a project whose events are published as a test wants it.

    Args:
        web: The web server.
        project: The project.
    """

    def __init__(self, web: Web, project: str) -> None:
        self.web = web
        self.project = project
        self._history: Any = web.realtime.manager.history

    def store(self, *outgoing: Outgoing) -> list[Outgoing]:
        """Store events, and return what would be published."""
        answers = self._history.append(list(outgoing))
        assert answers is not None
        return [event for answer in answers for event in answer]

    def publish(self, *outgoing: Outgoing) -> None:
        """Publish events in one message."""
        assert self.web.realtime.manager.publisher.publish_events(list(outgoing)) == len(outgoing)

    def forget(self) -> None:
        """Let the history lose all that it has."""
        with redis.Redis.from_url(self.web.realtime.settings.history_url or "") as connection:
            connection.flushdb()

    def status(self, job: str, state: str) -> Outgoing:
        return events.outgoing_status(events.status_change(Job(job_id=job, project_id=self.project), state))

    def progress(self, job: str, percent: int) -> Outgoing:
        update = events.ProgressUpdate(
            job_id=job, project_id=self.project, progress=percent, message=None, timestamp=events.now()
        )
        return events.outgoing_progress(update)

    def step(self, number: int) -> Outgoing:
        return events.outgoing_custom("step", {"number": number}, self.project, None, 1000)

    def plain(self) -> Recorder:
        """Connect a client that asks for no acknowledgement, as the seed's does."""
        client = self.web.connect(self.web.token(projects=[self.project]))
        client.emit("subscribe_project", {"project_id": self.project})
        return client

    def joined(self) -> Recorder:
        """Connect such a client, and wait until it hears the project."""
        client = self.plain()
        wait_for(lambda: all(one.topics for one in self.web.handlers.clients().values()))
        wait_for(lambda: not self.web.manager.newcomers.holding)
        return client

    def states(self) -> dict[str, str]:
        """Return how jobs stand, as the history has it."""
        return {job["job_id"]: job["status"] for job in self._history.read(self.project).jobs}


@pytest.fixture
def make_stage(results_server: RedisServer) -> Iterator[Callable[..., Stage]]:
    webs: list[Web] = []

    def make(kind: Any, url: str, gate: Callable[[Any], Any] | None = None) -> Stage:
        web = Web(kind, url, history_url=results_server.fresh_url())
        webs.append(web)
        if gate is not None:
            history: Any = web.realtime.manager.history
            history.read = gate(history.read)
        web.attach().start()
        return Stage(web, f"project-{next(_numbers)}")

    yield make
    for web in webs:
        web.stop()


#: Each kind of server once: events are put in order in the same way, whichever broker they come from.
STAGES = [
    *["sync-redis", "asgi-rabbitmq"],
    *(pytest.param(name, marks=pytest.mark.long) for name in ("sync-rabbitmq", "asgi-redis")),
]


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest, brokers: Brokers, make_stage: Callable[..., Stage]) -> Stage:
    kind, _, broker = request.param.partition("-")
    return make_stage(kind, brokers.make(broker).url)


@pytest.fixture(params=["sync", "asgi"])
def redis_stage(request: pytest.FixtureRequest, redis_broker: Broker, make_stage: Callable[..., Stage]) -> Stage:
    return make_stage(request.param, redis_broker.url)


def offset_of(heard: Heard) -> int | None:
    owner = heard.data.get("_realtime", heard.data)
    offset: int | None = owner.get("offset")
    return offset


def offsets(client: Recorder) -> list[int]:
    """Return the offsets of what a client heard live."""
    return [offset for offset in map(offset_of, list(client.events)) if offset is not None]


class Gate:
    """Stops the next answer to a client on its way from the history."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()
        self.open()

    def close(self) -> None:
        """Stop it."""
        self._opened.clear()

    def open(self) -> None:
        """Let it go on."""
        self._opened.set()

    def wait_until_reached(self) -> None:
        """Wait until an answer is there."""
        assert self._reached.wait(60)

    def around(self, read: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that reads as another one does."""

        def gated(*args: Any) -> Any:
            snapshot = read(*args)
            if len(args) == 3 and not self._opened.is_set():  # catching up asks for a number of jobs, too
                self._reached.set()
                assert self._opened.wait(60)
            return snapshot

        return gated


class SlowHistory(Gate):
    """A history that cannot be read by the server for itself, and then answers when the gate opens."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False

    def close(self) -> None:
        """Stop the next answer, whatever has been read before."""
        super().close()
        self._reached.clear()

    def around(self, read: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that reads as another one does."""

        def gated(history: History, *args: Any) -> Any:
            is_catching_up = len(args) == 4
            if is_catching_up and self.is_away:
                raise ConnectionError("away")
            snapshot = read(history, *args)
            if is_catching_up:
                self._reached.set()
                assert self._opened.wait(60)
            return snapshot

        return gated


def test_messages_that_cross_are_put_in_order(stage: Stage) -> None:
    client = stage.joined()
    one, two, three, four = stage.store(*(stage.step(number) for number in range(1, 5)))

    stage.publish(two)
    stage.publish(four, three)
    stage.publish(one)

    client.wait(lambda _: len(offsets(client)) == 4)
    assert offsets(client) == [1, 2, 3, 4]


def test_what_was_lost_on_the_channel_is_read_from_the_history(stage: Stage) -> None:
    client = stage.joined()
    queued, _, success = stage.store(*(stage.status("one", state) for state in ("PENDING", "STARTED", "SUCCESS")))

    stage.publish(queued)
    stage.publish(success)

    client.wait(lambda _: len(offsets(client)) == 3)
    assert client.statuses("one") == ["queued", "running", "success"]


def test_what_was_stored_and_never_published_is_heard(stage: Stage) -> None:
    client = stage.joined()
    [queued, _] = stage.store(stage.status("one", "PENDING"), stage.status("one", "SUCCESS"))

    stage.publish(queued)

    client.wait_for_end("one")
    assert client.statuses("one") == ["queued", "success"]
    assert offsets(client) == [1, 2]


@pytest.mark.parametrize("kind", ["sync", "asgi"])
def test_a_late_answer_of_the_history_shows_no_start_behind_its_end(
    kind: str, redis_broker: Broker, make_stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start is missed while the history is away, and read when it is back; the end comes while the answer does."""
    history = SlowHistory()
    monkeypatch.setattr(History, "read", history.around(History.read))
    stage = make_stage(kind, redis_broker.url)
    client = stage.joined()
    stage.publish(*stage.store(stage.status("one", "PENDING")))
    history.is_away = True
    stage.store(stage.status("one", "STARTED"))
    stage.publish(*stage.store(stage.step(1)))
    client.wait_for_event("step", number=1)

    history.close()
    history.is_away = False
    history.wait_until_reached()
    stage.publish(*stage.store(stage.status("one", "FAILURE")))
    client.wait_for_end("one")
    history.open()
    stage.publish(*stage.store(stage.step(2), stage.step(3))[1:])

    client.wait_for_event("step", number=3)
    assert client.statuses("one") == ["queued", "error"]
    assert [data["number"] for data in client.of("step")] == [1, 2, 3]


@pytest.mark.parametrize("kind", ["sync", "asgi"])
def test_nothing_comes_before_the_snapshot_that_is_newer_nor_after_it_that_is_older(
    kind: str, redis_broker: Broker, make_stage: Callable[..., Stage]
) -> None:
    """The events of all steps are under way while the history is read."""
    gate = Gate()
    stage = make_stage(kind, redis_broker.url, gate.around)
    joined = stage.joined()
    stage.publish(*stage.store(stage.status("one", "PENDING")))
    joined.wait(lambda _: offsets(joined) == [1])
    late = stage.store(stage.status("one", "STARTED"), stage.status("two", "PENDING"))

    gate.close()
    client = stage.plain()
    gate.wait_until_reached()
    end = stage.store(stage.status("one", "SUCCESS"))
    stage.publish(*end)
    stage.publish(*late)
    joined.wait(lambda _: offsets(joined) == [1, 2, 3, 4])
    assert client.of("agent_status") == []
    gate.open()

    client.wait_for_end("one")
    assert client.statuses("one") == ["running", "success"]
    assert client.statuses("two") == ["queued"]
    assert [bool(data.get("replayed")) for data in client.of("agent_status")].count(True) == 2
    assert offsets(client) == [4]


def test_an_answer_comes_before_the_events_that_are_newer(redis_stage: Stage) -> None:
    """A client that asks for an acknowledgement has it first, whatever is emitted while it is made."""
    stage = redis_stage
    ended = threading.Event()
    published = 0

    def speak() -> None:
        nonlocal published
        while not ended.wait(0.001):
            published += 1
            stage.publish(*stage.store(stage.step(published)))

    speaking = threading.Thread(target=speak, daemon=True)
    speaking.start()
    for _ in range(20):
        client = stage.web.connect(stage.web.token(projects=[stage.project]))
        taken: list[tuple[str, int]] = []
        client.sio.on("step", lambda data, taken=taken: taken.append(("step", data["_realtime"]["offset"])))
        client.sio.emit(
            "subscribe_project",
            {"project_id": stage.project},
            callback=lambda answer, taken=taken: taken.append(("answer", answer["offset"])),
        )
        wait_for(lambda taken=taken: len(taken) > 5)
        client.close()
        (first, position), rest = taken[0], [offset for _, offset in taken[1:]]
        assert first == "answer"
        assert rest == list(range(position + 1, position + 1 + len(rest)))
    ended.set()
    speaking.join(60)


@pytest.mark.undescribed
def test_a_forged_offset_holds_nothing_up(redis_stage: Stage) -> None:
    stage = redis_stage
    client = stage.joined()
    [one, two] = stage.store(stage.step(1), stage.step(2))
    stage.publish(one)
    epoch = client.wait_for_event("step", number=1)["_realtime"]["epoch"]
    for offset in (10**9, -1, 2**70):
        stage.publish(events.stamp(stage.step(0), {"epoch": epoch, "offset": offset}))
    stage.publish(events.stamp(stage.step(0), {"epoch": "forged", "offset": 5}))
    stage.publish(two)
    stage.publish(*stage.store(stage.step(3)))

    client.wait_for_event("step", number=3)
    numbers = [data["number"] for data in client.of("step") if data["number"]]
    assert numbers == [1, 2, 3]


def test_a_history_that_has_lost_an_end_takes_nobody_back(redis_stage: Stage) -> None:
    """A worker stores anew what it has no answer to: what it said before the end, and then, a little later, the end."""
    stage = redis_stage
    plain, follower = (
        stage.joined(),
        ThreadFollower(stage.web.url, stage.web.token(projects=[stage.project]), stage.project),
    )
    follower.come()
    wait_for(lambda: follower.feed.state == "subscribed")
    running, halfway = stage.status("one", "STARTED"), stage.progress("one", 50)
    success = stage.status("one", "SUCCESS")
    stage.publish(*stage.store(running, halfway, success))
    plain.wait_for_end("one")
    follower.wait_until_at(3)

    stage.forget()
    stage.publish(*stage.store(running, halfway, stage.step(1)))
    plain.wait_for_event("step", number=1)
    follower.wait_until_at(3)
    late = stage.web.connect(stage.web.token(projects=[stage.project]))
    assert late.subscribe(stage.project)["jobs"] == []
    assert late.call("subscribe_job", {"job_id": "one", "project_id": stage.project})["jobs"] == []
    stage.publish(*stage.store(success, stage.step(2)))

    plain.wait_for_event("step", number=2)
    follower.wait_until_at(5)
    late.wait_for_end("one")
    assert plain.statuses("one") == ["running", "success", "success"]
    assert [name for name, _ in follower.told if name == "agent_progress"] == ["agent_progress"]
    assert follower.feed.jobs["one"]["status"] == "success"
    follower.leave()


def test_without_a_history_no_job_goes_backwards(redis_broker: Broker) -> None:
    web = Web("sync", redis_broker.url).attach().start()
    stage = Stage(web, "alpha")
    client = stage.joined()
    for state in ("STARTED", "PENDING", "SUCCESS", "STARTED"):
        stage.publish(stage.status("one", state))
    stage.publish(stage.step(1))

    client.wait_for_event("step", number=1)
    assert client.statuses("one") == ["running", "success"]
    web.stop()


# -- chaos --------------------------------------------------------------------------------------------------------


def lives(stage: Stage, rng: random.Random, jobs: int) -> list[Outgoing]:
    """Return all that happens to some jobs, each in its order, all mixed."""
    waiting = []
    for number in range(jobs):
        job, end = f"job-{number}", rng.choice(["SUCCESS", "FAILURE"])
        steps = [stage.progress(job, percent) for percent in (10, 50, 100)]
        waiting.append([stage.status(job, "PENDING"), stage.status(job, "STARTED"), *steps, stage.status(job, end)])
    mixed = []
    while waiting:
        life = rng.choice(waiting)
        mixed.append(life.pop(0))
        waiting = [life for life in waiting if life]
    return mixed


def publish_in_chaos(stage: Stage, rng: random.Random, stored: list[Outgoing]) -> None:
    """Publish events in small messages that overtake each other; some come twice, some never."""
    for start in range(0, len(stored), 12):
        window = stored[start : start + 12]
        window += rng.sample(window, 2)
        rng.shuffle(window)
        while window:
            message = [window.pop() for _ in range(min(len(window), rng.randint(1, 3)))]
            if rng.random() > 0.1:
                stage.publish(*message)
        threading.Event().wait(rng.random() * 0.02)


def assert_never_backwards(client: Recorder) -> None:
    shown: dict[str, int] = {}
    percents: dict[str, int] = {}
    for event, data in list(client.events):
        if event == "agent_status":
            assert RANKS[data["status"]] >= shown.get(data["job_id"], 0), data
            shown[data["job_id"]] = RANKS[data["status"]]
        elif event == "agent_progress":
            assert shown.get(data["job_id"], 0) < 2, data
            assert data["progress"] >= percents.get(data["job_id"], 0), data
            percents[data["job_id"]] = data["progress"]
    assert offsets(client) == sorted(set(offsets(client)))


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_channel_does_no_plain_client_sees_a_job_go_backwards(stage: Stage, seed: int) -> None:
    rng = random.Random(seed)
    early = stage.joined()
    happening = lives(stage, rng, 12)
    clients = [early]
    for start in range(0, len(happening), 24):
        publish_in_chaos(stage, rng, stage.store(*happening[start : start + 24]))
        clients.append(stage.plain())

    states = stage.states()
    assert set(states.values()) <= {"success", "error"}

    def last_statuses(client: Recorder) -> dict[str, str]:
        return {data["job_id"]: data["status"] for data in client.of("agent_status")}

    for client in clients:
        client.wait(lambda _, client=client: last_statuses(client) == states)
        assert_never_backwards(client)
    assert offsets(early) == list(range(1, len(happening) + 1))
