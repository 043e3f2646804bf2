"""What jobs say bit by bit, on real workers and web servers: whoever reads it, early or late, has it all, and once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import socketio

from celery_realtime.client import AsyncJobSubscription
from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.integration.test_jobs import start
from tests.launcher import Brokers, Launcher
from tests.stream_readers import Reader
from tests.variants import long_unless
from tests.waiting import wait_for, wait_for_async

CHUNK_FIELDS = {
    *("event", "job_id", "project_id", "stream", "kind", "attempt", "generation", "position", "chunk", "state", "task"),
}


def whole(words: int) -> str:
    return "".join(f"wörd {number} " for number in range(words))


def follow(client: Recorder, job: str, project: str, stream: str = "answer") -> Callable[[], Reader]:
    """Subscribe to a job, and return what tells what a client has of a stream of it."""
    before = len(client.events)
    answer = client.call("subscribe_job", {"job_id": job, "project_id": project})
    assert answer["ok"] is True
    first = next((one for one in answer["streams"] if one["stream"] == stream), None)

    def read() -> Reader:
        reader = Reader(first)
        for event, data in list(client.events)[before:]:
            if event == "agent_stream" and (data["job_id"], data["stream"]) == (job, stream):
                reader.take(data)
        return reader

    return read


def in_batches(client: Recorder) -> list[Any]:
    """Return the chunks that a client was sent in lists."""
    items = [item for batch in client.of("agent_batch") for item in batch]
    return [item["data"] for item in items if item["event"] == "agent_stream"]


def ended(read: Callable[[], Reader]) -> Reader:
    """Wait until a stream has ended, and return what a client has of it."""
    return wait_for(lambda: ((reader := read()).state != "open" and reader) or None)


def read_on(client: Recorder, job: str, position: int = 0, stream: str = "answer", **more: Any) -> dict[str, Any]:
    return client.call("read_stream", {"job_id": job, "stream": stream, "from": position, **more})


def test_early_and_late_readers_have_it_all(stage: Stage, tmp_path: Path) -> None:
    project, gate = new_project(), tmp_path / "go"
    with stage.connect(project) as early, stage.connect(project) as amid, stage.connect(project) as late:
        job = start(jobs.answer, 200, str(gate), project=project)
        read_early = follow(early, job, project)
        wait_for(lambda: read_early().value == whole(100))
        read_amid = follow(amid, job, project)
        assert read_amid().value == whole(100)
        gate.touch()
        readers = [ended(read_early), ended(read_amid)]
        readers.append(follow(late, job, project)())
        for reader in readers:
            assert (reader.value, reader.state, reader.start) == (whole(200), "closed", 0)
        for data in early.of("agent_stream"):
            assert set(data) == CHUNK_FIELDS
            assert (data["event"], data["kind"], data["attempt"]) == ("stream_chunk", "text", 0)


def test_a_stream_ends_before_its_job(stage: Stage) -> None:
    project = new_project()
    with stage.watch(project, user="ada") as client:
        client.subscribe(project, streams=True)
        job = start(jobs.answer, 3, project=project)
        client.wait_for_end(job)
        heard = [(event, data.get("state")) for event, data in client.for_job(job)]
        assert heard.index(("agent_stream", "closed")) < heard.index(("agent_status", "SUCCESS"))


def test_subscribers_of_a_project_hear_streams_only_if_they_ask_for_them(stage: Stage) -> None:
    project = new_project()
    with stage.watch(project) as plain, stage.connect(project) as reader, stage.connect(project) as batches:
        reader.subscribe(project, streams=True)
        batches.subscribe(project, streams=True, batch=True)
        job = start(jobs.answer, 5, project=project)
        for client in (plain, reader):
            client.wait_for_end(job)
        assert plain.of("agent_stream") == []
        assert "".join(data["chunk"] for data in reader.of("agent_stream")) == whole(5)
        wait_for(lambda: "".join(data["chunk"] for data in in_batches(batches)) == whole(5))
        reader.subscribe(project)  # not any more
        again = start(jobs.answer, 5, project=project)
        reader.wait_for_end(again)
        assert [data for data in reader.of("agent_stream") if data["job_id"] == again] == []
        offsets = [data["offset"] for event, data in plain.events if event == "agent_status"]
        assert offsets == list(range(1, len(offsets) + 1))  # streams take none


def test_a_stream_is_read_from_any_position_on(stage: Stage) -> None:
    project = new_project()
    with stage.watch(project) as client:
        job = start(jobs.answer, 50, project=project)
        client.wait_for_end(job)
        text = whole(50)
        for position in (0, 17, len(text)):
            answer = read_on(client, job, position)
            assert (answer["ok"], answer["start"], answer["value"]) == (True, position, text[position:])
            assert (answer["position"], answer["state"], answer["kind"]) == (len(text), "closed", "text")
        for wrong in ({"from": -1}, {"from": "0"}, {"stream": ""}, {"generation": 1.5}):
            refusal = client.call("read_stream", {"job_id": job, "stream": "answer", **wrong})
            assert refusal["error"]["code"] == "bad_request"
        assert read_on(client, job, stream="another")["error"]["code"] == "forbidden"


def test_nobody_reads_streams_of_a_project_that_is_not_open_to_them(stage: Stage) -> None:
    project, other = new_project(), new_project()
    with stage.watch(project) as client, stage.watch(other, user="eve") as stranger:
        stranger.subscribe(other, streams=True)
        job = start(jobs.answer, 5, project=project)
        client.wait_for_end(job)
        assert read_on(client, job)["ok"] is True
        refusals = [
            read_on(stranger, job),
            read_on(stranger, job, project_id=other),
            read_on(stranger, job, project_id=project),
            stranger.call("subscribe_job", {"job_id": job}),
            read_on(stranger, "no such job"),
        ]
        assert len({str(refusal["error"]) for refusal in refusals}) == 1
        stranger.wait_for_end(start(jobs.work, 50, project=other))
        assert stranger.of("agent_stream") == []


def test_a_retry_starts_anew(stage: Stage) -> None:
    project = new_project()
    with stage.watch(project) as client:
        client.subscribe(project, streams=True)
        job = start(jobs.answer_again, project=project)
        client.wait_for_end(job)
        live = Reader()
        for data in client.of("agent_stream"):
            live.take(data)
        assert (live.value, live.state) == ("attempt 2", "closed")
        assert live.starts in ([0, 1, 2], [0, 2], [1, 2], [2])  # what comes behind a later attempt is dropped
        late = follow(client, job, project)()
        assert (late.value, late.starts, late.generation) == ("attempt 2", [2], live.generation)


def test_a_stream_ends_with_a_job_that_is_killed(shared_stage: Callable[..., Stage]) -> None:
    stage, project = shared_stage("redis"), new_project()
    with stage.connect(project) as early, stage.connect(project) as late:
        job = start(jobs.answer_and_die, project=project)
        live = ended(follow(early, job, project))
        assert (live.value, live.state) == ("the last words", "failed")
        wait_for(lambda: read_on(late, job)["state"] == "failed")
        assert follow(late, job, project)().state == "failed"


def test_a_stream_of_a_job_that_is_cancelled_is_cancelled(shared_stage: Callable[..., Stage], tmp_path: Path) -> None:
    stage, project = shared_stage("redis"), new_project()
    with stage.connect(project) as client:
        job = start(jobs.answer, 10, str(tmp_path / "never"), project=project)
        read = follow(client, job, project)
        wait_for(lambda: read().value == whole(5))
        assert client.call("cancel_job", {"job_id": job})["cancel"] == "requested"
        reader = ended(read)
        assert (reader.value, reader.state) == (whole(5), "cancelled")


def test_processes_that_a_job_forks_write_one_stream(shared_stage: Callable[..., Stage]) -> None:
    stage, project = shared_stage("redis", pool="solo"), new_project()
    with stage.connect(project) as client:
        job = start(jobs.write_in_processes, 3, 300, project=project)
        reader = ended(follow(client, job, project, "rows"))
        assert reader.state == "closed"
        assert sorted(reader.value) == [[k, n] for k in range(4) for n in range(300)]
        for k in range(4):
            assert [n for worker, n in reader.value if worker == k] == list(range(300))
        assert follow(client, job, project, "rows")().value == reader.value


@pytest.mark.parametrize("pool", long_unless(["threads"], ["threads", "gevent", "eventlet"]))
def test_in_other_pools_too(shared_stage: Callable[..., Stage], pool: str) -> None:
    stage, project = shared_stage("redis", pool=pool), new_project()
    with stage.connect(project) as client:
        job = start(jobs.answer, 100, project=project)
        assert ended(follow(client, job, project)).value == whole(100)


def test_without_a_history_streams_are_live_only(launcher: Launcher, brokers: Brokers, tmp_path: Path) -> None:
    broker, project, gate = brokers.make("redis"), new_project(), tmp_path / "go"
    with producing(broker, history_url=None):
        stage = Stage(launcher, broker, env={"HISTORY": "off"}, concurrency=1)
        with stage.connect(project) as client:
            job = start(jobs.hold, str(gate), project=project)
            answer = client.call("subscribe_job", {"job_id": job, "project_id": project})
            assert (answer["ok"], answer["streams"], answer["live_only"]) == (True, [], True)
            said = start(jobs.answer, 20, project=project)
            read = follow(client, said, project)
            gate.touch()
            reader = ended(read)
            assert (reader.value, reader.state) == (whole(20), "closed")
            assert read_on(client, said, project_id=project)["ok"] is False


def test_a_client_in_an_event_loop_follows_a_job_and_may_cancel_it(
    shared_stage: Callable[..., Stage], tmp_path: Path
) -> None:
    stage, project = shared_stage("redis"), new_project()
    job = start(jobs.answer, 10, str(tmp_path / "never"), project=project)
    token = jobs.realtime.issue_token("ada", [project])

    async def follow() -> tuple[str, str, list[str]]:
        heard: list[str] = []
        client = socketio.AsyncClient()
        await client.connect(stage.web.url, auth={"token": token}, transports=["websocket"], wait_timeout=60)
        followed = AsyncJobSubscription(client, job, project_id=project, on_chunk=lambda _, chunk: heard.append(chunk))
        streams = followed.feed.streams
        await wait_for_async(lambda: "answer" in streams and streams["answer"].value == whole(5))
        assert (await followed.cancel())["cancel"] == "requested"
        await wait_for_async(lambda: followed.feed.has_ended)
        await followed.close()
        await client.disconnect()
        return streams["answer"].value, streams["answer"].state, heard

    value, state, heard = asyncio.run(follow())
    assert (value, state) == (whole(5), "cancelled")
    assert "".join(heard) == whole(5)
