"""RabbitMQ alone, and no Redis, not even the package: everything comes live, and nothing is remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_realtime import Realtime
from tests.client_recorder import Heard, Recorder
from tests.integration import jobs
from tests.integration.stage import new_project, producing
from tests.launcher import Launcher
from tests.node_client import Follower as NodeFollower
from tests.processes import ROOT, WebServer
from tests.race_followers import FOLLOWERS, Follower
from tests.services import Broker, RabbitMQServer
from tests.variants import long_unless
from tests.waiting import wait_for
from tests.web_servers import Web

SERVERS = {"sync": "tests.integration.jobs_web", "asgi": "tests.integration.asgi_web"}

#: What a subscription is answered where nothing is remembered.
NOTHING_KNOWN: dict[str, Any] = {
    "epoch": None,
    "offset": None,
    "recovered": False,
    "jobs": [],
    "events": [],
    "workflows": [],
}

QUEUED, RUNNING, SUCCESS = ("queued", "PENDING", 0), ("running", "STARTED", 0), ("success", "SUCCESS", 0)


@dataclass(frozen=True)
class Place:
    """A RabbitMQ, and a worker on it; no process of it can import ``redis``.

    Args:
        broker: The broker, whose result backend is none of Redis.
        env: Of all processes.
    """

    broker: Broker
    env: dict[str, str]

    def web(self, launcher: Launcher, kind: str) -> WebServer:
        """Start a web server of the launcher's."""
        return launcher.web(SERVERS[kind], env=self.env)


@dataclass(frozen=True)
class Scene:
    """One of the web servers, and a project of the test's own.

    Args:
        launcher: Connects the clients.
        web: The web server.
        project: The project.
    """

    launcher: Launcher
    web: WebServer
    project: str

    @property
    def token(self) -> str:
        return jobs.realtime.issue_token("ada", [self.project])

    def connect(self) -> Recorder:
        """Connect a client of a user who may see the project."""
        return self.launcher.connect(self.web.url, token=self.token)

    def watch(self) -> Recorder:
        """Connect a client, and subscribe it."""
        client = self.connect()
        assert client.subscribe(self.project)["ok"] is True
        return client

    def start(self, task: Any, *args: Any) -> str:
        """Publish a job of the project, and return its id."""
        return start(self.project, task, *args)


def start(project: str, task: Any, *args: Any) -> str:
    return str(task.apply_async(args, headers={"project_id": project}).id)


#: What has no result backend at all has nothing more to tell than one that nobody can ask.
@pytest.fixture(params=long_unless(["rpc://"], ["rpc://", "disabled"]), scope="module")
def place(
    request: pytest.FixtureRequest,
    module_launcher: Launcher,
    rabbitmq_server: RabbitMQServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Place]:
    rabbitmq_server.ensure_running()
    absent: Any = None
    broker = Broker("rabbitmq", rabbitmq_server, rabbitmq_server.fresh_url(), absent, request.param)
    env = {
        **broker.env,
        "HISTORY": "off",
        "PROGRESS_INTERVAL": "0",
        "PYTHONPATH": f"{_no_redis(tmp_path_factory)}:{ROOT}",
    }
    with producing(broker, history_url=None):
        module_launcher.worker("tests.integration.jobs", env=env)
        yield Place(broker, env)
    for process in module_launcher.processes:
        assert "redis" not in process.log.lower()


def _no_redis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder before which ``redis`` is not found."""
    folder = tmp_path_factory.mktemp("absent")
    (folder / "redis.py").write_text('raise ImportError("it is not installed")\n')
    return folder


@pytest.fixture(params=SERVERS, scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def web(place: Place, module_launcher: Launcher, kind: str) -> WebServer:
    return place.web(module_launcher, kind)


@pytest.fixture
def scene(launcher: Launcher, web: WebServer) -> Scene:
    return Scene(launcher, web, new_project())


def told_of(told: list[Heard] | list[tuple[str, Any]], job_id: str) -> list[tuple[str, Any]]:
    """Return what was told of one job, custom events included."""
    return [(event, data) for event, data in told if (data.get("_realtime") or data).get("job_id") == job_id]


def states(told: list[tuple[str, Any]]) -> list[tuple[str, str, int]]:
    """Return the statuses that were told, in no order: the producer tells of the first, and a worker of the others."""
    return sorted((data["status"], data["state"], data["attempt"]) for event, data in told if event == "agent_status")


def hear_all(client: Recorder, job_id: str, count: int) -> list[tuple[str, Any]]:
    """Wait for so many statuses of a job, and return all that was told of it."""
    client.wait_for_end(job_id)
    client.wait(lambda events: len(states(told_of(events, job_id))) >= count)
    return told_of(client.events, job_id)


def hears(client: Recorder, project: str) -> bool:
    """Say something to a project, and tell whether a client has heard the like."""
    jobs.realtime.manager.emit_to_project(project, "knock", {})
    return bool(client.of("knock"))


# -- live ---------------------------------------------------------------------------------------------------------


def test_a_job_is_heard_from_beginning_to_end(scene: Scene) -> None:
    client = scene.watch()

    told = hear_all(client, job := scene.start(jobs.count, 4, 0.02), 3)

    assert states(told) == sorted([QUEUED, RUNNING, SUCCESS])
    assert client.wait_for_end(job)["result"] == {"counted": 4}
    percentages = [data["progress"] for event, data in told if event == "agent_progress"]
    assert percentages == sorted(set(percentages))
    assert percentages[-1] == 100


def test_a_custom_event_is_heard(scene: Scene) -> None:
    client = scene.watch()

    job = scene.start(jobs.announce, "hello")

    line = client.wait_for_event("line", text="hello")
    assert line["_realtime"] == {"job_id": job, "project_id": scene.project}
    hear_all(client, job, 3)
    assert len(client.of("line")) == 1


def test_a_failing_job_says_why(scene: Scene) -> None:
    client = scene.watch()

    told = hear_all(client, job := scene.start(jobs.fail), 3)

    assert states(told) == sorted([QUEUED, RUNNING, ("error", "FAILURE", 0)])
    assert client.wait_for_end(job)["error"] == "ValueError: nothing works"
    assert [data["progress"] for event, data in told if event == "agent_progress"] == [40]


def test_a_retry_is_queued_again(scene: Scene) -> None:
    client = scene.watch()

    told = hear_all(client, scene.start(jobs.retry, 2), 7)

    again = [("queued", "RETRY", 1), ("running", "STARTED", 1), ("queued", "RETRY", 2), ("running", "STARTED", 2)]
    assert states(told) == sorted([QUEUED, RUNNING, *again, ("success", "SUCCESS", 2)])


def test_no_event_has_a_place_in_a_history(scene: Scene) -> None:
    client = scene.watch()
    hear_all(client, scene.start(jobs.count, 2, 0), 3)
    hear_all(client, scene.start(jobs.announce, "hello"), 3)

    for _, data in client.events:
        assert not {"epoch", "offset"} & {*data, *data.get("_realtime", {})}


def test_a_large_number_of_events_of_many_jobs_all_come(scene: Scene) -> None:
    client = scene.watch()

    started = [scene.start(jobs.babble, 50, 0) for _ in range(10)]

    for job in started:
        told = hear_all(client, job, 3)
        assert states(told) == sorted([QUEUED, RUNNING, SUCCESS])
        assert [data["number"] for event, data in told if event == "line"] == [n for n in range(50) if n % 5]


def test_whoever_subscribes_to_one_job_hears_that_and_no_other(scene: Scene) -> None:
    witness, client = scene.watch(), scene.connect()
    handle = jobs.realtime.handle(jobs.count, (4, 0.02), project_id=scene.project)

    answer = client.call("subscribe_job", {"job_id": handle.job_id, "project_id": scene.project})
    hear_all(witness, scene.start(jobs.add, 1, 2), 3)
    handle.publish()
    told = hear_all(client, handle.job_id, 3)

    assert (answer["ok"], answer["recovered"], answer["events"]) == (True, False, [])
    assert states(told) == sorted([QUEUED, RUNNING, SUCCESS])
    assert told == [tuple(one) for one in client.events]


# -- nothing is remembered ----------------------------------------------------------------------------------------


def test_a_subscription_tells_nothing_of_what_was(scene: Scene) -> None:
    witness = scene.watch()
    hear_all(witness, scene.start(jobs.add, 1, 2), 3)

    answer = scene.connect().subscribe(scene.project)

    assert answer["ok"] is True
    assert answer["project_id"] == scene.project
    assert {name: answer[name] for name in NOTHING_KNOWN} == NOTHING_KNOWN


@pytest.mark.parametrize("offset", [0, 41])
def test_a_client_that_asks_for_what_it_missed_learns_that_it_has_missed_something(scene: Scene, offset: int) -> None:
    client = scene.connect()

    answer = client.subscribe(scene.project, since={"epoch": "k3f9", "offset": offset})

    assert answer["ok"] is True
    assert {name: answer[name] for name in NOTHING_KNOWN} == NOTHING_KNOWN
    hear_all(client, scene.start(jobs.add, 1, 2), 3)


def test_whoever_asks_for_no_acknowledgement_hears_nothing_old_and_everything_new(scene: Scene) -> None:
    hear_all(scene.watch(), scene.start(jobs.add, 1, 2), 3)
    client = scene.connect()

    client.emit("subscribe_project", {"project_id": scene.project})
    wait_for(lambda: hears(client, scene.project))
    job = scene.start(jobs.add, 3, 4)
    told = hear_all(client, job, 3)

    assert states(told) == sorted([QUEUED, RUNNING, SUCCESS])
    assert {data["job_id"] for data in client.of("agent_status")} == {job}
    assert not any("replayed" in data for _, data in client.events)


def test_a_handle_says_no_place_and_its_job_is_heard_by_who_subscribes_first(scene: Scene) -> None:
    handle = jobs.realtime.handle(jobs.add, (1, 2), project_id=scene.project)
    client = scene.watch()

    handle.publish()

    assert handle.since is None
    assert jobs.realtime.manager.position(scene.project) is None
    assert states(hear_all(client, handle.job_id, 3)) == sorted([QUEUED, RUNNING, SUCCESS])


# -- coming back --------------------------------------------------------------------------------------------------


def drop(scene: Scene, follower: Any) -> None:
    follower.drop()


def restart(scene: Scene, follower: Any) -> None:
    scene.web.kill()
    scene.web.start()


BREAKS = pytest.mark.parametrize("break_it", [drop, restart], ids=["its connection", "the web server"])


@BREAKS
@pytest.mark.parametrize("make", FOLLOWERS.values(), ids=[f"in {name}" for name in FOLLOWERS])
def test_a_python_client_that_comes_back_goes_on_with_what_comes(
    scene: Scene, make: Callable[..., Follower], break_it: Callable[[Scene, Any], None], tmp_path: Path
) -> None:
    follower = make(scene.web.url, scene.token, scene.project, reconnection=True)
    follower.come()
    wait_for(lambda: follower.feed.state == "subscribed")
    ended, held = scene.start(jobs.announce, "early"), scene.start(jobs.hold, str(tmp_path / "go"))
    wait_for(lambda: statuses_of(follower, ended, held) == ["success", "running"])

    break_it(scene, follower)
    wait_for(lambda: follower.states[-2:] == ["stale", "subscribed"])
    assert statuses_of(follower, ended, held) == ["success", "running"]
    (tmp_path / "go").touch()
    later = scene.start(jobs.announce, "late")
    wait_for(lambda: statuses_of(follower, ended, held, later) == ["success"] * 3)

    wait_for(lambda: len(states(told_of(follower.told, later))) == 3)
    follower.leave()
    for job in (ended, held, later):
        assert states(told_of(follower.told, job)) == sorted([QUEUED, RUNNING, SUCCESS])
    assert [data["text"] for event, data in follower.told if event == "line"] == ["early", "late"]
    assert (follower.feed.epoch, follower.feed.offset) == (None, None)


def statuses_of(follower: Follower, *job_ids: str) -> list[str]:
    known = dict(follower.feed.jobs)
    return [known[job_id]["status"] if job_id in known else "" for job_id in job_ids]


@BREAKS
def test_a_page_that_comes_back_goes_on_with_what_comes(
    scene: Scene, break_it: Callable[[Scene, Any], None], tmp_path: Path
) -> None:
    folder = scene.launcher.folder
    page = scene.launcher.start(NodeFollower(scene.web.url, scene.token, scene.project, folder=folder, name="page"))
    page.wait(lambda _: page.state == "subscribed")
    ended, held = scene.start(jobs.announce, "early"), scene.start(jobs.hold, str(tmp_path / "go"))
    page.wait(lambda events: page_has(page, {ended: "success", held: "running"}))

    break_it(scene, page)
    page.wait(
        lambda events: [data["state"] for event, data in events if event == "state"][-2:] == ["stale", "subscribed"]
    )
    assert page_has(page, {ended: "success", held: "running"})
    (tmp_path / "go").touch()
    later = scene.start(jobs.announce, "late")
    page.wait(lambda events: page_has(page, {ended: "success", held: "success", later: "success"}))

    page.wait(lambda events: len(states(told_of(told(events), later))) == 3)
    for job in (ended, held, later):
        assert states(told_of(told(page.events), job)) == sorted([QUEUED, RUNNING, SUCCESS])
    assert [data["text"] for event, data in told(page.events) if event == "line"] == ["early", "late"]


def told(events: list[Heard]) -> list[Heard]:
    return [one for one in events if one.event in ("agent_status", "agent_progress", "line")]


def page_has(page: NodeFollower, expected: dict[str, str]) -> bool:
    return {job_id: job["status"] for job_id, job in page.jobs().items()} == expected


# -- without a subscription ---------------------------------------------------------------------------------------


def test_a_lone_client_that_another_process_registers_hears_the_project(
    place: Place, kind: str, launcher: Launcher
) -> None:
    web, project = place.web(launcher, kind), new_project()
    client = launcher.connect(web.url, token=jobs.realtime.issue_token("ada", []))
    other = Realtime(Celery("other", broker=place.broker.url, set_as_current=False), history_url=None)

    other.manager.register_client_for_project(project, client.sio.get_sid())
    wait_for(lambda: hears(client, project))
    told = hear_all(client, start(project, jobs.retry, 1), 5)

    other.manager.unregister_client_for_project(project, client.sio.get_sid())
    other.manager.close()
    assert len(states(told)) == 5


@pytest.mark.parametrize("server", ["sync", "flask", "asgi"])
def test_a_lone_client_that_its_own_web_server_registers_hears_the_project(place: Place, server: Any) -> None:
    project = new_project()
    web = Web(server, place.broker.url).attach().start()
    client = web.connect(web.token(projects=[]))

    web.realtime.manager.register_client_for_project(project, client.sio.get_sid())
    wait_for(lambda: hears(client, project))
    told = hear_all(client, start(project, jobs.retry, 1), 5)
    web.realtime.manager.unregister_client_for_project(project, client.sio.get_sid())

    web.stop()
    assert len(states(told)) == 5
    assert web.handlers.clients() == {}
