"""However a process ends, all that it was given to say is heard, and a broker that is away delays its end little."""

from __future__ import annotations

import contextlib
import itertools
import signal
import socket
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from celery_realtime.web.delivery import Emit
from tests.channels import every_room
from tests.integration import farewell_jobs, jobs
from tests.integration.farewell_scripts import LINES
from tests.integration.stage import new_project, producing
from tests.integration.test_jobs import start
from tests.launcher import Launcher
from tests.processes import HOST, ManagedProcess, Worker, free_port, python_path
from tests.proxy import Proxy
from tests.services import BROKERS, Broker
from tests.variants import any_broker, long_unless
from tests.waiting import PATIENCE, wait_for

SPEECH = list(range(LINES))
STATES = ["PENDING", "STARTED", "SUCCESS"]
WORKER_APP = "tests.integration.farewell_jobs"

#: Progress that comes at once is held back for so long, unless the end of its job takes it along.
HELD_BACK = {"PROGRESS_INTERVAL": "60"}

#: How long a process waits at its end for a broker that is away. It would wait for ever otherwise.
FLUSH_TIMEOUT = 2.0


class Ear:
    """Hears all that is said over a broker.

    Args:
        url: The broker.
    """

    def __init__(self, url: str) -> None:
        self.heard: list[tuple[str, Any]] = []
        self._manager = every_room(url)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        assert self._manager.wait_until_listening(60)

    def _listen(self) -> None:
        for items in self._manager.reader.read():
            self.heard += [(item.event, item.data) for item in items if isinstance(item, Emit)]

    def close(self) -> None:
        self._manager.stop_listening()
        self._thread.join(60)
        self._manager.close()
        assert not self._thread.is_alive()

    def lines(self, project: str, job_id: str | None = None) -> list[int]:
        """Return the numbers that were said to a project, by one job or by anybody, in the order in which they came."""
        return [
            data["number"]
            for event, data in list(self.heard)
            if event == "line"
            and data["_realtime"]["project_id"] == project
            and job_id in (None, data["_realtime"]["job_id"])
        ]

    def wait_for_lines(self, project: str, count: int, job_id: str | None = None) -> None:
        wait_for(lambda: len(self.lines(project, job_id)) >= count, message="not all lines came")

    def offsets(self, project: str) -> list[int]:
        """Return the places of all that was said to a project, in its history's order."""
        told = [data.get("_realtime", data) for _, data in list(self.heard)]
        return sorted(place["offset"] for place in told if place["project_id"] == project)

    def of_job(self, event: str, job_id: str) -> list[dict[str, Any]]:
        """Return what was said of a job; arrival has no order, since several processes tell."""
        told = [data for name, data in list(self.heard) if name == event and data["job_id"] == job_id]
        return sorted(told, key=lambda data: int(data["offset"]))

    def states(self, job_id: str) -> list[str]:
        return [data["state"] for data in self.of_job("agent_status", job_id)]

    def wait_for_state(self, job_id: str, state: str, *, timeout: float = PATIENCE) -> dict[str, Any]:
        def told() -> list[dict[str, Any]]:
            return [data for data in self.of_job("agent_status", job_id) if data["state"] == state]

        return wait_for(told, timeout=timeout)[0]


@pytest.fixture
def ear(broker: Broker) -> Iterator[Ear]:
    with contextlib.closing(Ear(broker.url)) as ear, producing(broker):
        yield ear


def run_script(launcher: Launcher, broker: Broker, name: str, project: str, **env: str) -> ManagedProcess:
    return launcher.start(
        ManagedProcess(
            [sys.executable, "-m", "tests.integration.farewell_scripts", name, project],
            folder=launcher.folder,
            name=f"{name}-{project}",
            env={**python_path(), **broker.env, **env},
            forks="prefork",
        )
    )


def ended(process: ManagedProcess, *, timeout: float = PATIENCE) -> int:
    wait_for(lambda: not process.running, timeout=timeout, message=f"{process.name} does not end")
    code = process.returncode
    assert code is not None
    return code


def said_all(ear: Ear, job_id: str, project: str) -> None:
    """Check that a job was heard from its first word to its last."""
    ear.wait_for_state(job_id, "SUCCESS")
    ear.wait_for_lines(project, LINES, job_id)
    assert ear.lines(project, job_id) == SPEECH
    assert ear.states(job_id) == STATES
    last = ear.of_job("agent_progress", job_id)[-1]
    assert (last["progress"], last["message"]) == (99, "last words")


def nothing_is_missing(ear: Ear, project: str) -> None:
    """Check that all that is on record of a project was heard, each once."""
    assert ear.offsets(project) == list(range(1, len(ear.offsets(project)) + 1))


# -- workers ------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_asked_to_end_while_a_job_runs_tells_of_all_that_the_job_says_by_then(
    start_worker: Callable[..., Worker], broker: Broker, ear: Ear, tmp_path: Path
) -> None:
    project = new_project()
    worker = start_worker(WORKER_APP, broker=broker, env=HELD_BACK, concurrency=1)
    job = start(farewell_jobs.speak_late, str(tmp_path / "go"), LINES, project=project)
    ear.wait_for_state(job, "STARTED")
    worker.send_signal(signal.SIGTERM)
    worker.wait_for_log(r"Warm shutdown")
    assert ear.lines(project) == []
    (tmp_path / "go").touch()
    assert ended(worker) == 0
    said_all(ear, job, project)
    nothing_is_missing(ear, project)


def test_children_that_end_with_their_first_job_tell_of_all_that_it_said(
    start_worker: Callable[..., Worker], broker: Broker, ear: Ear
) -> None:
    project = new_project()
    # As many children as jobs: Celery may take five seconds to replace one.
    start_worker(WORKER_APP, broker=broker, env=HELD_BACK, concurrency=3, options=("--max-tasks-per-child=1",))
    speakers = [start(farewell_jobs.speak, LINES, project=project) for _ in range(3)]
    for job in speakers:
        said_all(ear, job, project)
    where = {ear.wait_for_state(job, "SUCCESS")["result"] for job in speakers}
    assert len(where) == len(speakers)
    nothing_is_missing(ear, project)


def test_a_child_that_ends_while_the_broker_does_not_answer_waits_until_it_does(
    start_worker: Callable[..., Worker], redis_broker: Broker
) -> None:
    project = new_project()
    with (
        Proxy(redis_broker.url) as proxy,
        contextlib.closing(Ear(redis_broker.url)) as ear,
        producing(redis_broker),
    ):
        env = {**HELD_BACK, "REALTIME_URL": proxy.url}
        options = ("--max-tasks-per-child=1",)
        worker = start_worker(WORKER_APP, broker=redis_broker, env=env, concurrency=1, options=options)
        proxy.black_hole()
        job = start(farewell_jobs.speak, LINES, project=project)
        worker.wait_for_log(r"ForkPoolWorker-\d+\] the broker does not accept events")
        assert ear.states(job) == ["PENDING"]
        proxy.heal()
        said_all(ear, job, project)


needs_soft_shutdown = pytest.mark.skipif(
    tuple(map(int, version("celery").split(".")[:2])) < (5, 5), reason="soft shutdown came with Celery 5.5"
)


@needs_soft_shutdown
@any_broker  # workers end on both
def test_a_soft_shutdown_tells_of_jobs_that_end_in_time_and_of_all_that_others_say_until_they_are_cut_off(
    start_worker: Callable[..., Worker], broker: Broker, ear: Ear, tmp_path: Path
) -> None:
    project, *others = (new_project() for _ in range(3))
    ledgers = [tmp_path / "cut-off", tmp_path / "delivered-again"]
    env = {**HELD_BACK, "SOFT_SHUTDOWN": "1"}
    worker = start_worker(WORKER_APP, broker=broker, env=env, concurrency=3)
    in_time = start(farewell_jobs.speak_late, str(tmp_path / "go"), LINES, project=project)
    cut_off = start(farewell_jobs.speak_for_ever, str(ledgers[0]), project=others[0])
    again = start(farewell_jobs.speak_again, str(ledgers[1]), project=others[1])
    for job in (in_time, cut_off, again):
        ear.wait_for_state(job, "STARTED")
    worker.send_signal(signal.SIGQUIT)
    worker.wait_for_log(r"Initiating Soft Shutdown")
    (tmp_path / "go").touch()
    ended(worker)
    said_all(ear, in_time, project)
    for place, ledger in zip(others, ledgers, strict=True):
        accepted = len(ledger.read_text().split())
        assert accepted > 100
        ear.wait_for_lines(place, accepted)
        assert ear.lines(place)[:accepted] == list(range(accepted))
    assert ear.wait_for_state(cut_off, "LOST")["error"].startswith("WorkerShutdown")
    wait_for(lambda: ear.states(again) == ["PENDING", "STARTED", "PENDING"])
    start_worker(WORKER_APP, broker=broker, name="next")
    assert ear.wait_for_state(again, "SUCCESS")["worker"].startswith("next@")


# -- producers ----------------------------------------------------------------------------------------------------


def test_a_script_may_end_as_soon_as_it_has_published_a_job(launcher: Launcher, broker: Broker, ear: Ear) -> None:
    project = new_project()
    assert ended(run_script(launcher, broker, "publish", project)) == 0
    told = wait_for(lambda: list(ear.heard))
    assert [(event, data["project_id"], data["state"]) for event, data in told] == [
        ("agent_status", project, "PENDING")
    ]
    with farewell_jobs.celery.connection_for_read() as connection:
        assert connection.default_channel.queue_declare("celery", passive=True).message_count == 1


def test_a_job_whose_producer_is_gone_at_once_was_queued_first(
    launcher: Launcher, start_worker: Callable[..., Worker], broker: Broker, ear: Ear
) -> None:
    """The worker that starts it reports its publication too: the producer has not had the time to."""
    project = new_project()
    start_worker(WORKER_APP, broker=broker, concurrency=1)
    for _ in range(3):
        assert ended(run_script(launcher, broker, "vanish", project)) == 0

    def jobs_ended() -> list[str]:
        events = [data for name, data in list(ear.heard) if name == "agent_status" and data["project_id"] == project]
        return [data["job_id"] for data in events if data["state"] == "SUCCESS"]

    wait_for(lambda: len(jobs_ended()) == 3)
    # In the history: the producer may have stored its report and been gone before it was published.
    history = jobs.realtime.manager.history
    assert history is not None
    events = history.read(project, history.read(project).epoch, 0).events
    for job in jobs_ended():
        statuses = [event["data"] for event in events if event["event"] == "agent_status"]
        assert [status["state"] for status in statuses if status["job_id"] == job] == STATES


ENDS = [("crash", 1, "RuntimeError: unhandled"), ("leave", 3, "said all")]


@pytest.mark.parametrize(
    ("broker", "name", "code", "said"),
    long_unless(
        [("redis", *ENDS[0]), ("rabbitmq", *ENDS[1])],
        [(broker, *end) for broker, end in itertools.product(BROKERS, ENDS)],
    ),
    indirect=["broker"],
)
def test_a_script_that_ends_early_ends_as_it_wants_and_all_that_it_said_is_heard(
    launcher: Launcher, broker: Broker, ear: Ear, name: str, code: int, said: str
) -> None:
    project = new_project()
    script = run_script(launcher, broker, name, project)
    assert ended(script) == code
    ear.wait_for_lines(project, LINES)
    assert ear.lines(project) == SPEECH
    assert script.log.rstrip().endswith(said)


@any_broker  # scripts end on both
def test_all_that_a_web_server_says_before_it_is_interrupted_is_heard(
    launcher: Launcher, broker: Broker, ear: Ear
) -> None:
    project = new_project()
    web = launcher.web("tests.integration.farewell_web", broker=broker)
    with contextlib.suppress(OSError):  # the answer may not come any more
        urllib.request.urlopen(f"{web.url}/say/{project}", data=b"", timeout=60).close()
    assert ended(web) == 0
    ear.wait_for_lines(project, LINES)
    assert ear.lines(project) == SPEECH


# -- when the broker is away --------------------------------------------------------------------------------------


#: Each script is tried with one: what waits at its end does so in the same way.
SCHEMES = ["redis", "amqp"]


@pytest.fixture
def silent_broker(scheme: str) -> Iterator[str]:
    """The address of a broker that takes connections, and says nothing."""
    with socket.create_server((HOST, 0)) as server:
        yield f"{scheme}://{HOST}:{server.getsockname()[1]}/"


def without_broker(url: str) -> dict[str, str]:
    return {"REALTIME_URL": url, "FLUSH_TIMEOUT": str(FLUSH_TIMEOUT)}


@pytest.mark.parametrize("scheme", long_unless(["redis"], SCHEMES))
def test_a_script_ends_while_the_broker_refuses_connections_and_all_that_it_said_is_on_record(
    launcher: Launcher, redis_broker: Broker, scheme: str
) -> None:
    project = new_project()
    url = f"{scheme}://{HOST}:{free_port()}/"
    script = run_script(launcher, redis_broker, "leave", project, **without_broker(url))
    script.wait_for_log("said all")
    assert ended(script) == 3
    assert recorded(redis_broker, project, url) == SPEECH


@pytest.mark.parametrize("scheme", long_unless(["amqp"], SCHEMES))  # whose connections take the most steps
def test_a_script_ends_while_the_broker_does_not_answer_and_all_that_it_said_is_on_record(
    launcher: Launcher, redis_broker: Broker, silent_broker: str
) -> None:
    project = new_project()
    script = run_script(launcher, redis_broker, "crash", project, **without_broker(silent_broker))
    script.wait_for_log("said all")
    assert ended(script) == 1
    assert recorded(redis_broker, project, silent_broker) == SPEECH


@pytest.mark.parametrize("scheme", ["amqp"])
def test_a_worker_ends_while_the_broker_does_not_answer(
    start_worker: Callable[..., Worker], redis_broker: Broker, silent_broker: str
) -> None:
    worker = start_worker(WORKER_APP, broker=redis_broker, env=without_broker(silent_broker), concurrency=1)
    with producing(redis_broker, url=silent_broker, flush_timeout=0.0):
        result = farewell_jobs.speak.apply_async((LINES,), headers={"project_id": new_project()})
        assert result.get(timeout=60)
    worker.send_signal(signal.SIGTERM)
    assert ended(worker) == 0


def recorded(broker: Broker, project: str, url: str) -> list[int]:
    """Return the numbers that the history has of a project whose events go to a URL."""
    with producing(broker, url=url, flush_timeout=0.0):
        history = farewell_jobs.celery.realtime.manager.history
        epoch = history.position(project)["epoch"]
        missed = history.read(project, epoch, 0).events
    return [one["data"]["number"] for one in missed if one["event"] == "line"]
