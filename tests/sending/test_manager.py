"""What is said to a project goes out to that project, checked, in order and without keeping anybody waiting."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import socket
import threading
import uuid
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from celery_realtime import SocketIOManager, events, settings
from celery_realtime.channel.kombu_manager import RealtimeKombuManager
from celery_realtime.events import Job
from celery_realtime.jobs.progress import Progress, progress_update
from celery_realtime.sending.manager import TRACKED_JOBS
from tests.processes import HOST
from tests.recording import Sent, Studio, Wire
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ADDRESS = {"job_id": None, "project_id": "alpha"}


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def make_manager(wire: Wire) -> Callable[..., SocketIOManager]:
    def make(**chosen: Any) -> SocketIOManager:
        resolved = settings.resolve({"history_url": None, **chosen}, {}, "memory://")
        return SocketIOManager(lambda: resolved, lambda: wire)  # type: ignore[arg-type,return-value]

    return make


@pytest.fixture
def manager(make_manager: Callable[..., SocketIOManager]) -> SocketIOManager:
    return make_manager()


def sent(manager: SocketIOManager, wire: Wire) -> list[Sent]:
    assert manager.flush(60)
    return list(wire.sent)


# -- custom events ------------------------------------------------------------------------------------------------


def test_a_custom_event_goes_to_its_project_under_its_own_name(manager: SocketIOManager, wire: Wire) -> None:
    manager.emit_to_project("alpha", "custom_event", {"data": "value"})

    assert sent(manager, wire) == [Sent("custom_event", "alpha", {"data": "value", "_realtime": ADDRESS})]


def test_a_custom_event_may_belong_to_a_job(manager: SocketIOManager, wire: Wire) -> None:
    manager.emit_to_project("alpha", "custom_event", {}, job_id="job-1")

    [event] = sent(manager, wire)
    assert event.data == {"_realtime": {"job_id": "job-1", "project_id": "alpha"}}


@pytest.mark.parametrize("data", [None, True, 5, 1.5, "text", [], [1, {"a": None}], "é 漢 🎉"])
def test_data_that_is_no_object_goes_out_as_it_is(manager: SocketIOManager, wire: Wire, data: Any) -> None:
    manager.emit_to_project("alpha", "custom_event", data)

    assert sent(manager, wire) == [Sent("custom_event", "alpha", data)]


def test_many_events_go_out_in_order_and_together(make_manager: Callable[..., SocketIOManager], wire: Wire) -> None:
    manager = make_manager(linger=0.0)

    manager.emit_many(456, ((f"step {number}", {"number": number}) for number in range(50)), job_id="job-1")

    told = sent(manager, wire)
    assert [event.event for event in told] == [f"step {number}" for number in range(50)]
    assert {event.project_id for event in told} == {"456"}
    assert told[7].data == {"number": 7, "_realtime": {"job_id": "job-1", "project_id": "456"}}
    assert wire.calls == 1


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (("step", object()), "has no JSON form"),
        (("agent_status", {}), "reserved"),
        (("step",), "pairs of an event name and its data, not \\('step',\\)"),
        ("step", "pairs of an event name and its data, not 'step'"),
        (None, "pairs"),
    ],
)
def test_of_many_events_none_is_sent_when_one_is_bad(
    manager: SocketIOManager, wire: Wire, bad: Any, error: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        manager.emit_many("alpha", [("step", {}), bad])

    assert sent(manager, wire) == []


def test_the_filter_sees_each_of_many_events(make_manager: Callable[..., SocketIOManager], wire: Wire) -> None:
    manager = make_manager(event_filter=lambda name, _project, data: None if name == "secret" else data)

    manager.emit_many("alpha", [("step", {"number": 1}), ("secret", {}), ("step", {"number": 2})])

    assert [event.data["number"] for event in sent(manager, wire)] == [1, 2]
    assert manager.counts["filtered"] == 1


def test_no_events_are_many_too(manager: SocketIOManager, wire: Wire) -> None:
    manager.emit_many("alpha", [])

    assert sent(manager, wire) == []


@dataclasses.dataclass
class Thumbnail:
    url: str


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (datetime(2024, 1, 15, 10, 30, tzinfo=timezone.utc), "2024-01-15T10:30:00Z"),
        (date(2024, 1, 15), "2024-01-15"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Decimal("1.50"), "1.50"),
        ({1}, [1]),
        ((1, 2), [1, 2]),
        (b"\x00\xff", "AP8="),
        (Thumbnail("/1.png"), {"url": "/1.png"}),
        ({5: "five"}, {"5": "five"}),
    ],
)
def test_what_has_a_form_in_json_is_put_into_it(manager: SocketIOManager, wire: Wire, value: Any, said: Any) -> None:
    manager.emit_to_project("alpha", "custom_event", {"value": value})

    [event] = sent(manager, wire)
    assert event.data["value"] == said


@pytest.mark.parametrize(
    ("project_id", "named"), [(456, "456"), (uuid.UUID(int=1), str(uuid.UUID(int=1))), ("é 漢", "é 漢")]
)
def test_a_project_may_be_named_by_a_number_or_a_uuid(
    manager: SocketIOManager, wire: Wire, project_id: Any, named: str
) -> None:
    manager.emit_to_project(project_id, "custom_event", {})

    assert [(event.project_id, event.data["_realtime"]["project_id"]) for event in sent(manager, wire)] == [
        (named, named)
    ]


def endless() -> list[Any]:
    data: list[Any] = []
    data.append(data)
    return data


MISTAKES = {
    "no project": (None, "custom_event", {}, TypeError, "project_id"),
    "an empty project": ("", "custom_event", {}, ValueError, "project_id"),
    "a project that is true": (True, "custom_event", {}, TypeError, "project_id"),
    "a project of 300 letters": ("x" * 300, "custom_event", {}, ValueError, "project_id"),
    "an event without a name": ("alpha", "", {}, ValueError, "event name"),
    "an event whose name is a number": ("alpha", 5, {}, TypeError, "event name"),
    "an event of Socket.IO's own": ("alpha", "disconnect", {}, ValueError, "reserved"),
    "an event of ours": ("alpha", "agent_status", {}, ValueError, "reserved"),
    "the error event": ("alpha", "error", {}, ValueError, "reserved"),
    "an object without a form in JSON": ("alpha", "custom_event", {"of": object()}, TypeError, "custom_event"),
    "a function": ("alpha", "custom_event", print, TypeError, "custom_event"),
    "not a number": ("alpha", "custom_event", {"n": math.nan}, ValueError, "custom_event"),
    "infinity": ("alpha", "custom_event", [math.inf], ValueError, "custom_event"),
    "data that holds itself": ("alpha", "custom_event", endless(), ValueError, "custom_event"),
    "too much data": ("alpha", "custom_event", "x" * 65536, ValueError, "realtime_max_payload"),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_an_error_at_the_call_and_nothing_goes_out(
    manager: SocketIOManager, wire: Wire, mistake: tuple[Any, Any, Any, type[Exception], str]
) -> None:
    project_id, event, data, error, named = mistake

    with pytest.raises(error, match=named):
        manager.emit_to_project(project_id, event, data)
    with pytest.raises(error, match=named):
        asyncio.run(manager.emit_to_project_async(project_id, event, data))

    assert sent(manager, wire) == []


def test_data_of_exactly_the_largest_size_goes_out(make_manager: Callable[..., SocketIOManager], wire: Wire) -> None:
    manager = make_manager(max_payload=100)

    manager.emit_to_project("alpha", "custom_event", "x" * 98)
    with pytest.raises(ValueError, match="101 bytes"):
        manager.emit_to_project("alpha", "custom_event", "x" * 99)

    assert len(sent(manager, wire)) == 1


def test_data_goes_out_as_it_was_at_the_call(manager: SocketIOManager, wire: Wire) -> None:
    wire.down = True
    data = {"lines": [1]}
    manager.emit_to_project("alpha", "custom_event", data)

    data["lines"].append(2)
    wire.down = False

    [event] = sent(manager, wire)
    assert event.data["lines"] == [1]
    assert data == {"lines": [1, 2]}


def test_the_asyncio_form_says_the_same(manager: SocketIOManager, wire: Wire) -> None:
    async def say() -> None:
        await manager.emit_to_project_async("alpha", "custom_event", {"number": 1})
        await asyncio.gather(
            *(manager.emit_to_project_async("alpha", "custom_event", {"number": number}) for number in (2, 3))
        )

    asyncio.run(say())

    assert [event.data["number"] for event in sent(manager, wire)] == [1, 2, 3]


def test_events_and_statuses_keep_the_order_in_which_they_were_said(manager: SocketIOManager, wire: Wire) -> None:
    job = Job(job_id="job-1", project_id="alpha", task="transcribe")

    manager.put_status(events.status_change(job, "PENDING"))
    manager.emit_to_project("alpha", "first", {})
    manager.put_status(events.status_change(job, "STARTED"))
    manager.emit_to_project("beta", "second", {})
    manager.put_status(events.status_change(job, "SUCCESS", result=b'{"summary":"..."}'))

    said = sent(manager, wire)
    assert [(event.event, event.project_id) for event in said] == [
        ("agent_status", "alpha"),
        ("first", "alpha"),
        ("agent_status", "alpha"),
        ("second", "beta"),
        ("agent_status", "alpha"),
    ]
    assert [event.data["status"] for event in said if event.event == "agent_status"] == ["queued", "running", "success"]
    assert said[-1].data["result"] == {"summary": "..."}


def test_many_threads_say_all_that_they_say(manager: SocketIOManager, wire: Wire) -> None:
    def say(thread: int) -> None:
        for number in range(200):
            manager.emit_to_project("alpha", "custom_event", [thread, number])

    threads = [threading.Thread(target=say, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    said = [event.data for event in sent(manager, wire)]
    assert sorted(said) == [[thread, number] for thread in range(8) for number in range(200)]
    for thread in range(8):
        assert [number for who, number in said if who == thread] == list(range(200))


# -- a broker that is away ----------------------------------------------------------------------------------------


@pytest.fixture
def silent_broker() -> Iterator[str]:
    """A broker that takes connections and never answers."""
    with socket.create_server((HOST, 0), backlog=16) as server:
        yield f"redis://{HOST}:{server.getsockname()[1]}/0"


def test_nothing_waits_for_a_broker_that_does_not_answer(silent_broker: str) -> None:
    resolved = settings.resolve({"history_url": None, "flush_timeout": 0.0}, {}, silent_broker)
    manager = SocketIOManager(lambda: resolved, lambda: RealtimeKombuManager(silent_broker, write_only=True))

    for number in range(100):
        manager.emit_to_project("alpha", "custom_event", number)
        manager.put_status(events.status_change(Job(job_id=f"job-{number}", project_id="alpha"), "STARTED"))
    asyncio.run(manager.emit_to_project_async("alpha", "custom_event", {}))

    assert manager.outbox.counts["sent"] == 0
    assert not manager.flush(0.1)
    manager.outbox.start_over()  # else the end of the run says that they were not sent


def test_what_was_said_while_the_broker_was_away_goes_out_in_order_when_it_is_back(
    manager: SocketIOManager, wire: Wire
) -> None:
    wire.down = True
    for number in range(50):
        manager.emit_to_project("alpha", "custom_event", number)
    wait_for(lambda: wire.calls)
    assert not manager.flush(0.1)

    wire.down = False

    assert [event.data for event in sent(manager, wire)] == list(range(50))


def test_flushing_what_said_nothing_is_done_at_once(manager: SocketIOManager, wire: Wire) -> None:
    assert manager.flush(0)
    assert wire.calls == 0


# -- jobs whose project is told by hand ---------------------------------------------------------------------------


@pytest.fixture
def studio() -> Studio:
    return Studio(history_url=None)


def test_a_tracked_job_is_seen_by_its_project(studio: Studio) -> None:
    @studio.app.task(bind=True, name="transcribe", shared=False)
    def transcribe(self: Any) -> str:
        self.update_progress(50)
        self.emit("line", {"text": "..."})
        return "done"

    studio.realtime.manager.track_job_for_project("job-1", "alpha")
    transcribe.apply(task_id="job-1")

    assert studio.told()[:1] == ["STARTED"]
    assert studio.told()[-1:] == ["SUCCESS"]
    assert set(studio.told()) == {"STARTED", "50", "line", "SUCCESS"}
    assert {sent.project_id for sent in studio.sent} == {"alpha"}
    assert studio.realtime.manager.counts["no_project"] == 0


def test_a_published_job_that_is_tracked_is_seen_by_its_project(studio: Studio) -> None:
    studio.realtime.manager.track_job_for_project("job-1", 456)

    studio.app.send_task("transcribe", task_id="job-1")
    studio.app.send_task("transcribe", task_id="job-2")

    assert [(sent.project_id, sent.data["job_id"], sent.data["status"]) for sent in studio.sent] == [
        ("456", "job-1", "queued")
    ]


def test_progress_by_id_of_a_tracked_job_is_seen_by_its_project(studio: Studio) -> None:
    studio.realtime.manager.track_job_for_project("job-1", "alpha")

    studio.realtime.progress_tracker("job-1").set_progress(25, "Downloading audio file...")

    [update] = studio.sent
    assert (update.event, update.project_id) == ("agent_progress", "alpha")
    assert (update.data["progress"], update.data["message"]) == (25, "Downloading audio file...")


def test_a_job_that_names_its_project_is_not_moved_by_hand(studio: Studio) -> None:
    studio.realtime.manager.track_job_for_project("job-1", "beta")

    studio.app.send_task("transcribe", task_id="job-1", headers={"project_id": "alpha"})

    assert [sent.project_id for sent in studio.sent] == ["alpha"]


def test_the_last_word_on_a_job_counts(manager: SocketIOManager) -> None:
    assert manager.project_of("job-1") is None

    manager.track_job_for_project("job-1", "alpha")
    manager.track_job_for_project("job-1", "beta")

    assert manager.project_of("job-1") == "beta"
    assert manager.project_of("job-2") is None


def test_no_more_jobs_are_tracked_than_memory_can_hold(manager: SocketIOManager) -> None:
    for number in range(TRACKED_JOBS + 10):
        manager.track_job_for_project(f"job-{number}", "alpha")

    assert manager.project_of("job-9") is None
    assert manager.project_of("job-10") == "alpha"


@pytest.mark.parametrize(
    ("job_id", "project_id", "error", "named"),
    [
        ("", "alpha", TypeError, "job_id"),
        (None, "alpha", TypeError, "job_id"),
        (5, "alpha", TypeError, "job_id"),
        ("job-1", None, TypeError, "project_id"),
        ("job-1", "", ValueError, "project_id"),
        ("job-1", "x" * 300, ValueError, "project_id"),
    ],
)
def test_tracking_what_is_no_job_or_no_project_is_an_error(
    manager: SocketIOManager, job_id: Any, project_id: Any, error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        manager.track_job_for_project(job_id, project_id)

    assert manager.project_of("job-1") is None


# -- jobs without a project ---------------------------------------------------------------------------------------


def test_a_job_without_a_project_reaches_nobody_and_is_counted(studio: Studio) -> None:
    @studio.app.task(bind=True, name="transcribe", shared=False)
    def transcribe(self: Any) -> str:
        self.update_progress(50)
        self.emit("line", {"text": "..."})
        return "done"

    studio.app.send_task("transcribe")
    assert studio.realtime.manager.counts["no_project"] == 1
    assert transcribe.apply().get() == "done"

    assert studio.sent == []
    assert studio.realtime.manager.counts["no_project"] == 5


def test_progress_by_id_of_a_job_without_a_project_is_counted(studio: Studio) -> None:
    studio.realtime.progress_tracker("job-1").set_progress(25)

    assert studio.sent == []
    assert studio.realtime.manager.counts["no_project"] == 1


def test_a_mistake_in_a_job_without_a_project_is_an_error_all_the_same(studio: Studio) -> None:
    @studio.app.task(bind=True, name="transcribe", shared=False)
    def transcribe(self: Any) -> None:
        self.emit("agent_status", {})

    with pytest.raises(ValueError, match="reserved"):
        transcribe.apply(throw=True)


# -- the filter ---------------------------------------------------------------------------------------------------


def test_a_filter_sees_each_event_with_its_project_and_redacts_it(
    make_manager: Callable[..., SocketIOManager], wire: Wire
) -> None:
    seen: list[tuple[str, str]] = []

    def redact(event: str, project_id: str, payload: dict[str, Any]) -> dict[str, Any]:
        seen.append((event, project_id))
        return {name: "..." if name == "password" else value for name, value in payload.items()}

    manager = make_manager(event_filter=redact)
    manager.emit_to_project("alpha", "signed_up", {"user": "ada", "password": "hunter2"})
    manager.put_status(events.status_change(Job(job_id="job-1", project_id="beta"), "STARTED"))

    said = sent(manager, wire)
    assert seen == [("signed_up", "alpha"), ("agent_status", "beta")]
    assert said[0] == Sent("signed_up", "alpha", {"user": "ada", "password": "...", "_realtime": ADDRESS})
    assert said[1].data["status"] == "running"
    assert manager.counts["filtered"] == 0


def test_a_filter_drops_what_it_returns_none_for_and_the_rest_goes_on(
    make_manager: Callable[..., SocketIOManager], wire: Wire
) -> None:
    manager = make_manager(event_filter=lambda event, project_id, payload: None if event == "secret" else payload)

    for number, event in enumerate(["public", "secret", "public", "secret"]):
        manager.emit_to_project("alpha", event, {"number": number})

    assert [event.data["number"] for event in sent(manager, wire)] == [0, 2]
    assert manager.counts["filtered"] == 2


def test_an_event_that_the_filter_fails_on_is_dropped_and_its_sender_never_knows(
    make_manager: Callable[..., SocketIOManager], wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: str, project_id: str, payload: dict[str, Any]) -> dict[str, Any]:
        if payload["number"] == 1:
            raise KeyError("broken")
        return payload

    manager = make_manager(event_filter=fail)
    for number in range(3):
        manager.emit_to_project("alpha", "custom_event", {"number": number})

    assert [event.data["number"] for event in sent(manager, wire)] == [0, 2]
    assert manager.counts["filtered"] == 1
    [record] = caplog.records
    assert "realtime_event_filter failed on custom_event" in record.getMessage()


@pytest.mark.parametrize("state", ["STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED", "LOST"])
def test_a_status_that_the_filter_fails_on_goes_out_without_what_it_says(
    make_manager: Callable[..., SocketIOManager], wire: Wire, state: str
) -> None:
    def fail(event: str, project_id: str, payload: dict[str, Any]) -> dict[str, Any]:
        payload["result"] = payload["error"] = "changed, then"
        raise KeyError("broken")

    manager = make_manager(event_filter=fail)
    job = Job(job_id="job-1", project_id="alpha", attempt=1)
    manager.put_status(events.status_change(job, state, result=b'"a secret"', error="a secret"))
    manager.emit_to_project("alpha", "custom_event", {"text": "a secret"})

    [event] = sent(manager, wire)
    assert event.event == "agent_status"
    assert {name: event.data.get(name) for name in ("job_id", "project_id", "state", "attempt")} == {
        "job_id": "job-1",
        "project_id": "alpha",
        "state": state,
        "attempt": 1,
    }
    assert event.data["status"] == events.STATUS_OF_STATE[state]
    assert not {"result", "error", "message", "traceback"} & event.data.keys()
    assert (manager.counts["hidden"], manager.counts["filtered"]) == (1, 1)


def test_progress_that_the_filter_fails_on_is_dropped(make_manager: Callable[..., SocketIOManager], wire: Wire) -> None:
    def fail(event: str, project_id: str, payload: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("broken")

    manager = make_manager(event_filter=fail)
    job = Job(job_id="job-1", project_id="alpha")
    manager.put(events.outgoing_progress(progress_update(job, Progress(5, "a secret"))))

    assert sent(manager, wire) == []
    assert manager.counts["filtered"] == 1


# -- the first event ----------------------------------------------------------------------------------------------


def test_a_process_that_has_sent_nothing_yet_waits_for_nothing(wire: Wire) -> None:
    go_on = threading.Event()

    def connect() -> Any:
        assert go_on.wait(60)
        return wire

    resolved = settings.resolve({"history_url": None}, {}, "memory://")
    manager = SocketIOManager(lambda: resolved, connect)
    job = Job(job_id="job-1", project_id="alpha")
    manager.put_status(events.status_change(job, "PENDING"))
    assert not manager.wait_until_sent(Job(job_id="job-1", project_id="p"), 600)
    go_on.set()
    assert len(sent(manager, wire)) == 1
    assert manager.wait_until_sent(Job(job_id="job-1", project_id="p"), 600)


def test_starting_over_takes_the_present_settings(wire: Wire) -> None:
    chosen = settings.resolve({"history_url": None, "queue_size": 5}, {}, "memory://")
    made: list[Any] = []
    manager = SocketIOManager(lambda: chosen, lambda: made.append(wire) or wire)  # type: ignore[arg-type,return-value]
    first = manager.outbox
    assert manager.publisher is manager.publisher
    manager.start_over()
    assert manager.outbox is not first
    assert manager.publisher is wire  # type: ignore[comparison-overlap]
    assert len(made) == 2


@pytest.mark.parametrize("data", [5, "text", [1, 2]])
def test_a_filter_sees_data_that_is_no_object_too(
    make_manager: Callable[..., SocketIOManager], wire: Wire, data: Any
) -> None:
    manager = make_manager(event_filter=lambda event, project_id, payload: {"was": payload})

    manager.emit_to_project("alpha", "custom_event", data)

    [event] = sent(manager, wire)
    assert event.data["was"] == data


def test_an_event_without_data_passes_a_filter_that_lets_everything_pass(
    make_manager: Callable[..., SocketIOManager], wire: Wire
) -> None:
    manager = make_manager(event_filter=lambda event, project_id, payload: payload)

    manager.emit_to_project("alpha", "done", None)

    assert [event.event for event in sent(manager, wire)] == ["done"]
    assert manager.counts["filtered"] == 0


def test_a_filter_cannot_change_what_its_sender_holds(make_manager: Callable[..., SocketIOManager], wire: Wire) -> None:
    def clear(event: str, project_id: str, payload: dict[str, Any]) -> dict[str, Any]:
        payload["lines"].clear()
        return payload

    manager = make_manager(event_filter=clear)
    data = {"lines": [1]}
    manager.emit_to_project("alpha", "custom_event", data)

    [event] = sent(manager, wire)
    assert event.data["lines"] == []
    assert data == {"lines": [1]}


# -- what it is connected to --------------------------------------------------------------------------------------


class Server:
    """Stands for any Socket.IO server."""


def test_there_is_no_server_until_one_is_attached(manager: SocketIOManager) -> None:
    assert manager.sio is None
    server = Server()

    manager.attach(server)

    assert manager.sio is server


def test_job_listeners_receive_the_manager(manager: SocketIOManager) -> None:
    told: list[SocketIOManager] = []

    class Listeners:
        def connect(self, manager: SocketIOManager) -> None:
            told.append(manager)

    manager.register_job_listeners(Listeners())

    assert told == [manager]


def test_registering_the_bridge_again_changes_nothing(studio: Studio) -> None:
    manager = studio.realtime.manager

    manager.register_job_listeners(studio.realtime.bridge)
    manager.register_job_listeners(studio.realtime.bridge)
    studio.app.send_task("transcribe", headers={"project_id": "alpha"})

    assert studio.told() == ["PENDING"]


def test_the_publisher_is_made_once_by_the_first_event(wire: Wire) -> None:
    made: list[Wire] = []

    def connect() -> Any:
        made.append(wire)
        return wire

    resolved = settings.resolve({"history_url": None}, {}, "memory://")
    manager = SocketIOManager(lambda: resolved, connect)
    assert made == []

    manager.emit_to_project("alpha", "custom_event", {})
    manager.emit_to_project("alpha", "custom_event", {})

    assert len(sent(manager, wire)) == 2
    assert len(made) == 1
    assert json.loads(wire.outgoing[0].payload)["_realtime"] == ADDRESS
