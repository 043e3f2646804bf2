"""When a worker leaves, its jobs are shown as what becomes of them, at once: queued again, lost, or as they ended."""

from __future__ import annotations

import contextlib
import itertools
import signal
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import redis

from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.integration.test_jobs import start, states
from tests.launcher import Launcher
from tests.processes import Worker
from tests.services import Broker
from tests.variants import any_broker, long_unless
from tests.waiting import WaitTimeout, wait_for

#: Longer than any test here: no lease lapses.
LOST_AFTER = 600.0

CELERY = tuple(map(int, version("celery").split(".")[:2]))

has_soft_shutdown = CELERY >= (5, 5)

SHUTDOWNS = [
    pytest.param(
        {},
        id="cold",
        marks=pytest.mark.skipif(not has_soft_shutdown, reason="up to 5.4 Celery itself ends a job that is cut off"),
    ),
    pytest.param(
        {"SOFT_SHUTDOWN": "1"},
        id="soft",
        marks=pytest.mark.skipif(not has_soft_shutdown, reason="soft shutdown came with Celery 5.5"),
    ),
]


@pytest.fixture
def make_stage(launcher: Launcher, broker: Broker) -> Iterator[Callable[..., Stage]]:
    """Make a stage whose worker runs two jobs, and fetches no more than two others."""

    def make(pool: str, env: dict[str, str]) -> Stage:
        env = {"LOST_AFTER": str(LOST_AFTER), **env}
        return Stage(launcher, broker, pool=pool, env=env, options=("--prefetch-multiplier", "2"))

    with producing(broker):
        yield make


def wait_until_running(client: Recorder, *job_ids: str) -> None:
    for job_id in job_ids:
        client.wait_for_event("agent_status", job_id=job_id, status="running")


def next_worker(stage: Stage, path: Path) -> None:
    path.touch()
    stage.launcher.worker("tests.integration.jobs", broker=stage.broker, name="next", env={"LOST_AFTER": "600"})


@any_broker
@pytest.mark.parametrize("env", SHUTDOWNS)
def test_a_job_that_a_prefork_worker_gives_back_is_queued_again_and_one_that_it_drops_is_lost(
    make_stage: Callable[..., Stage], tmp_path: Path, env: dict[str, str]
) -> None:
    project, path = new_project(), tmp_path / "go"
    stage = make_stage("prefork", env)
    with stage.watch(project) as client:
        late = start(jobs.hold_late, str(path), 60.0, project=project)
        early = start(jobs.hold, str(path), 60.0, project=project)
        wait_until_running(client, late, early)
        waiting = start(jobs.add, 1, 2, project=project)
        stage.worker.wait_for_log(rf"{waiting}\] received")
        stage.worker.send_signal(signal.SIGQUIT)
        lost = client.wait_for_end(early)
        assert (lost["state"], lost["error"].partition(":")[0]) == ("LOST", "WorkerShutdown")
        client.wait(lambda _: states(client, late)[-1][:2] == ("queued", "PENDING"))
        stage.worker.stop()
        with stage.connect(project) as other:
            shown = {job["job_id"]: (job["status"], job["progress"]) for job in other.subscribe(project)["jobs"]}
        assert shown == {late: ("queued", None), early: ("error", 10), waiting: ("queued", None)}
        next_worker(stage, path)
        for job in (late, waiting):
            assert client.wait_for_end(job)["state"] == "SUCCESS"
        assert [state for _, state, _ in states(client, late)] == [
            *("PENDING", "STARTED", "PENDING", "STARTED", "SUCCESS")
        ]
        assert [state for _, state, _ in states(client, early)] == ["PENDING", "STARTED", "LOST"]


def cut_off(worker: Worker, how: str) -> None:
    if how == "by its application":
        jobs.celery.control.broadcast("cut_off")
    else:
        worker.send_signal(signal.SIGQUIT)


@pytest.mark.parametrize("how", ["by its application"] if has_soft_shutdown else ["by its application", "cold"])
@any_broker
def test_a_job_that_fails_with_a_worker_which_gives_nothing_back_is_shown_as_failed(
    make_stage: Callable[..., Stage], tmp_path: Path, how: str
) -> None:
    """Celery acknowledges the message of a job whose process it has killed, unless its task says otherwise."""
    project, path = new_project(), tmp_path / "go"
    stage = make_stage("prefork", {"LOST_AFTER": "5"})  # then it is said, if the worker could not in its last second
    with stage.watch(project) as client:
        failing = start(jobs.hold_late, str(path), 60.0, project=project)
        going_back = start(jobs.hold_or_go_back, str(path), 60.0, project=project)
        wait_until_running(client, failing, going_back)
        waiting = start(jobs.add, 1, 2, project=project)
        stage.worker.wait_for_log(rf"{waiting}\] received")
        cut_off(stage.worker, how)
        wait_for(lambda: not stage.worker.running)
        client.wait(lambda _: states(client, failing)[-1][1] == "FAILURE")
        client.wait(lambda _: states(client, going_back)[-1][0] == "queued")
        assert client.wait_for_end(failing)["error"].startswith("WorkerLostError")
        assert jobs.celery.AsyncResult(failing).state == "FAILURE"
        next_worker(stage, path)
        for job in (going_back, waiting):
            client.wait(lambda _, job=job: states(client, job)[-1][1] == "SUCCESS")
        assert states(client, failing)[-1][1] == "FAILURE"


@any_broker
def test_a_job_whose_task_gives_its_message_back_is_queued_again_and_runs_again(
    make_stage: Callable[..., Stage], tmp_path: Path
) -> None:
    project, path = new_project(), tmp_path / "was here"
    with make_stage("prefork", {}).watch(project) as client:
        job = start(jobs.give_back_once, str(path), project=project)
        end = client.wait_for_end(job)
        assert (end["state"], end["result"]) == ("SUCCESS", "the second time")
        # The broker may deliver it, and the next child begin, before the worker has said that it was given back; and on
        # a busy machine the worker may say so before the child could send that it had begun, which is old news then.
        seen = [state for _, state, _ in states(client, job) if state != "PENDING"]
        progress = [data["progress"] for event, data in client.for_job(job) if event == "agent_progress"]
        assert seen in (["STARTED", "STARTED", "SUCCESS"], ["STARTED", "SUCCESS"])
        assert progress in ([80, 20], [20])


# -- every pool, by every signal -------------------------------------------------------------------------------------

#: In order; each but the first comes when the one before has been taken notice of.
SIGNALS = {
    "cold": (signal.SIGQUIT,),
    "cold, twice": (signal.SIGQUIT, signal.SIGQUIT),
    "warm, then cold": (signal.SIGTERM, signal.SIGQUIT),
    "interrupted, twice": (signal.SIGINT, signal.SIGINT),
}
POOLS = ("prefork", "threads", "solo", "gevent", "eventlet")

#: Seconds within which jobs that are cut off are so.
CUTTING_OFF = 4.0


def send_all(stage: Stage, signals: tuple[signal.Signals, ...]) -> None:
    for number in signals:
        said = len(stage.worker.current_log)
        stage.worker.send_signal(number)
        with contextlib.suppress(WaitTimeout):  # a worker that ends, or waits for its pool, may say no more
            wait_for(lambda said=said: len(stage.worker.current_log) > said or not stage.worker.running, timeout=3)


def is_with_the_broker(broker: Broker, job: str) -> bool:
    """Return whether a message is on a Redis, which delivers it again after its visibility timeout."""
    with redis.Redis.from_url(broker.url) as client:
        return any(job.encode() in message for message in client.hvals("unacked"))


# What a pool does is the same for all signals, as far as it is told of them; the others only repeat it.
@pytest.mark.parametrize(
    ("pool", "how"),
    long_unless(
        [("gevent", "cold"), ("eventlet", "interrupted, twice"), ("threads", "cold, twice"), ("solo", "cold")],
        list(itertools.product(POOLS, SIGNALS)),
    ),
)
def test_however_a_worker_is_shut_down_its_jobs_are_shown_as_what_has_become_of_them(
    launcher: Launcher, redis_broker: Broker, tmp_path: Path, pool: str, how: str
) -> None:
    """Each job leaves a file if it has come to its end. In pools without children, Celery may be unable to end it."""
    project, path, env = new_project(), tmp_path / "go", {"LOST_AFTER": "3"}
    tasks = [jobs.hold_late_and_sign, jobs.hold_and_sign][-1 if pool == "solo" else -2 :]
    with producing(redis_broker):
        stage = Stage(launcher, redis_broker, pool=pool, env=env, options=("--prefetch-multiplier", "2"))
        with stage.watch(project) as client:
            held = [start(task, str(path), str(tmp_path / task.__name__), project=project) for task in tasks]
            wait_until_running(client, *held)
            waiting = start(jobs.leave_trace, str(tmp_path / "waited"), "ran", project=project)
            if pool != "solo":  # whose worker takes nothing from the broker while a job runs
                # A signal just after kombu has taken a message, and before it has noted that, loses the message.
                stage.worker.wait_for_log(rf"{waiting}\] received")
            send_all(stage, SIGNALS[how])
            with contextlib.suppress(AssertionError):  # in some pools nobody can cut it off
                client.wait_for_end(held[-1], timeout=CUTTING_OFF)
            path.touch()
            if (pool, how) == ("solo", "cold") and (5, 5) <= CELERY < (5, 7):
                # Its signal handler raises in the job, which fails, before it has noted that the worker is to end. The
                # worker goes on: that of 5.5 runs what waits, and that of 5.6 takes no more messages.
                if CELERY < (5, 6):
                    client.wait_for_end(waiting)
                stage.worker.send_signal(signal.SIGQUIT)
            wait_for(lambda: not stage.worker.running)
            launcher.worker("tests.integration.jobs", broker=redis_broker, name="next", env=env)
            traces = {job: tmp_path / task.__name__ for job, task in zip(held, tasks, strict=True)}
            traces[waiting] = tmp_path / "waited"

            def is_true(job: str) -> bool:
                [status, state, _] = states(client, job)[-1]
                if traces[job].exists():
                    return state == "SUCCESS"
                return status == ("queued" if is_with_the_broker(redis_broker, job) else "error")

            def is_shown_alike() -> bool:
                shown = {job["job_id"]: job["state"] for job in history.read(project).jobs}
                return shown == {job: states(client, job)[-1][1] for job in traces}

            history = jobs.realtime.manager.history
            assert history is not None
            wait_for(lambda: all(map(is_true, traces)) and is_shown_alike(), message=f"{traces}")
