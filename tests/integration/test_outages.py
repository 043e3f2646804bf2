"""When the way to the broker breaks, no task notices, and no status is lost. How fast tasks are, benchmarks show.

Events travel through a proxy that breaks. Celery's own broker and the result backend stay as they are: tasks run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery.result import AsyncResult

from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.launcher import Brokers, Launcher
from tests.proxy import Proxy
from tests.services import RabbitMQServer
from tests.waiting import wait_for

STATES = ["PENDING", "STARTED", "SUCCESS"]


class Scene:
    """A worker and a producer behind a proxy, and a web server and a client before it.

    Args:
        launcher: Starts the processes.
        brokers: Makes brokers.
        kind: What the events travel over.
        pool: The worker's.
        web_behind: Whether the web server is behind the proxy too.
    """

    def __init__(self, launcher: Launcher, brokers: Brokers, kind: str, pool: str, *, web_behind: bool = False) -> None:
        self.broker = brokers.make("redis")
        self.channel = brokers.make(kind)
        self.proxy = Proxy(self.channel.url)
        self.stage = Stage(
            launcher,
            self.broker,
            env={"PROGRESS_INTERVAL": "0", "REALTIME_URL": self.proxy.url if web_behind else self.channel.url},
            worker_env={"REALTIME_URL": self.proxy.url},
            pool=pool,
            concurrency=1 if pool == "prefork" else 2,
        )

    def producing(self) -> Any:
        """Let this process publish tasks, and tell of them through the proxy."""
        return producing(self.broker, url=self.proxy.url)


def run(project: str) -> AsyncResult[Any]:
    """Publish a task that reports a thousand times."""
    return jobs.chatter.apply_async(headers={"project_id": project})


def ends(result: AsyncResult[Any]) -> AsyncResult[Any]:
    """Wait until a task has ended.

    It would be late if each of its reports waited for the broker, even for some hundredths of a second.
    """
    result.get(timeout=60)
    return result


SCENES = [
    ("redis", "prefork"),
    ("rabbitmq", "prefork"),
    ("redis", "threads"),
    ("rabbitmq", "gevent"),
    ("redis", "eventlet"),
]


#: One for threads and one for greenlets that send, and both brokers.
SHOWN = [("redis", "prefork"), ("rabbitmq", "gevent")]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(scene, id="-".join(scene), marks=[] if scene in SHOWN else pytest.mark.long) for scene in SCENES
    ],
)
def scene(request: pytest.FixtureRequest, module_launcher: Launcher, brokers: Brokers) -> Iterator[Scene]:
    scene = Scene(module_launcher, brokers, *request.param)
    with scene.proxy, scene.producing():
        yield scene
        scene.proxy.resume()


def all_told(client: Recorder, *job_ids: str) -> None:
    """Wait until everything of a project has come, and check that it is told once and in order."""
    for job_id in job_ids:
        client.wait_for_end(job_id)
    wait_for(lambda: offsets(client) == list(range(1, len(offsets(client)) + 1)), message="a hole stays")
    for job_id in job_ids:
        events = sorted(client.for_job(job_id), key=lambda one: place(one.data))
        assert [one.data["state"] for one in events if one.event == "agent_status"] == STATES
        assert [one.data["number"] for one in events if one.event == "line"] == list(range(0, 1000, 100))
        progress = [one.data["progress"] for one in events if one.event == "agent_progress"]
        assert progress == sorted(progress)
        assert progress[-1] == 99.9


def offsets(client: Recorder) -> list[int]:
    return sorted(place(data) for _, data in list(client.events))


def place(data: dict[str, Any]) -> int:
    return int(data.get("_realtime", data)["offset"])


@pytest.mark.parametrize(
    "outage", [Proxy.refuse, Proxy.black_hole, Proxy.stall], ids=["killed", "black hole", "stalled"]
)
def test_in_an_outage_tasks_go_on_and_after_it_everything_arrives(
    scene: Scene, outage: Callable[[Proxy], None]
) -> None:
    project = new_project()
    with scene.stage.watch(project) as client:
        before = [ends(run(project)) for _ in range(2)]

        outage(scene.proxy)
        during = [ends(task) for task in [run(project) for _ in range(3)]]
        scene.proxy.heal()
        after = run(project)

        all_told(client, *(task.id for task in (*before, *during, after)))


def test_a_web_server_that_was_cut_off_passes_on_what_it_missed(launcher: Launcher, brokers: Brokers) -> None:
    scene = Scene(launcher, brokers, "rabbitmq", "prefork", web_behind=True)
    project = new_project()
    with scene.proxy, producing(scene.broker, url=scene.channel.url), scene.stage.watch(project) as client:
        first = run(project)
        client.wait_for_end(first.id)

        scene.proxy.stall()
        second = ends(run(project))
        scene.proxy.heal()

        all_told(client, first.id, second.id)
        assert client.disconnects == 0


def test_a_redis_that_is_paused_stops_no_task(
    launcher: Launcher, brokers: Brokers, start_redis: Callable[..., Any]
) -> None:
    channel, broker, project = start_redis(), brokers.make("redis"), new_project()
    with producing(broker, url=channel.url()):
        env = {"PROGRESS_INTERVAL": "0", "REALTIME_URL": channel.url()}
        stage = Stage(launcher, broker, env=env, concurrency=1)
        with stage.watch(project) as client:
            healthy = ends(run(project))

            channel.pause()
            paused = ends(run(project))
            channel.resume()

            all_told(client, healthy.id, paused.id)


def test_in_a_memory_alarm_no_task_is_stopped_and_nothing_is_lost_or_doubled(
    launcher: Launcher, brokers: Brokers, own_rabbitmq_server: RabbitMQServer
) -> None:
    scene = Scene(launcher, brokers, "own_rabbitmq", "prefork")
    project = new_project()
    with scene.proxy, scene.producing(), scene.stage.watch(project) as client:
        first = ends(run(project))
        own_rabbitmq_server.set_memory_alarm(True)
        try:
            during = [ends(task) for task in [run(project) for _ in range(3)]]
        finally:
            own_rabbitmq_server.set_memory_alarm(False)
        all_told(client, first.id, *(task.id for task in during))


def test_without_a_history_a_memory_alarm_doubles_nothing_either(
    launcher: Launcher, brokers: Brokers, own_rabbitmq_server: RabbitMQServer
) -> None:
    broker, channel, project = brokers.make("redis"), brokers.make("own_rabbitmq"), new_project()
    env = {"PROGRESS_INTERVAL": "0", "REALTIME_URL": channel.url, "HISTORY": "off"}
    with producing(broker, url=channel.url, history_url=None):
        stage = Stage(launcher, broker, env=env, concurrency=1)
        with stage.watch(project) as client:
            jobs.chatter.apply_async(headers={"project_id": project}).get(timeout=60)
            own_rabbitmq_server.set_memory_alarm(True)
            try:
                result = jobs.chatter.apply_async(headers={"project_id": project})
                result.get(timeout=60)
            finally:
                own_rabbitmq_server.set_memory_alarm(False)
            client.wait_for_end(result.id)
            lines = [data["number"] for data in client.of("line") if data["_realtime"]["job_id"] == result.id]
            assert lines == list(range(0, 1000, 100))
            # Its producer was blocked too. Without a history, a `queued` that comes too late is left out.
            assert client.statuses(result.id) in (["queued", "running", "success"], ["running", "success"])


def test_thirty_two_threads_of_a_task_emit_at_once_and_nothing_is_lost(launcher: Launcher, brokers: Brokers) -> None:
    scene = Scene(launcher, brokers, "rabbitmq", "prefork")
    project = new_project()
    with scene.proxy, scene.producing(), scene.stage.watch(project) as client:
        result = jobs.chatter_in_threads.apply_async(headers={"project_id": project})
        client.wait_for_end(result.id)
        wait_for(lambda: len(client.of("spoken")) >= 32 * 50)
        spoken = sorted(client.of("spoken"), key=place)
    for speaker in range(32):
        assert [data["number"] for data in spoken if data["speaker"] == speaker] == list(range(50))
