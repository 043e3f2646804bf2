"""One story, played on every host and in every pool: what a browser does, sees, and must not see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.integration.stage import new_project
from tests.launcher import Launcher
from tests.waiting import wait_for

LINES = [1, 2, 3, 4]


@dataclass(frozen=True)
class Scene:
    """Where the story is played.

    Args:
        launcher: Connects the clients.
        url: The web server's address.
        queue: The queue of a worker of ``tests.integration.jobs``.
    """

    launcher: Launcher
    url: str
    queue: str = "celery"

    def token(self, *projects: str) -> str:
        """Return a token of a user who may see these projects."""
        return jobs.realtime.issue_token("ada", projects)

    @contextmanager
    def client(self, *projects: str, **options: Any) -> Iterator[Recorder]:
        """Connect a client of a user who may see these projects."""
        client = self.launcher.connect(self.url, token=self.token(*projects), **options)
        try:
            yield client
        finally:
            client.close()

    @contextmanager
    def watcher(self, project: str, **options: Any) -> Iterator[Recorder]:
        """Connect a client, and subscribe it to a project."""
        with self.client(project, **options) as client:
            assert client.subscribe(project)["ok"] is True
            yield client

    def start(self, project: str, task: Any, *args: Any) -> str:
        """Publish a job of a project, and return its id."""
        return str(task.apply_async(args, queue=self.queue, headers={"project_id": project}).id)


def play(scene: Scene) -> None:
    """Play the whole story."""
    for chapter in (
        strangers_stay_outside,
        foreign_projects_stay_closed,
        a_job_is_heard_from_beginning_to_end,
        a_failing_job_says_why,
        a_retry_is_queued_again,
        who_comes_back_is_told_what_it_missed,
        who_unsubscribes_hears_no_more,
        who_only_polls_hears_the_same,
    ):
        chapter(scene)


def strangers_stay_outside(scene: Scene) -> None:
    for auth in (None, {"token": "let me in"}):
        client = Recorder()
        client.sio.connect(scene.url, auth=auth, wait=False)  # who waits for its refusal waits for a goodbye too
        refusal = wait_for(lambda client=client: client.refusals)[0]
        client.close()
        assert refusal["data"]["code"] == "unauthorized"
        assert client.connects == 0


def foreign_projects_stay_closed(scene: Scene) -> None:
    mine, foreign = new_project(), new_project()
    with scene.watcher(foreign) as insider, scene.client(mine) as client:
        answer = client.subscribe(foreign)
        assert (answer["ok"], answer["error"]["code"]) == (False, "forbidden")
        insider.wait_for_end(scene.start(foreign, jobs.add, 1, 2))
        assert client.subscribe(mine)["ok"] is True  # whatever was sent to it has come with this answer
        assert [heard.event for heard in client.events] == ["error"]


def a_job_is_heard_from_beginning_to_end(scene: Scene, **options: Any) -> None:
    project = new_project()
    with scene.watcher(project, **options) as client:
        assert client.sio.transport() == options.get("transports", ["websocket"])[0]
        job = scene.start(project, jobs.babble, 6, 0.04)
        assert client.wait_for_end(job)["result"] == 6
        told = whole_history(client)
    assert states(told, job) == [("queued", "PENDING", 0), ("running", "STARTED", 0), ("success", "SUCCESS", 0)]
    assert [data["number"] for event, data in told if event == "line"] == LINES
    percentages = [data["progress"] for event, data in told if event == "agent_progress"]
    assert percentages == sorted(percentages)
    assert 83 < percentages[-1] < 84


def a_failing_job_says_why(scene: Scene) -> None:
    project = new_project()
    with scene.watcher(project) as client:
        job = scene.start(project, jobs.fail)
        end = client.wait_for_end(job)
        told = whole_history(client)
    assert (end["status"], end["state"], end["error"]) == ("error", "FAILURE", "ValueError: nothing works")
    assert [data["progress"] for event, data in told if event == "agent_progress"] == [40]


def a_retry_is_queued_again(scene: Scene) -> None:
    project = new_project()
    with scene.watcher(project) as client:
        job = scene.start(project, jobs.retry, 1)
        assert client.wait_for_end(job)["attempt"] == 1
        told = whole_history(client)
    assert states(told, job) == [
        *[("queued", "PENDING", 0), ("running", "STARTED", 0)],
        *[("queued", "RETRY", 1), ("running", "STARTED", 1)],
        ("success", "SUCCESS", 1),
    ]


def who_comes_back_is_told_what_it_missed(scene: Scene) -> None:
    project = new_project()
    with scene.watcher(project) as witness:
        with scene.watcher(project) as client:
            client.wait_for_end(scene.start(project, jobs.babble, 2, 0))
            heard = whole_history(client)
        missed = witness.wait_for_end(scene.start(project, jobs.babble, 6, 0.04))
        with scene.client(project) as client:
            answer = client.subscribe(project, since=position(heard[-1][1]))
            later = client.wait_for_end(scene.start(project, jobs.add, 1, 2))
        everything = whole_history(witness, later["offset"])
    assert answer["recovered"] is True
    assert answer["events"][-1] == {"event": "agent_status", "data": missed}
    replayed = [(one["event"], one["data"]) for one in answer["events"]]
    assert [*heard, *replayed] == everything[: missed["offset"]]


def who_unsubscribes_hears_no_more(scene: Scene) -> None:
    project = new_project()
    with scene.watcher(project) as witness, scene.watcher(project) as client:
        client.wait_for_end(scene.start(project, jobs.add, 1, 2))
        assert client.call("unsubscribe_project", {"project_id": project}) == {"ok": True}
        client.clear()
        witness.wait_for_end(scene.start(project, jobs.add, 3, 4))
        assert client.subscribe(project)["ok"] is True  # whatever was sent to it has come with this answer
        assert client.events == []


def who_only_polls_hears_the_same(scene: Scene) -> None:
    a_job_is_heard_from_beginning_to_end(scene, transports=["polling"])


# -- what was heard -----------------------------------------------------------------------------------------------


def whole_history(client: Recorder, until: int | None = None) -> list[tuple[str, Any]]:
    """Wait until a client has heard everything up to an offset, by default its last; return it by offset.

    The producer and the workers tell, and each sends for itself: arrival has no order.
    """

    def complete() -> list[tuple[str, Any]]:
        told = sorted(client.events, key=lambda heard: offset(heard.data))
        last = until or offset(told[-1].data)
        return [tuple(one) for one in told] if [offset(one.data) for one in told] == [*range(1, last + 1)] else []

    return wait_for(complete, message="there is a hole in what the client heard")


def states(told: list[tuple[str, Any]], job_id: str) -> list[tuple[str, str, int]]:
    """Return the statuses of a job, with Celery's word and the attempt."""
    return [
        (data["status"], data["state"], data["attempt"])
        for event, data in told
        if event == "agent_status" and data["job_id"] == job_id
    ]


def position(data: dict[str, Any]) -> dict[str, Any]:
    """Return where an event stands in its project."""
    place = data.get("_realtime", data)
    return {"epoch": place["epoch"], "offset": place["offset"]}


def offset(data: dict[str, Any]) -> int:
    return int(position(data)["offset"])
