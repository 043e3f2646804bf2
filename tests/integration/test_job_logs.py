"""What jobs log and print is their stream ``log``, in real workers of every pool, and nobody else's."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.integration.stage import Stage, new_project
from tests.integration.test_jobs import start
from tests.integration.test_streams import ended, follow, read_on
from tests.stream_readers import Reader
from tests.variants import long_unless
from tests.waiting import wait_for

GetStage = Callable[..., Stage]

POOLS = ("prefork", "threads", "solo", "gevent", "eventlet")
VARIANTS = [
    (broker, pool, redirect)
    for broker in ("redis", "rabbitmq")
    for pool in POOLS
    for redirect in ("on", "off")
]  # fmt: skip


def log_of(client: Recorder, job: str, project: str) -> Callable[[], Reader]:
    return follow(client, job, project, "log")


def shown(log: Reader) -> list[tuple[str, str, str]]:
    return [(item["level"], item["logger"], item["message"]) for item in log.value or ()]


def messages(log: Reader) -> list[str]:
    return [item["message"] for item in log.value or ()]


# The others repeat it in pools, and on brokers, of which test_streams shows that they send streams.
@pytest.mark.parametrize(
    ("broker", "pool", "redirect"),
    long_unless([("redis", "prefork", "on"), ("rabbitmq", "threads", "off"), ("redis", "gevent", "on")], VARIANTS),
)
def test_jobs_log_and_print_at_the_same_time_and_each_has_its_own(
    shared_stage: GetStage, tmp_path: Path, broker: str, pool: str, redirect: str
) -> None:
    stage, project = shared_stage(broker, pool=pool, env={"REDIRECT": redirect}), new_project()
    gates = [None, None] if pool == "solo" else [tmp_path / "go"] * 2
    with stage.connect(project) as client:
        started = [start(jobs.log, number, gate and str(gate), project=project) for number, gate in enumerate(gates)]
        logs = [log_of(client, job, project) for job in started]
        if pool != "solo":
            for number, log in enumerate(logs):
                wait_for(lambda number=number, log=log: shown(log()) == jobs.logged_in_every_way(number)[:3])
            (tmp_path / "go").touch()
        for number, log in enumerate(logs):
            reader = ended(log)
            assert (shown(reader), reader.state) == (jobs.logged_in_every_way(number), "closed")
            assert all(re.fullmatch(r"20\d\d-[\d-]+T[\d:]+\.\d{3}Z", item["time"]) for item in reader.value)
            late = log_of(client, started[number], project)()
            assert late.value == reader.value


def test_the_log_is_told_before_the_end_of_a_job_also_of_one_that_fails(stage: Stage) -> None:
    project = new_project()
    with stage.watch(project) as client:
        client.subscribe(project, streams=True)
        job = start(jobs.log_and_fail, 7, project=project)
        client.wait_for_end(job)
        heard = [(event, data.get("state")) for event, data in client.for_job(job)]
        assert heard.index(("agent_stream", "failed")) < heard.index(("agent_status", "FAILURE"))
        assert shown(log_of(client, job, project)()) == jobs.logged_in_every_way(7)


def test_each_attempt_has_a_log_of_its_own(stage: Stage) -> None:
    project = new_project()
    with stage.watch(project) as client:
        job = start(jobs.log_again, project=project)
        client.wait_for_end(job)
        log = log_of(client, job, project)()
        assert (messages(log), log.state, log.starts) == (["attempt 2"], "closed", [2])


def test_the_log_of_a_job_that_is_killed_has_what_was_sent(shared_stage: GetStage) -> None:
    stage, project = shared_stage("redis"), new_project()
    with stage.connect(project) as client:
        job = start(jobs.log_and_die, project=project)
        log = ended(log_of(client, job, project))
        assert (messages(log), log.state) == (["the last words"], "failed")


def test_the_workers_own_log_shows_what_it_showed(stage: Stage) -> None:
    project, word = new_project(), new_project()
    with stage.watch(project) as client:
        job = start(jobs.log_in_detail, word, project=project)
        client.wait_for_end(job)
        log = messages(log_of(client, job, project)())
        assert log == [f"{word} in detail", f"{word} in detail", f"{word} plainly"]
        stage.worker.wait_for_log(f"{word} plainly")
        assert f"{word} in detail" not in stage.worker.log


def test_what_is_too_much_is_counted(stage: Stage) -> None:
    project = new_project()
    with stage.watch(project) as client:
        job = start(jobs.log_very_much, 3000, project=project)
        client.wait_for_end(job)
        items = log_of(client, job, project)().value
        dropped = [item["dropped"] for item in items if "dropped" in item]
        assert len(items) - len(dropped) >= 1000
        assert len(items) - len(dropped) + sum(dropped) == 3000


def test_processes_that_a_job_forks_write_its_log(shared_stage: GetStage) -> None:
    stage, project = shared_stage("redis", pool="solo"), new_project()
    with stage.connect(project) as client:
        job = start(jobs.log_in_processes, project=project)
        log = ended(log_of(client, job, project))
        expected = ["child 0 logs", "child 0 prints", "child 1 logs", "child 1 prints", "parent begins and ends"]
        assert messages(log) == expected


def test_a_job_whose_task_does_not_want_it_has_no_log(stage: Stage) -> None:
    project = new_project()
    with stage.watch(project) as client:
        job = start(jobs.answer, 3, project=project)
        client.wait_for_end(job)
        answer = client.call("subscribe_job", {"job_id": job})
        assert [one["stream"] for one in answer["streams"]] == ["answer"]


def test_whoever_comes_late_may_have_the_last_lines_alone(stage: Stage, tmp_path: Path) -> None:
    project, gate = new_project(), tmp_path / "go"
    with stage.watch(project) as client:
        job = start(jobs.log, 3, str(gate), project=project)
        log = log_of(client, job, project)
        wait_for(lambda: len(shown(log())) == 3)

        def last(count: Any) -> dict[str, Any]:
            return client.call("read_stream", {"job_id": job, "stream": "log", "tail": count})

        answer = last(2)
        assert [item["message"] for item in answer["value"]] == ["3 logs as a task", "3 prints"]
        assert (answer["start"], answer["position"], answer["end"]) == (1, 3, 3)
        assert [last(count)["start"] for count in (1, 3, 1000)] == [2, 0, 0]
        for wrong in (0, -1, "2", 1.5, True, 10**30):
            assert last(wrong)["error"]["code"] == "bad_request"
        assert read_on(client, job, stream="log", tail=2)["error"]["code"] == "bad_request"
        assert client.call("subscribe_job", {"job_id": job, "tail": 0})["error"]["code"] == "bad_request"

        before = len(client.events)
        answer = client.call("subscribe_job", {"job_id": job, "tail": 2})
        [stream] = answer["streams"]
        late = Reader(stream)
        assert (late.start, len(late.value)) == (1, 2)
        gate.touch()
        client.wait_for_end(job)
        for event, data in list(client.events)[before:]:
            if event == "agent_stream":
                late.take(data)
        assert shown(late) == jobs.logged_in_every_way(3)[1:]
