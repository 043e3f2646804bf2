"""Whatever happens in a project that a client may not see, the client cannot tell that it has happened.

The same things happen in several worlds, each with a web server and a Redis of its own: in one of them everything, in
each of the others only what one client may see. What the client is answered, and hears, has to be the same in both.
Short stories are told over sockets; long ones, in which rights change, to servers in this process
(tests/fuzz/stories.py).
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_realtime import events
from celery_realtime.events import Job
from celery_realtime.jobs.progress import Progress, progress_update
from celery_realtime.stream_parts import StreamPart
from tests.fuzz.budget import tried
from tests.fuzz.conftest import RECORDED
from tests.fuzz.stories import Outcome, tell_many
from tests.fuzz.worlds import KINDS, Kind
from tests.web_servers import Web

if TYPE_CHECKING:
    from tests.client_recorder import Recorder
    from tests.services import RedisServer

#: Jobs, and their tasks; of those of the task ``secret`` members see nothing.
JOBS = {"report": "open", "audit": "secret"}
#: Of every client, the audience that it is of. Both may see the project ``ours`` and not ``theirs``.
CLIENTS = {"ada": "owner", "eve": "member"}
STATES = ("PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE")
REQUESTS = ("subscribe_project", "subscribe_job", "unsubscribe_job", "get_result", "cancel_job", "read_stream")
#: What differs between worlds, or from one run to the next.
VOLATILE = ("epoch", "timestamp", "queued_at", "started_at", "ended_at", "runtime")

_numbers = itertools.count()


class Deed(NamedTuple):
    """Something that happens in a project.

    Attributes:
        kind: A state that a job comes to, or ``progress`` or ``line``.
        project: ``ours`` or ``theirs``.
        job: One of :data:`JOBS`.
        with_result: Whether an end is in the result backend, too.
    """

    kind: str
    project: str
    job: str
    with_result: bool


class Question(NamedTuple):
    """A request of both clients.

    Attributes:
        event: One of :data:`REQUESTS`.
        job: The job that it is about.
        named: The project that it names, if it names one.
        since: The offset that it names; below 0 for none.
    """

    event: str
    job: str
    named: str | None
    since: int


deeds = st.builds(
    Deed,
    st.sampled_from([*STATES, "progress", "line", "stream"]),
    st.sampled_from(["ours", "theirs"]),
    st.sampled_from([*JOBS]),
    st.booleans(),
)
questions = st.builds(
    Question,
    st.sampled_from(REQUESTS),
    st.sampled_from([*JOBS, "nowhere"]),
    st.sampled_from([None, "ours", "theirs"]),
    st.integers(-2, 6),
)


def hide_secrets(_event: str, _project: str, payload: dict[str, Any], audience: str | None) -> dict[str, Any] | None:
    return None if audience == "member" and payload.get("task") == "secret" else payload


#: What is asked at the end of each story.
LAST = [
    Question(event, job, named, -1)
    for event in ("get_result", "subscribe_job", "read_stream", "cancel_job")
    for job in JOBS
    for named in (None, "ours")
]


class World:
    """A web server, in which what one client may see happens, or everything.

    Args:
        kind: Of the server.
        url: Of a Redis of its own.
        happens: Tells what of all happens in it.
    """

    def __init__(self, kind: Kind, url: str, happens: Callable[[Deed], bool]) -> None:
        self.happens = happens
        self._written: dict[tuple[str, str], int] = {}
        self.web = Web(kind, url, history_url=url, request_rate=1e6, event_filter=hide_secrets)
        self.web.realtime.app.conf.result_backend = url
        self.web.attach(audience=lambda user, _: CLIENTS[user]).start()

    def do(self, deed: Deed, names: Names) -> None:
        """Let something happen, if it does in this world."""
        if not self.happens(deed):
            return
        manager, project, job_id = self.web.realtime.manager, names.project(deed.project), names.job(deed.job)
        job = Job(job_id=job_id, project_id=project, task=JOBS[deed.job])
        content = f"content of {deed.project}"
        if deed.kind == "progress":
            manager.put(events.outgoing_progress(progress_update(job, Progress(50, content))))
        elif deed.kind == "line":
            manager.emit_to_project(project, "line", {"text": content, "task": job.task}, job_id=job_id)
        elif deed.kind == "stream":
            position = self._written[project, job_id] = self._written.get((project, job_id), -len(content)) + len(
                content
            )
            part = StreamPart("answer", "text", job_id, position, len(content), "", 1, job.task)
            manager.put_part(events.outgoing_part(job, part, content.encode()))
        else:
            self._come_to(job, deed, content)
        self.web.settle()

    def _come_to(self, job: Job, deed: Deed, content: str) -> None:
        ends: dict[str, dict[str, Any]] = {
            "SUCCESS": {"result": f'"{content}"'.encode()},
            "FAILURE": {"error": content},
        }
        if deed.with_result and deed.kind in ends:
            result = ValueError(content) if deed.kind == "FAILURE" else content
            self.web.realtime.app.backend.store_result(job.job_id, result, deed.kind)
        change = events.status_change(job, deed.kind, **ends.get(deed.kind, {}))
        self.web.realtime.manager.put_status(change)


class Names:
    """The ids of one example, which no other has."""

    def __init__(self) -> None:
        self._number = next(_numbers)

    def project(self, name: str) -> str:
        return f"{name}-{self._number}"

    def job(self, name: str) -> str:
        return f"{name}-{self._number}"

    def request(self, question: Question, epoch: str) -> dict[str, Any]:
        data: dict[str, Any] = {"job_id": self.job(question.job)}
        named = question.named or ("ours" if question.event == "subscribe_project" else None)
        if named is not None:
            data["project_id"] = self.project(named)
        if question.event == "read_stream":
            data |= {"stream": "answer", "from": max(0, question.since)}
        elif question.since >= 0:
            data["since"] = {"epoch": epoch, "offset": question.since}
        return data


class Watcher:
    """A client of a world, and all that it has been given.

    Args:
        client: The client.
        project: What it is subscribed to all the time.
    """

    def __init__(self, client: Recorder, project: str) -> None:
        self._client = client
        first = client.subscribe(project, streams=True)
        self._epoch = first["epoch"]
        self.answers = [first]

    def ask(self, question: Question, names: Names) -> None:
        answer = self._client.call(question.event, names.request(question, self._epoch))
        if question.event == "subscribe_project" and answer["ok"]:
            self._epoch = answer["epoch"]
        self.answers.append(answer)

    def heard(self) -> list[list[Any]]:
        """Return the events, and apart from them the refusals, that it has heard up to the end of the example."""
        self._client.wait_for_event("over")
        heard = [list(event) for event in self._client.events]
        return [[event for event in heard if (event[0] == "error") == is_error] for is_error in (False, True)]


def everything(_: Deed) -> bool:
    return True


def ours(deed: Deed) -> bool:
    return deed.project == "ours"


def ours_and_open(deed: Deed) -> bool:
    return ours(deed) and JOBS[deed.job] == "open"


@pytest.fixture(params=["sync", "asgi"], scope="module")
def worlds(request: pytest.FixtureRequest, results_server: RedisServer) -> Iterator[dict[str, World]]:
    """The world in which everything happens, and for each client that in which what it may see happens."""
    happens = {"all": everything, "ada": ours, "eve": ours_and_open}
    made = {name: World(request.param, results_server.fresh_url(), does) for name, does in happens.items()}
    yield made
    for world in made.values():
        world.web.stop()


def watch(stack: ExitStack, world: World, user: str, names: Names) -> Watcher:
    project = names.project("ours")
    client = world.web.connect(world.web.token(user, projects=[project]))
    stack.callback(client.close)
    return Watcher(client, project)


@pytest.mark.timeout(300)
@tried(3, share=0.1, shrinks=False)
@given(st.lists(deeds | deeds | questions, min_size=5, max_size=20))
def test_no_answer_and_no_event_tells_of_what_a_client_may_not_see(
    worlds: dict[str, World], story: list[Deed | Question]
) -> None:
    names = Names()
    with ExitStack() as stack:
        pairs = {user: [watch(stack, worlds[name], user, names) for name in ("all", user)] for user in CLIENTS}
        for part in [*story, *LAST]:
            if isinstance(part, Deed):
                for world in worlds.values():
                    world.do(part, names)
            else:
                for user, pair in pairs.items():
                    for watcher in pair:
                        watcher.ask(_as_asked_by(user, part), names)
        for world in worlds.values():
            world.web.realtime.manager.emit_to_project(names.project("ours"), "over", {})
        for user, (watcher, model) in pairs.items():
            # An audience can tell how much is hidden from it, and not of what: that takes offsets.
            leave_out = (*VOLATILE, "offset") if CLIENTS[user] == "member" else VOLATILE
            assert shown(watcher.answers, leave_out) == shown(model.answers, leave_out), user
            assert shown(watcher.heard(), leave_out) == shown(model.heard(), leave_out), user


def _as_asked_by(user: str, question: Question) -> Question:
    """Return a question that means the same in both worlds: what is hidden from members takes offsets."""
    return question._replace(since=min(0, question.since)) if CLIENTS[user] == "member" else question


def shown(value: Any, leave_out: tuple[str, ...]) -> Any:
    """Return what has to be the same in two worlds."""
    if isinstance(value, dict):
        return {name: shown(part, leave_out) for name, part in value.items() if name not in leave_out}
    if not isinstance(value, list):
        return value
    return [shown(part, leave_out) for part in value if not _is_hidden(part)]


def _is_hidden(part: Any) -> bool:
    if isinstance(part, list):
        return part[:1] == ["agent_hidden"]
    return isinstance(part, dict) and part.get("event") == "agent_hidden"


# -- long stories, without sockets ---------------------------------------------------------------------------------

#: Steps of all stories together: what happens, what is asked, and changes of rights; half of them for each kind.
STEPS = int(os.environ.get("FUZZ_STEPS") or 1500)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", KINDS)
def test_in_long_stories_with_changing_rights_no_client_is_given_what_is_not_its_own(
    kind: Kind, results_server: RedisServer, record_property: Callable[[str, object], None]
) -> None:
    seed = os.environ.get("FUZZ_SEED") or (random.SystemRandom().randrange(10**9) if "FUZZ_STEPS" in os.environ else 1)
    outcome = Outcome(kind, seed)
    try:
        tell_many(results_server.fresh_url, STEPS // len(KINDS), outcome)
    finally:
        record_property(RECORDED, str(outcome))
    assert not outcome.failures, "\n\n".join(outcome.failures)
    assert outcome.steps.total() >= STEPS // len(KINDS)
