"""Random stories of several worlds, and what the model says of them; see tests/fuzz/test_isolation.py.

In each world the same clients do the same, in the same order. In the world of everything all happens; in each of the
others, only what one client may see or may come to see. A client cannot tell its own world from that of everything.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from celery_realtime import events
from celery_realtime.auth import issue_token
from celery_realtime.events import Job, Outgoing
from celery_realtime.jobs.progress import Progress, progress_update
from celery_realtime.stream_parts import StreamPart
from tests.fuzz.direct import DirectClient
from tests.fuzz.worlds import Kind, World, read_all, world_of
from tests.web_servers import SECRET

#: Jobs, and their tasks; of those of the task ``secret`` members see nothing. Each project has a job of each name.
JOBS = {"report": "open", "audit": "secret"}
STATES = ("PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE")
#: What differs between worlds, or from one run to the next.
VOLATILE = frozenset(("epoch", "timestamp", "queued_at", "started_at", "ended_at", "runtime", "expires_in"))
DAY = 86400.0
#: Steps of a story.
LENGTH = 100
#: Stories that may fail before no more are told.
MOST_FAILURES = 5

_numbers = itertools.count()


class Person(NamedTuple):
    """A user, whose clients do what the story says.

    Attributes:
        audience: ``owner`` or ``member``.
        always: The projects that each of the user's tokens names.
        at_times: Those that some of them name.
    """

    audience: str
    always: tuple[str, ...]
    at_times: tuple[str, ...]

    @property
    def happens(self) -> tuple[str, ...]:
        """The projects in which something happens in the user's own world."""
        return self.always + self.at_times


#: Nobody ever has a token for the project ``theirs``.
PEOPLE = {
    "ada": Person("owner", ("ours",), ("shared",)),
    "eve": Person("member", ("ours",), ("shared",)),
    "sam": Person("owner", (), ("shared",)),
}
PROJECTS = ("ours", "shared", "theirs")


def hide_secrets(_event: str, _project: str, payload: dict[str, Any], audience: str | None) -> dict[str, Any] | None:
    return None if audience == "member" and payload.get("task") == "secret" else payload


class Deed(NamedTuple):
    """Something that happens in a project.

    Attributes:
        kind: A state that a job comes to, or ``progress``, ``line`` or ``chunk``.
        project: One of ``PROJECTS``.
        job: One of ``JOBS``.
        with_result: Whether an end is in the result backend, too.
    """

    kind: str
    project: str
    job: str
    with_result: bool


class Request(NamedTuple):
    """What a client asks for.

    Attributes:
        who: The user.
        event: The request.
        project: The project that it names, if it names one.
        job: The job that it is about.
        since: How many offsets back it wants to go on from; None for nowhere, -1 for another epoch.
        batch: Whether it wants batches.
        is_acknowledged: Whether it asks for an acknowledgement.
        streams: Whether it wants what the jobs of a project say in their streams, too.
    """

    who: str
    event: str
    project: str | None
    job: str
    since: int | None
    batch: bool
    is_acknowledged: bool
    streams: bool = False


class Turn(NamedTuple):
    """What changes a client's rights.

    Attributes:
        who: The user.
        kind: ``refresh`` on the open connection, ``return`` on a new one, ``stale`` (to show the token before the last
            again), or ``revoke``.
        opened: The projects that its new token names, beside those that it always names.
    """

    who: str
    kind: str
    opened: tuple[str, ...]


Part = Deed | Request | Turn


def random_parts(dice: random.Random) -> Iterator[Part]:
    """Yield what happens, for ever: some deeds, some requests, now and then a change of rights."""
    while True:
        chance = dice.random()
        make = _random_deed if chance < 0.42 else _random_request if chance < 0.84 else _random_turn
        for _ in range(1 if make is _random_turn else dice.choice((1, 2, 3, 5, 8))):
            yield make(dice)


def _random_deed(dice: random.Random) -> Deed:
    kind = dice.choice((*STATES, "progress", "line", "chunk"))
    return Deed(kind, dice.choice(PROJECTS), dice.choice([*JOBS]), dice.random() < 0.5)


def _random_turn(dice: random.Random) -> Turn:
    opened = ("shared",) if dice.random() < 0.6 else ()
    kind = dice.choice(("refresh", "refresh", "return", "stale", "revoke"))
    return Turn(dice.choice([*PEOPLE]), kind, opened)


def _random_request(dice: random.Random) -> Request:
    event = dice.choice(
        (
            *("subscribe_project",) * 3,
            *("subscribe_job",) * 2,
            *("unsubscribe_project", "unsubscribe_job", "get_result", "cancel_job", "read_stream"),
        )
    )
    project = dice.choice(PROJECTS if event.endswith("_project") else (*PROJECTS, None))
    since = dice.choice((None, None, -1, 0, 1, 3))
    job = dice.choice((*JOBS, "nowhere"))
    wants = dice.random() < 0.3, dice.random() < 0.8, dice.random() < 0.5
    return Request(dice.choice([*PEOPLE]), event, project, job, since, *wants)


class Names:
    """The ids of one story, which no other has."""

    def __init__(self) -> None:
        self._number = next(_numbers)

    def of(self, name: str) -> str:
        return f"{name}-{self._number}"


class Watcher:
    """A user's client in one world, and all that it has been given.

    Args:
        world: The world.
        name: The user.
        names: The ids of the story.
    """

    def __init__(self, world: World, name: str, names: Names) -> None:
        self._world = world
        self._name = name
        self._names = names
        self._client: DirectClient | None = None
        self._places: dict[str, dict[str, Any]] = {}
        self._waiting: list[tuple[str, int]] = []

    def enter(self, token: str) -> None:
        """Connect, anew if need be."""
        if self._client is not None:
            self.collect()
            self._client.close()
        self._client = self._world.client().connect(token)
        assert self._client.is_connected, self._client.refusal

    def ask(self, request: Request) -> None:
        assert self._client is not None
        data = self._data_of(request)
        if request.is_acknowledged:
            project = request.project if request.event == "subscribe_project" else None
            self._waiting.append((project or "", self._client.ask(request.event, data)))
        else:
            self._client.tell(request.event, data)

    def show(self, token: str) -> None:
        """Show a new token on the open connection."""
        assert self._client is not None
        self._waiting.append(("", self._client.ask("refresh_token", {"token": token})))

    def _data_of(self, request: Request) -> dict[str, Any]:
        data: dict[str, Any] = {}
        if not request.event.endswith("_project"):
            data["job_id"] = self._names.of(request.job)
        if request.project is not None:
            data["project_id"] = self._names.of(request.project)
        if request.event == "subscribe_project":
            data["streams"] = request.streams
        if request.event == "read_stream":
            data |= {"stream": "answer", "from": 10 * max(0, request.since or 0)}
        if request.event.startswith("subscribe"):
            data["batch"] = request.batch
            place = self._places.get(request.project or "")
            if request.since == -1:
                data["since"] = {"epoch": "made-up", "offset": 1}
            elif request.since is not None and place is not None:
                # What is hidden from members takes offsets: of theirs, only the first means the same in both worlds.
                back = 10**6 if PEOPLE[self._name].audience == "member" else request.since
                data["since"] = {"epoch": place["epoch"], "offset": max(0, place["offset"] - back)}
        return data

    @property
    def client(self) -> DirectClient:
        """The client; it has to have entered."""
        assert self._client is not None
        return self._client

    def collect(self) -> tuple[list[Any], list[Any]]:
        """Return the events and the answers that have been read since the last time."""
        assert self._client is not None
        answers = []
        for project, number in self._waiting:
            answer = self._client.answer(number)
            if project and answer["ok"]:
                self._places[project] = {"epoch": answer["epoch"], "offset": answer["offset"]}
            answers.append(answer)
        self._waiting.clear()
        heard = list(_unfolded(self._client.heard))
        self._client.heard.clear()
        return heard, answers

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


class Rights:
    """What the model says of who may see what.

    Args:
        names: The ids of the story.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._projects = {name: set(person.always) for name, person in PEOPLE.items()}
        #: The tokens of each user: the token, and the projects that it still opens.
        self._tokens: dict[str, list[tuple[str, set[str]]]] = {name: [] for name in PEOPLE}

    def issue(self, name: str, opened: tuple[str, ...]) -> str:
        """Return a new token."""
        projects = {*PEOPLE[name].always, *opened}
        token = issue_token(SECRET, name, [self._names.of(project) for project in projects], DAY)
        self._tokens[name].append((token, projects))
        self._projects[name] = projects
        return token

    def stale(self, name: str) -> str:
        """Return the token before the last, which opens what has not been revoked since."""
        token, projects = self._tokens[name][-2:][0]
        self._tokens[name].append((token, projects))
        self._projects[name] = projects
        return token

    def revoke(self, name: str, project: str) -> None:
        for _, projects in self._tokens[name]:
            projects.discard(project)

    def allow(self, name: str) -> set[str]:
        return self._projects[name]


class Story:
    """One story, told in all worlds.

    Args:
        worlds: By name: ``all``, and one for each user.
    """

    def __init__(self, worlds: dict[str, World]) -> None:
        self._worlds = worlds
        self._names = Names()
        self._rights = Rights(self._names)
        self._contents = itertools.count()
        #: By project and job, where the latest chunk of its stream begins, and where it ends.
        self._written: dict[tuple[str | None, str], tuple[int, int]] = {}
        self._watchers = {
            name: [Watcher(worlds[world], name, self._names) for world in ("all", name)] for name in PEOPLE
        }
        self.steps: Counter[str] = Counter()

    def tell(self, parts: list[Part]) -> None:
        """Let all of it happen, and check what each client sees of it."""
        try:
            for name in PEOPLE:
                token = self._rights.issue(name, ())
                for watcher in self._watchers[name]:
                    watcher.enter(token)
            for kind, run in itertools.groupby(parts, type):
                self._go_through(kind, list(run))
        finally:
            for watchers in self._watchers.values():
                for watcher in watchers:
                    watcher.close()

    def _go_through(self, kind: type, run: list[Any]) -> None:
        for part in run:
            self.steps[getattr(part, "kind", None) or part.event] += 1
            if kind is Deed:
                self._do(part)
            elif kind is Request:
                for watcher in self._watchers[part.who]:
                    watcher.ask(part)
            else:
                self._turn(part)
        if kind is Deed:
            self._settle()
        self._check()

    def _do(self, deed: Deed) -> None:
        project, job_id = self._names.of(deed.project), self._names.of(deed.job)
        job = Job(job_id=job_id, project_id=project, task=JOBS[deed.job])
        content = f"content-of-{project}-number-{next(self._contents)}"
        if deed.kind == "chunk":
            written = self._written.get((project, job_id), (0, 0))[1]
            self._written[project, job_id] = written, written + len(content)
        for world in self._worlds.values():
            world.do(deed, job, self._outgoing(deed, job, content), content)

    def _outgoing(self, deed: Deed, job: Job, content: str) -> Outgoing:
        """Return the event of a deed, for one world."""
        if deed.kind == "chunk":
            begin, end = self._written[job.project_id, job.job_id]
            part = StreamPart("answer", "text", job.job_id, begin, end - begin, "", 1, job.task)
            return events.outgoing_part(job, part, content.encode())
        if deed.kind == "line":
            data = {"text": content, "task": job.task}
            return events.outgoing_custom("line", data, job.project_id, job.job_id, 1 << 16)
        if deed.kind == "progress":
            return events.outgoing_progress(progress_update(job, Progress(50, content)))
        ends: dict[str, dict[str, Any]] = {
            "SUCCESS": {"result": f'"{content}"'.encode()},
            "FAILURE": {"error": content},
        }
        return events.outgoing_status(events.status_change(job, deed.kind, **ends.get(deed.kind, {})))

    def _settle(self) -> None:
        for world in self._worlds.values():
            world.begin_to_settle()
        for world in self._worlds.values():
            world.settle()

    def _turn(self, turn: Turn) -> None:
        self._check()
        watchers = self._watchers[turn.who]
        if turn.kind == "revoke":
            self._rights.revoke(turn.who, "shared")
            for world in self._worlds.values():
                assert world.realtime.revoke_access(turn.who, self._names.of("shared"))
            self._settle()
        else:
            issue = self._rights.stale if turn.kind == "stale" else lambda name: self._rights.issue(name, turn.opened)
            token = issue(turn.who)
            for watcher in watchers:
                (watcher.enter if turn.kind == "return" else watcher.show)(token)
        self._check()

    def _check(self) -> None:
        """Check what each client has been given since the last time.

        It has no contents of a project that the client may not see now; and the client cannot tell by it that its world
        is not that of everything.
        """
        read_all(watcher.client for watchers in self._watchers.values() for watcher in watchers)
        for name, (watcher, own) in self._watchers.items():
            given, model = watcher.collect(), own.collect()
            forbidden = {*PROJECTS} - self._rights.allow(name)
            text = repr((given, model))
            for project in forbidden:
                content = f"content-of-{self._names.of(project)}-"
                assert content not in text, f"{name} is given what is in {project}: {text}"
            # An audience can tell how much is hidden from it, and not of what: that takes offsets.
            leave_out = VOLATILE | ({"offset"} if PEOPLE[name].audience == "member" else set())
            for one, other in itertools.zip_longest(shown(given, leave_out), shown(model, leave_out)):
                assert one == other, f"{name} can tell the world of everything, {one}, from its own, {other}"


def _unfolded(heard: list[list[Any]]) -> Iterator[list[Any]]:
    """Yield events one by one: how many come at once depends on the machine.

    So does when a server notices that a stream has ended with its job; that is left out.
    """
    for event, *data in heard:
        items = [[item["event"], item["data"]] for item in data[0]] if event == "agent_batch" else [[event, *data]]
        for item in items:
            if item[0] != "agent_stream":
                yield item
            elif item[1]["chunk"]:
                yield [item[0], {name: value for name, value in item[1].items() if name != "state"}]


def shown(given: tuple[list[Any], list[Any]], leave_out: frozenset[str] | set[str]) -> list[Any]:
    """Return what has to be the same in two worlds of what a client has been given.

    Whoever follows a project and a job of it, one of them in batches, hears events of the latter twice, and which of
    them come together depends on the machine; so their order is not compared.
    """
    heard, answers = (_without(part, leave_out) for part in given)
    return [*sorted(heard, key=repr), *answers]


def _without(value: Any, leave_out: frozenset[str] | set[str]) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(name, _without(part, leave_out)) for name, part in value.items() if name not in leave_out}
    if not isinstance(value, list):
        return value
    return [_without(part, leave_out) for part in value if not _is_hidden(part)]


def _sorted(name: str, value: Any) -> Any:
    """A snapshot is in the order of time; two jobs may have come to their states within a millisecond, or not."""
    return sorted(value, key=repr) if name == "jobs" and isinstance(value, list) else value


def _is_hidden(part: Any) -> bool:
    if isinstance(part, list):
        return part[:1] == ["agent_hidden"]
    return isinstance(part, dict) and part.get("event") == "agent_hidden"


@contextmanager
def all_worlds(kind: Kind, fresh_url: Callable[[], str]) -> Iterator[dict[str, World]]:
    """Make the world of everything, and for each user that in which what the user may come to see happens."""

    def is_for(name: str) -> Callable[[Deed], bool]:
        person = PEOPLE[name]
        return lambda deed: deed.project in person.happens and (person.audience == "owner" or JOBS[deed.job] == "open")

    happens = {"all": lambda _: True, **{name: is_for(name) for name in PEOPLE}}
    with ExitStack() as stack:
        worlds = {
            name: world_of(kind)(fresh_url(), does, event_filter=hide_secrets, audience=_audience)
            for name, does in happens.items()
        }
        for world in worlds.values():
            stack.callback(world.stop)
            world.begin()
        yield worlds


def _audience(user: Any, _project: str) -> str:
    return PEOPLE[user].audience


class Outcome:
    """What has come of many stories.

    Attributes:
        kind: Of which kind their worlds are.
        seed: Of all of them.
        steps: How many steps there were of each kind.
        stories: How many stories.
        failures: What each story says that failed.
    """

    def __init__(self, kind: Kind, seed: object) -> None:
        self.kind = kind
        self.seed = seed
        self.steps: Counter[str] = Counter()
        self.stories = 0
        self.failures: list[str] = []

    def __str__(self) -> str:
        steps = ", ".join(f"{count} {name}" for name, count in self.steps.most_common())
        return (
            f"{self.kind}: {self.steps.total()} steps in {self.stories} stories, {len(self.failures)} failed "
            f"(FUZZ_SEED={self.seed}; {steps})"
        )


def tell_many(fresh_url: Callable[[], str], steps: int, outcome: Outcome) -> None:
    """Tell stories until so many steps are done, or too many stories have failed.

    Args:
        fresh_url: Returns the address of an empty database.
        steps: How many.
        outcome: Says of which kind the worlds are, and the seed; gets what has come of each story as that ends.
    """
    with all_worlds(outcome.kind, fresh_url) as worlds:
        while outcome.steps.total() < steps and len(outcome.failures) < MOST_FAILURES:
            number = outcome.stories
            parts = list(itertools.islice(random_parts(random.Random(f"{outcome.seed}-{number}")), LENGTH))
            story = Story(worlds)
            failure = _failure_of(story, parts)
            outcome.stories += 1
            outcome.steps += story.steps
            if failure is not None:
                rest = reduced(worlds, parts[: story.steps.total()])
                outcome.failures.append(f"story {number} of the seed {outcome.seed}: {failure}\n{rest}")


def _failure_of(story: Story, parts: list[Part]) -> str | None:
    try:
        story.tell(parts)
    except AssertionError as error:
        return str(error) or "an assertion failed"
    return None


def reduced(worlds: dict[str, World], parts: list[Part]) -> str:
    """Return what is left of a story that failed without what does not matter."""
    if not _fails(worlds, parts):
        return "it does not fail again"
    size = len(parts)
    while size > 1:
        size //= 2
        start = 0
        while start < len(parts):
            without = parts[:start] + parts[start + size :]
            if _fails(worlds, without):
                parts = without
            else:
                start += size
    return "of which this is left:\n  " + "\n  ".join(map(str, parts))


def _fails(worlds: dict[str, World], parts: list[Part]) -> bool:
    return _failure_of(Story(worlds), parts) is not None
