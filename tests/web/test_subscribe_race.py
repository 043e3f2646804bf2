"""Events flow while a client joins, its history is read and it is answered: it misses none, and is told none twice."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.race_followers import FOLLOWERS, Follower
from tests.race_gates import ARROWS, UNREAD, Gates
from tests.waiting import wait_for
from tests.web_servers import Web

if TYPE_CHECKING:
    from tests.client_recorder import Recorder
    from tests.services import RedisServer
    from tests.web_servers import Kind

Told = tuple[str, Any]

EACH_ARROW = pytest.mark.parametrize("arrow", ARROWS)
EACH_CLIENT = pytest.mark.parametrize(
    ("make_follower", "batch"),
    [
        pytest.param(make, batch, id=f"in {name}{how}", marks=[] if is_shown else pytest.mark.long)
        for name, make in FOLLOWERS.items()
        # Batches and single events differ in the server, and threads and event loops in the client.
        for batch, how, is_shown in ((False, "", name == "a thread"), (True, ", in batches", name != "a thread"))
    ],
)

MakeFollower = Callable[..., Follower]

_project_numbers = itertools.count(1)


class Stage:
    """A project of the test's own, on a web server whose subscriptions can be stopped.

    Args:
        web: The web server.
        gates: Its gates.
    """

    def __init__(self, web: Web, gates: Gates) -> None:
        self.web = web
        self.gates = gates
        self.project = f"project-{next(_project_numbers)}"
        self.said = 0
        self._kept: Any = web.realtime.manager.history
        self._followers: list[Follower] = []

    def speak(self, count: int, state: str | None = None) -> None:
        """Tell of a job's state and say so many numbers, and wait until the web server has heard it all."""
        if state is not None:
            self.web.publish_status(self.project, "job", state)
            self.said += 1
        for _ in range(count):
            self.said += 1
            self.web.emit(self.project, self.said)
        self.settle()

    def settle(self) -> None:
        """Wait until the web server has heard everything that was said."""
        self.web.settle()

    def follow(self, make: MakeFollower, **options: Any) -> Follower:
        """Make a follower, which has not come yet."""
        token = self.web.token(projects=[self.project])
        self._followers.append(make(self.web.url, token, self.project, **options))
        return self._followers[-1]

    def connect(self) -> Recorder:
        """Connect a client that does nothing by itself."""
        return self.web.connect(self.web.token(projects=[self.project]))

    def history(self) -> list[Told]:
        """Return all that was said, as the history has it: the place of each is its offset, less one."""
        epoch = self._kept.read(self.project, most_jobs=0).epoch
        whole = self._kept.read(self.project, epoch, 0, 0)
        assert whole.recovered
        assert whole.offset == len(whole.events) == self.said
        return [(missed["event"], missed["data"]) for missed in whole.events]

    def jobs(self) -> dict[str, Any]:
        """Return how jobs stand, as the history has it."""
        return {job["job_id"]: job for job in self._kept.read(self.project).jobs}

    def close(self) -> None:
        """Send the followers away."""
        for follower in self._followers:
            follower.leave()


@pytest.fixture(scope="module")
def gated_web(kind: Kind, results_server: RedisServer) -> Iterator[tuple[Web, Gates]]:
    web = Web(kind, results_server.fresh_url(), history_url=results_server.fresh_url(), history_size=5000)
    gates = Gates(web)
    web.attach(authorize=gates.authorize).start()
    yield web, gates
    web.stop()


@pytest.fixture
def stage(gated_web: tuple[Web, Gates]) -> Iterator[Stage]:
    web, gates = gated_web
    stage = Stage(web, gates)
    yield stage
    stage.close()
    web.reset()


# -- our own clients ----------------------------------------------------------------------------------------------


@EACH_ARROW
@EACH_CLIENT
def test_a_new_subscriber_receives_once_and_in_order_what_its_snapshot_has_not(
    stage: Stage, make_follower: MakeFollower, batch: bool, arrow: str
) -> None:
    follower = stage.follow(make_follower, batch=batch)
    stage.speak(3, "PENDING")
    before = stage.said

    stage.gates.close(arrow)
    follower.come()
    with stage.gates.stopped():
        stage.speak(4, "STARTED")
        meanwhile = stage.said
    stage.speak(3, "SUCCESS")

    follower.wait_until_at(stage.said)
    [read_at] = follower.snapshots
    assert read_at in (range(meanwhile, stage.said + 1) if arrow in UNREAD else [before])
    assert follower.told == stage.history()[read_at:]
    assert follower.feed.jobs == stage.jobs()


@EACH_ARROW
@EACH_CLIENT
def test_a_client_that_comes_back_receives_once_and_in_order_what_it_missed(
    stage: Stage, make_follower: MakeFollower, batch: bool, arrow: str
) -> None:
    follower = stage.follow(make_follower, batch=batch)
    stage.speak(2, "PENDING")
    began = stage.said
    follower.come()
    follower.wait_until_at(began)
    stage.speak(2)
    follower.wait_until_at(stage.said)
    follower.go()
    stage.speak(3, "STARTED")

    stage.gates.close(arrow)
    follower.come()
    with stage.gates.stopped():
        stage.speak(4)
    stage.speak(3, "SUCCESS")

    follower.wait_until_at(stage.said)
    assert follower.snapshots == [began]
    assert follower.told == stage.history()[began:]
    assert follower.feed.jobs == stage.jobs()


@EACH_ARROW
@EACH_CLIENT
def test_whoever_loses_its_connection_before_it_is_answered_misses_nothing(
    stage: Stage, make_follower: MakeFollower, batch: bool, arrow: str
) -> None:
    follower = stage.follow(make_follower, batch=batch)
    stage.speak(2, "PENDING")
    began = stage.said
    follower.come()
    follower.wait_until_at(began)
    follower.go()
    stage.speak(2)

    stage.gates.close(arrow)
    follower.come()
    with stage.gates.stopped():
        stage.speak(2, "STARTED")
        follower.go()
        stage.speak(2)
        follower.come()
        stage.speak(2)
    stage.speak(3, "SUCCESS")

    follower.wait_until_at(stage.said)
    assert follower.snapshots == [began]
    assert follower.told == stage.history()[began:]
    assert follower.feed.jobs == stage.jobs()


@EACH_ARROW
@pytest.mark.parametrize("make_follower", FOLLOWERS.values(), ids=FOLLOWERS.keys())
def test_whoever_waits_too_long_for_an_answer_and_asks_again_is_told_once_and_in_order(
    stage: Stage, make_follower: MakeFollower, arrow: str
) -> None:
    follower = stage.follow(make_follower, ack_timeout=0.2, first_pause=0.05)
    stage.speak(2, "PENDING")
    began = stage.said
    follower.come()
    follower.wait_until_at(began)
    follower.go()
    stage.speak(2)
    asked = follower.feed.requests

    stage.gates.close(arrow)
    follower.come()
    with stage.gates.stopped():
        stage.speak(3, "STARTED")
        if arrow != ARROWS[-1]:
            wait_for(lambda: follower.feed.requests >= asked + 2)
        stage.speak(3)
    stage.speak(3, "SUCCESS")

    follower.wait_until_at(stage.said)
    assert follower.snapshots == [began]
    assert follower.told == stage.history()[began:]
    assert follower.feed.jobs == stage.jobs()


@contextmanager
def speaking(stage: Stage) -> Iterator[None]:
    """Say one number after the other, without end."""
    ended = threading.Event()

    def speak() -> None:
        while not ended.wait(0.004):
            stage.said += 1
            stage.web.emit(stage.project, stage.said)

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    try:
        yield
    finally:
        ended.set()
        speaker.join(60)


def wait_for_more(stage: Stage, count: int = 10) -> None:
    """Wait until so many more numbers have been said, and heard by the web server."""
    enough = stage.said + count
    wait_for(lambda: stage.said >= enough)
    stage.settle()


@EACH_CLIENT
def test_while_events_never_cease_it_stops_at_every_arrow_and_misses_nothing(
    stage: Stage, make_follower: MakeFollower, batch: bool
) -> None:
    follower = stage.follow(make_follower, batch=batch)
    with speaking(stage):
        wait_for_more(stage)
        for arrow in ARROWS:
            stage.gates.close(arrow)
            follower.come()
            with stage.gates.stopped():
                wait_for_more(stage)
            wait_for(lambda: follower.feed.state == "subscribed")
            wait_for_more(stage)
            follower.go()
            wait_for_more(stage)
        follower.come()
    follower.wait_until_at(stage.said)

    [began] = follower.snapshots
    assert began is not None
    assert [data["number"] for _, data in follower.told] == list(range(began + 1, stage.said + 1))
    assert [data["_realtime"]["offset"] for _, data in follower.told] == list(range(began + 1, stage.said + 1))


# -- clients that do without them ---------------------------------------------------------------------------------


class Request:
    """A subscription that is under way.

    Args:
        client: Who subscribes.
        project: To what.
        **more: Of the request.
    """

    def __init__(self, client: Recorder, project: str, **more: Any) -> None:
        self._answers: list[dict[str, Any]] = []
        client.sio.emit("subscribe_project", {"project_id": project, **more}, callback=self._answers.append)

    def answer(self) -> dict[str, Any]:
        """Wait for the acknowledgement."""
        return wait_for(lambda: self._answers)[0]


def offset_of(data: dict[str, Any]) -> int:
    return int(data.get("_realtime", data)["offset"])


def by_offset(told: list[Told]) -> dict[int, Told]:
    """Drop what was told twice, which must be the same each time."""
    kept: dict[int, Told] = {}
    for event, data in told:
        assert kept.setdefault(offset_of(data), (event, data)) == (event, data)
    return kept


def heard(client: Recorder) -> dict[int, Told]:
    return by_offset([(event, data) for event, data in list(client.events) if event in ("agent_status", "step")])


@EACH_ARROW
def test_an_answer_and_what_is_heard_beside_it_leave_nothing_out(stage: Stage, arrow: str) -> None:
    client = stage.connect()
    stage.speak(3, "PENDING")

    stage.gates.close(arrow)
    request = Request(client, stage.project)
    with stage.gates.stopped():
        stage.speak(4, "STARTED")
    stage.speak(3, "SUCCESS")
    answer = request.answer()
    wait_for(lambda: {answer["offset"], *heard(client)} >= {stage.said})

    whole = dict(enumerate(stage.history(), 1))
    later = {offset: told for offset, told in heard(client).items() if offset > answer["offset"]}
    assert later == {offset: told for offset, told in whole.items() if offset > answer["offset"]}
    assert heard(client).items() <= whole.items()


@EACH_ARROW
def test_an_answer_since_and_what_is_heard_beside_it_leave_nothing_out(stage: Stage, arrow: str) -> None:
    client = stage.connect()
    stage.speak(3, "PENDING")
    since = stage.web.realtime.manager.position(stage.project)
    assert since is not None
    stage.speak(3)

    stage.gates.close(arrow)
    request = Request(client, stage.project, since=since)
    with stage.gates.stopped():
        stage.speak(4, "STARTED")
    stage.speak(3, "SUCCESS")
    answer = request.answer()
    wait_for(lambda: {answer["offset"], *heard(client)} >= {stage.said})

    missed = by_offset([(one["event"], one["data"]) for one in answer["events"]])
    whole = dict(enumerate(stage.history()[since["offset"] :], since["offset"] + 1))
    assert answer["recovered"] is True
    assert list(missed) == list(range(since["offset"] + 1, answer["offset"] + 1))
    assert {**missed, **heard(client)} == {**heard(client), **missed} == whole


@pytest.mark.parametrize("with_since", [False, True], ids=["at first", "since"])
def test_many_who_subscribe_while_events_never_cease_are_each_told_everything(stage: Stage, with_since: bool) -> None:
    clients = [stage.connect() for _ in range(10)]
    with speaking(stage):
        wait_for_more(stage)
        since = stage.web.realtime.manager.position(stage.project)
        assert since is not None
        more = {"since": since} if with_since else {}
        wait_for_more(stage, 3)
        requests = []
        for client in clients:
            requests.append(Request(client, stage.project, **more))
            wait_for_more(stage, 2)
        answers = [request.answer() for request in requests]
        wait_for_more(stage)
    for client, answer in zip(clients, answers, strict=True):
        client.wait_for_event("step", number=stage.said)
        missed = by_offset([(one["event"], one["data"]) for one in answer["events"]])
        first = since["offset"] + 1 if with_since else answer["offset"] + 1
        known = {**missed, **heard(client)}
        assert [offset for offset in sorted(known) if offset >= first] == list(range(first, stage.said + 1))
