"""Two users, 50 projects, and a long random story: nobody hears what he may not see, and everybody hears the rest."""

from __future__ import annotations

import itertools
import logging
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest

from tests.client_recorder import Recorder
from tests.launcher import Brokers
from tests.waiting import WaitTimeout, wait_for
from tests.web_servers import SECRET, Kind, Web

logger = logging.getLogger(__name__)

USERS = ("ada", "bob")
PROJECTS = [f"project-{number:02}" for number in range(50)]
#: Who may see everything: what they have heard, their server has dealt with.
WITNESS = "witness"
MARKER = "marker"
STEPS, STEPS_OF_SHORT = 2200, 1000
CLIENTS_EACH = 3
FIXED_SEED = 20250611


class Clock:
    """Counts what happens; events carry its numbers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = 0

    def tick(self) -> int:
        with self._lock:
            self.now += 1
            return self.now


class Stretch:
    """A time, from ``start`` until ``end``, in which something holds; surely so from ``holds`` until ``fades``."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.holds: int | None = None
        self.fades: int | None = None
        self.end: int | None = None

    def __repr__(self) -> str:
        return f"{self.start}..{self.holds}..{self.fades}..{self.end}"

    def meets(self, first: int, last: int) -> bool:
        return self.start <= last and (self.end is None or first < self.end)

    def covers(self, first: int, last: int) -> bool:
        return self.holds is not None and self.holds <= first and (self.fades is None or last < self.fades)


class Stretches:
    """Stretches of time by what they are about."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._all: dict[Any, list[Stretch]] = defaultdict(list)

    def of(self, key: Any) -> list[Stretch]:
        return list(self._all[key])

    def last(self, key: Any) -> Stretch | None:
        """Return the stretch that has not ended, if there is one."""
        known = self._all[key]
        return known[-1] if known and known[-1].end is None else None

    def begin(self, key: Any) -> None:
        if self.last(key) is None:
            self._all[key].append(Stretch(self._clock.tick()))

    def hold(self, key: Any) -> None:
        last = self.last(key)
        if last is not None and last.holds is None and last.fades is None:
            last.holds = self._clock.tick()

    def fade(self, key: Any) -> None:
        last = self.last(key)
        if last is not None and last.fades is None:
            last.fades = self._clock.tick()

    def end(self, key: Any) -> None:
        last = self.last(key)
        if last is not None:
            self.fade(key)
            last.end = self._clock.tick()

    def meet(self, key: Any, first: int, last: int) -> bool:
        return any(one.meets(first, last) for one in self.of(key))

    def cover(self, key: Any, first: int, last: int) -> bool:
        return any(one.covers(first, last) for one in self.of(key))


class Topic(NamedTuple):
    """What can be subscribed to."""

    project: str
    job: str | None = None

    def request(self, verb: str) -> tuple[str, dict[str, Any]]:
        if self.job is None:
            return f"{verb}_project", {"project_id": self.project}
        return f"{verb}_job", {"job_id": self.job}


class Step(NamedTuple):
    """An event of the story."""

    number: int
    project: str
    job: str | None

    @property
    def topics(self) -> list[Topic]:
        return [Topic(self.project), *([Topic(self.project, self.job)] if self.job else [])]


class Answer(NamedTuple):
    """What came back for a subscription."""

    topic: Topic
    asked: int
    answered: int
    answer: dict[str, Any]


class Stay(NamedTuple):
    """A time through which a client had to hear everything."""

    topic: Topic
    first: int
    last: int


class Guest(Recorder):
    """A client, and when it heard what; it has at most one request about a topic under way.

    Args:
        clock: Says when.
        user: Whose client it is.
        web: Where it is connected.
    """

    def __init__(self, clock: Clock, user: str, web: Web) -> None:
        super().__init__()
        self.clock = clock
        self.user = user
        self.web = web
        self.heard: list[tuple[Step, int]] = []
        self.answers: list[Answer] = []
        self.stays: list[Stay] = []
        self.busy: set[Any] = set()
        self.batch: dict[Topic, bool] = {}
        self.places: dict[Topic, dict[str, Any]] = {}
        #: When it was surely subscribed to what it is subscribed to now.
        self.since: dict[Topic, int] = {}
        #: From the request to subscribe until it was taken back, by either side.
        self.asked = Stretches(clock)
        #: Up to when all had been dealt with as it last asked to be subscribed to something; when that was answered.
        self.drained: dict[Topic, int] = {}
        self.answered: dict[Topic, int] = {}
        self.lock = threading.RLock()

    def __repr__(self) -> str:
        return f"{self.user} on the {self.web.kind} server"

    def _heard(self, event: str, *data: Any) -> None:
        super()._heard(event, *data)
        told = data[0] if event == "agent_batch" else [{"event": event, "data": data[0] if data else None}]
        for item in told:
            if item["event"] == "step":
                self.heard.append((_step(item["data"]), self.clock.now))

    def ask(self, event: str, data: Any, key: Any, then: Callable[[Any], None]) -> None:
        """Ask, and go on; ``key`` stays busy until the answer is there."""
        self.busy.add(key)

        def answered(answer: Any = None) -> None:
            then(answer)
            self.busy.discard(key)

        self.sio.emit(event, data, callback=answered)

    def numbers(self) -> set[int]:
        return {step.number for step, _ in list(self.heard)}


def _step(data: dict[str, Any]) -> Step:
    return Step(data["number"], data["project"], data["job"])


class Story:
    """Two servers, their clients, and what is known of who may see what.

    Args:
        webs: The servers; the first tells events and takes access back.
        signed: Whether tokens say who may see what, and not a rule.
        seed: Of what happens.
    """

    def __init__(self, webs: list[Web], signed: bool, seed: int) -> None:
        self.webs = webs
        self.signed = signed
        self.dice = random.Random(seed)
        self.clock = Clock()
        self.table: dict[str, set[str]] = {user: set() for user in USERS}
        self.lock = threading.Lock()
        self.access = Stretches(self.clock)
        self.steps: list[Step] = []
        self.guests: list[Guest] = []
        self.witnesses: list[Guest] = []
        self.done: Counter[str] = Counter()
        #: All that was told before has been dealt with by all servers.
        self.drains = [0]
        self.deeds: dict[Callable[[], None], int] = {
            self.tell: 45,
            self.subscribe: 20,
            self.subscribe_all: 6,
            self.unsubscribe: 6,
            self.grant: 7,
            self.revoke: 7,
            **({self.refresh: 8, self.narrow: 1} if signed else {}),
        }

    # -- the rules ----------------------------------------------------------------------------------------------

    def rules(self) -> dict[str, Any]:
        if self.signed:
            return {}
        return {"authenticate": lambda token, _: token, "authorize": self.authorize}

    def authorize(self, user: str, project: str) -> bool:
        with self.lock:
            return user == WITNESS or project in self.table.get(user, ())

    def token(self, user: str, projects: list[str] | None = None) -> str:
        if not self.signed:
            return user
        opened = [*PROJECTS, MARKER] if user == WITNESS else sorted(self.table[user])
        return self.webs[0].token(user, opened if projects is None else projects)

    # -- beginning ----------------------------------------------------------------------------------------------

    def begin(self, stack: ExitStack) -> None:
        self._publish_jobs()
        for web in self.webs:
            self.witnesses.append(self._arrive(stack, web, WITNESS))
            for project in (*PROJECTS, MARKER):
                assert self.witnesses[-1].subscribe(project, batch=web is self.webs[0])["ok"]
            self.guests += [self._arrive(stack, web, user) for user in USERS for _ in range(CLIENTS_EACH)]
        for _ in range(50):
            self.grant()

    def _publish_jobs(self) -> None:
        for project in PROJECTS:
            for job in _jobs(project):
                self.webs[0].publish_status(project, job, "PENDING")
        assert self.webs[0].realtime.flush(60)

    def _arrive(self, stack: ExitStack, web: Web, user: str) -> Guest:
        guest = Guest(self.clock, user, web)
        stack.callback(guest.close)
        return guest.connect(web.url, token=self.token(user), transports=["websocket"])

    # -- what happens -------------------------------------------------------------------------------------------

    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            deed = self.dice.choices(list(self.deeds), list(self.deeds.values()))[0]
            self.done[deed.__name__] += 1
            deed()

    def tell(self, project: str | None = None) -> int:
        project = project or self.dice.choice(self._watched() if self.dice.random() < 0.6 else PROJECTS)
        job = self.dice.choice([None, *_jobs(project)])
        step = Step(self.clock.tick(), project, job)
        self.steps.append(step)
        self.webs[0].realtime.manager.emit_to_project(project, "step", step._asdict(), job_id=job)
        return step.number

    def _watched(self) -> list[str]:
        return [topic.project for guest in self.guests for topic in list(guest.since)] or PROJECTS

    def drain(self) -> None:
        """Wait until all that was told and ordered has arrived everywhere: then nothing old comes after a grant."""
        number = self.tell(MARKER)
        for witness in self.witnesses:
            wait_for(lambda: _last(witness) >= number, message=f"a witness is late: {number}")  # noqa: B023
        self.drains.append(number)

    def grant(self) -> None:
        user = self.dice.choice(USERS)
        closed = [project for project in PROJECTS if project not in self.table[user]]
        if len(closed) < 10:
            return
        self.drain()
        project = self.dice.choice(closed)
        keys = [] if self.signed else [(guest, project) for guest in self._of(user)]
        for key in keys:
            self.access.begin(key)
        with self.lock:
            self.table[user].add(project)
        for key in keys:
            self.access.hold(key)

    def revoke(self) -> None:
        user = self.dice.choice(USERS)
        project = self.dice.choice(self._watched())
        keys = [(guest, project) for guest in self._of(user)]
        for key in keys:
            self.access.fade(key)
        with self.lock:
            self.table[user].discard(project)
        assert self.webs[0].realtime.revoke_access(user, project)
        for key in keys:
            self.access.end(key)
            self._subscriptions_end(*key)
        for _ in range(self.dice.choice([0, 1, 5])):
            self.tell(project)

    def refresh(self) -> None:
        """Show a new token that opens all that is open now."""
        guest = self.dice.choice(self.guests)
        self._show(guest, sorted(self.table[guest.user]))

    def narrow(self) -> None:
        """Show a new token that opens less."""
        guest = self.dice.choice(self.guests)
        opened = [project for project in sorted(self.table[guest.user]) if self.dice.random() < 0.8]
        self._show(guest, opened)

    def _show(self, guest: Guest, opened: list[str]) -> None:
        if "token" in guest.busy:
            return
        self.drain()
        lost = [project for project in PROJECTS if project not in opened]
        for project in opened:
            self.access.begin((guest, project))
        for project in lost:
            self.access.fade((guest, project))
            self._stays_end(guest, project)

        def shown(answer: dict[str, Any]) -> None:
            assert answer["ok"], answer
            for project in opened:
                self.access.hold((guest, project))
            for project in lost:
                self.access.end((guest, project))
                self._subscriptions_end(guest, project)

        guest.ask("refresh_token", {"token": self.token(guest.user, opened)}, "token", shown)

    def subscribe(self, guest: Guest | None = None, project: str | None = None) -> None:
        guest = guest or self.dice.choice(self.guests)
        allowed = sorted(self.table[guest.user])
        project = project or self.dice.choice(allowed if self.dice.random() < 0.6 else PROJECTS)
        topic = Topic(project, self.dice.choice([None, None, *_jobs(project)]))
        if topic in guest.busy:
            return
        event, data = topic.request("subscribe")
        data["batch"] = self._batch(guest, topic)
        if topic in guest.places and self.dice.random() < 0.5:
            data["since"] = guest.places[topic]
        with guest.lock:
            guest.asked.begin(topic)
            asked = self.clock.tick()
            guest.drained[topic] = self.drains[-1]
        guest.ask(event, data, topic, lambda answer: self._subscribed(guest, topic, asked, answer))

    def _batch(self, guest: Guest, topic: Topic) -> bool:
        """Choose whether a client wants batches; what comes while it changes rooms, its answer has."""
        batch = self.dice.random() < 0.3
        with guest.lock:
            if guest.batch.get(topic, batch) != batch:
                self._stay_ends(guest, topic)
            guest.batch[topic] = batch
        return batch

    def _subscribed(self, guest: Guest, topic: Topic, asked: int, answer: dict[str, Any]) -> None:
        with guest.lock:
            answered = guest.answered[topic] = self.clock.now
            guest.answers.append(Answer(topic, asked, answered, answer))
            if not answer["ok"]:
                guest.asked.end(topic)
                return
            guest.places[topic] = {"epoch": answer["epoch"], "offset": answer["offset"]}
            if self.access.cover((guest, topic.project), asked, answered):
                guest.since.setdefault(topic, answered)

    def subscribe_all(self) -> None:
        """Let all clients of a user ask for one project at once."""
        user = self.dice.choice(USERS)
        project = self.dice.choice(sorted(self.table[user]) or PROJECTS)
        for guest in self._of(user):
            self.subscribe(guest, project)

    def unsubscribe(self) -> None:
        guest = self.dice.choice(self.guests)
        with guest.lock:
            topics = [topic for topic in guest.places if guest.asked.last(topic) and topic not in guest.busy]
            if not topics:
                return
            topic = self.dice.choice(topics)
            self._stay_ends(guest, topic)
        event, data = topic.request("unsubscribe")

        def left(answer: dict[str, Any]) -> None:
            assert answer["ok"], answer
            guest.asked.end(topic)

        guest.ask(event, data, topic, left)

    def _subscriptions_end(self, guest: Guest, project: str) -> None:
        """Note that access was taken back; what is being asked for now may be answered later."""
        self._stays_end(guest, project)
        with guest.lock:
            for topic in _topics(project):
                if topic not in guest.busy:
                    guest.asked.end(topic)

    def _stays_end(self, guest: Guest, project: str) -> None:
        for topic in _topics(project):
            with guest.lock:
                self._stay_ends(guest, topic)

    def _stay_ends(self, guest: Guest, topic: Topic) -> None:
        """Note up to when a client had to hear everything: what is under way now may come too late for it.

        So may what is held for it until its server has answered a request to subscribe to anything of the project, if
        its access ends meanwhile; the server goes on to what it held just after the answer. A request may overtake what
        was told before it, and had not come to its server.
        """
        first = guest.since.pop(topic, None)
        if first is not None:
            drained = self.drains[-1]
            held = [guest.drained[other] for other in _topics(topic.project) if self._may_hold(guest, other, drained)]
            guest.stays.append(Stay(topic, first, min([drained, *held])))

    def _may_hold(self, guest: Guest, topic: Topic, drained: int) -> bool:
        """Tell whether a server may still hold for a client what was told before all was drained last."""
        return topic in guest.drained and (topic in guest.busy or guest.answered.get(topic, 0) > drained)

    def _of(self, user: str) -> list[Guest]:
        return [guest for guest in self.guests if guest.user == user]

    # -- the end ------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Wait until nothing is under way."""
        for guest in self.guests:
            wait_for(lambda: not guest.busy, message=f"no answer about {guest.busy}")  # noqa: B023
        self.drain()
        for guest in self.guests:
            # What was told to a client comes before the answer.
            assert guest.call("unsubscribe_project", {"project_id": MARKER})["ok"]
            for topic in list(guest.since):
                self._stay_ends(guest, topic)

    def known_since(self, guest: Guest, number: int) -> int:
        """Return since when a client's server has surely known what was so at a time.

        Rules are asked anew each time. That tokens are too old, another server knows when the order has reached it.
        """
        if not self.signed or guest.web is self.webs[0]:
            return number
        return max(drain for drain in self.drains if drain <= number)

    def must_hear(self, stay: Stay) -> set[int]:
        told = [step for step in self.steps if stay.topic in step.topics]
        return {step.number for step in told if stay.first < step.number <= stay.last}


def _jobs(project: str) -> list[str]:
    return [] if project == MARKER else [f"{project}-job-{number}" for number in range(2)]


def _topics(project: str) -> list[Topic]:
    return [Topic(project), *(Topic(project, job) for job in _jobs(project))]


def _last(guest: Guest) -> int:
    return guest.heard[-1][0].number if guest.heard else 0


#: Others are told in one process by tests/fuzz, in more steps; here it is over sockets and a broker.
SHORT = [("rabbitmq", "signed tokens", "a random seed")]
STORIES = [(*one, STEPS_OF_SHORT) for one in SHORT] + [
    pytest.param(*one, STEPS, marks=pytest.mark.long)
    for one in itertools.product(
        ("redis", "rabbitmq"), ("own rules", "signed tokens"), ("a fixed seed", "a random seed")
    )
]


@pytest.fixture
def story(brokers: Brokers, redis_url: str, broker: str, access: str, seeding: str) -> Iterator[Story]:
    signed = access == "signed tokens"
    seed = FIXED_SEED if seeding == "a fixed seed" else random.SystemRandom().randrange(10**9)
    broker_url = brokers.make(broker).url
    logger.warning("the story's seed is %d", seed)
    kinds = ["sync", "asgi"] if seed % 2 else ["asgi", "sync"]
    settings = {"history_url": redis_url, "secret_key": SECRET if signed else None, "request_rate": 10000.0}
    with ExitStack() as stack:
        webs = [Web(kind, broker_url, **settings) for kind in kinds]
        story = Story(webs, signed, seed)
        for web in webs:
            stack.callback(web.stop)
            web.attach(**story.rules()).start()
        story.begin(stack)
        yield story


@pytest.mark.parametrize(("broker", "access", "seeding", "steps"), STORIES)
def test_through_a_long_random_story_no_client_receives_what_it_may_not_see_and_all_receive_the_rest(
    story: Story, steps: int
) -> None:
    story.go_on(steps)
    story.end()

    for guest in story.guests:
        wait_for_what_it_must_hear(story, guest)
        check_what_was_heard(story, guest)
        for answer in guest.answers:
            check_answer(story, guest, answer)
    for witness in story.witnesses:
        assert witness.numbers() == {step.number for step in story.steps}
    check_that_much_happened(story, steps)


def wait_for_what_it_must_hear(story: Story, guest: Guest) -> None:
    """Wait for all that a client had to hear: a server goes on to what it held for it just after its answer."""
    missed = {stay: story.must_hear(stay) for stay in guest.stays}

    def has_heard_all() -> bool:
        numbers = guest.numbers()
        for stay in list(missed):
            missed[stay] -= numbers
            if not missed[stay]:
                del missed[stay]
        return not missed

    try:
        wait_for(has_heard_all)
    except WaitTimeout:
        raise AssertionError(f"{guest} was not told {missed}"[:1000]) from None


def check_what_was_heard(story: Story, guest: Guest) -> None:
    for step, heard_at in guest.heard:
        access = story.access.of((guest, step.project))
        assert any(one.meets(step.number, step.number) for one in access), f"{guest} heard {step}: {access}"
        asked = [one for topic in step.topics for one in guest.asked.of(topic)]
        wanted = any(one.start <= heard_at and (one.end is None or step.number < one.end) for one in asked)
        assert wanted, f"{guest} heard {step} at {heard_at}: {asked}"


def check_answer(story: Story, guest: Guest, one: Answer) -> None:
    key = (guest, one.topic.project)
    told = f"{guest} was told {str(one)[:500]}: {story.access.of(key)}"
    if not one.answer["ok"]:
        assert set(one.answer) == {"ok", "error"}, told
        assert one.answer["error"]["code"] == "forbidden", told
        assert not story.access.cover(key, one.asked, one.answered), told
        return
    assert story.access.meet(key, story.known_since(guest, one.asked), one.answered), told
    assert one.answer["project_id"] == one.topic.project, told
    assert {job["project_id"] for job in one.answer["jobs"]} <= {one.topic.project}, told
    assert {job["job_id"] for job in one.answer["jobs"]} <= set(_jobs(one.topic.project)), told
    for item in one.answer["events"]:
        step = _step(item["data"])
        assert one.topic in step.topics, told
        known = story.known_since(guest, max(one.asked, step.number))
        assert story.access.meet(key, known, one.answered), told


def check_that_much_happened(story: Story, steps: int) -> None:
    """A story in which nothing happens proves nothing."""
    answers = [one for guest in story.guests for one in guest.answers]
    refused = [one for one in answers if not one.answer["ok"]]
    missed = [item for one in answers if one.answer["ok"] for item in one.answer["events"]]
    expected = sum(len(story.must_hear(stay)) for guest in story.guests for stay in guest.stays)
    taken_back = sum("project_id" in error for guest in story.guests for error in guest.of("error"))
    logger.warning(
        "%s; answers %d, refused %d, events in answers %d, heard %d, had to be heard %d, withdrawn %d",
        *(dict(story.done), len(answers), len(refused), len(missed)),
        *(sum(len(guest.heard) for guest in story.guests), expected, taken_back),
    )
    assert story.done.total() >= steps * 0.9
    assert min(len(refused), len(missed), taken_back) > steps / 110
    assert expected > steps / 5


@pytest.mark.parametrize("kind", ["sync", "asgi"])
def test_a_client_that_leaves_and_comes_back_before_the_first_answer_goes_on_receiving(
    kind: Kind, redis_url: str
) -> None:
    web = Web(kind, redis_url, history_url=redis_url)
    reading, go_on = _hold_first_read(web)
    try:
        client = web.attach().start().connect()
        answers: list[dict[str, Any]] = []
        client.sio.emit("subscribe_project", {"project_id": "alpha"}, callback=answers.append)
        assert reading.wait(60)
        assert client.call("unsubscribe_project", {"project_id": "alpha"})["ok"]
        client.sio.emit("subscribe_project", {"project_id": "alpha"}, callback=answers.append)
        assert not client.call("get_result", {})["ok"]  # what has arrived before it waits for its turn
        go_on.set()
        wait_for(lambda: len(answers) == 2)
        assert sorted(answer["ok"] for answer in answers) == [False, True]
        web.emit("alpha", 1)
        client.wait_for_event("step", number=1)
    finally:
        go_on.set()
        web.stop()


def _hold_first_read(web: Web) -> tuple[threading.Event, threading.Event]:
    """Let the first reading of the history say that it has begun, and wait until it is told to go on."""
    history = web.realtime.manager.history
    assert history is not None
    read, reading, go_on = history.read, threading.Event(), threading.Event()

    def held(*args: Any, **options: Any) -> Any:
        reading.set()
        go_on.wait(60)
        return read(*args, **options)

    history.read = held  # type: ignore[method-assign]
    return reading, go_on
