"""Each event goes to every room in which a client waits for it, as its audience may see it, and to no other."""

from __future__ import annotations

import itertools
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given

from celery_realtime.channel.wire import Heard, decode_message, frames
from celery_realtime.events import Outgoing, stamp
from celery_realtime.rooms import rooms_of
from celery_realtime.sending.filtering import EventFilter
from celery_realtime.web.delivery import Delivery, Emit
from tests.channel.test_wire import frames as any_frames
from tests.channel.test_wire import messages as any_messages
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Rooms:
    """The rooms of a server in which clients are; all rooms are when there is no list of them."""

    def __init__(self, *occupied: str) -> None:
        self.occupied = occupied
        self.asked: list[tuple[str, str]] = []

    def __call__(self, namespace: str, room: str) -> bool:
        self.asked.append((namespace, room))
        return not self.occupied or room in self.occupied


class Members:
    """Which clients are in which room."""

    def __init__(self, **rooms_of_client: list[str]) -> None:
        self.of = rooms_of_client

    def participants(self, _namespace: str, room: str) -> list[tuple[str, str]]:
        return [(sid, "") for sid, entered in self.of.items() if room in entered]

    def is_in_room(self, sid: str, _namespace: str, room: str) -> bool:
        return room in self.of[sid]


def delivery(*occupied: str, rule: Any = None, members: Members | None = None) -> Delivery:
    audience_filter = None if rule is None else EventFilter(rule, by_audience=True)
    return Delivery(Rooms(*occupied), audience_filter, members or Members())


def step(number: int, project: str = "alpha", job: str | None = "one", **more: Any) -> Heard:
    mark = {"job_id": job, "project_id": project, "epoch": "e", "offset": number}
    return Heard(project, job, "step", {"number": number, "_realtime": mark}, "e", number, **more)


def rooms(emits: Iterator[Emit]) -> list[str]:
    return [emit.room for emit in emits]


def decoded(*events: Outgoing) -> list[Heard]:
    [(_, body)] = frames(events, "me", "/chat")
    return [event for event in decode_message(body) if isinstance(event, Heard)]


# -- rooms --------------------------------------------------------------------------------------------------------


def test_an_event_goes_to_the_room_of_its_project_and_to_no_other() -> None:
    [emit] = delivery("project:alpha").spread([step(1)])

    assert emit == Emit("step", step(1).data, "/", "project:alpha", events=(step(1),))


def test_an_event_keeps_its_namespace_and_the_clients_that_it_leaves_out() -> None:
    [emit] = delivery("project:alpha").spread([step(1, namespace="/jobs", skip_sid=["a"])])

    assert (emit.namespace, emit.skip_sid) == ("/jobs", ["a"])


def test_a_followed_job_has_its_events_right_behind_the_projects() -> None:
    job, _ = rooms_of("alpha", "one")
    one = delivery("project:alpha", job)
    one.expect("alpha", "one", None)

    emits = one.spread([step(1), step(2, job="two"), step(3)])

    assert [(emit.room, emit.data["number"]) for emit in emits] == [
        *(("project:alpha", 1), (job, 1), ("project:alpha", 2), ("project:alpha", 3), (job, 3)),
    ]


PROJECT, PROJECT_BATCH = rooms_of("alpha")
JOB, JOB_BATCH = rooms_of("alpha", "one")
OTHER_JOB, OTHER_BATCH = rooms_of("alpha", "two")


#: Rooms of two subscriptions; one subscription has either single events or batches.
PAIRS = list(itertools.product([PROJECT, PROJECT_BATCH, OTHER_JOB, OTHER_BATCH], [JOB, JOB_BATCH]))


def told(emits: Iterator[Emit], sid: str, *entered: str) -> list[int]:
    """Return the numbers that a client in these rooms is told, in order."""
    numbers: list[int] = []
    for emit in emits:
        if emit.is_for(sid) and set(emit.rooms) & set(entered):
            items = [item["data"] for item in emit.data] if emit.event == "agent_batch" else [emit.data]
            numbers += [item["number"] for item in items]
    return numbers


@pytest.mark.parametrize("entered", PAIRS)
def test_a_client_with_several_subscriptions_has_each_event_once_and_in_order(entered: tuple[str, str]) -> None:
    members = Members(ada=list(entered), bob=[JOB], eve=[PROJECT])
    one = delivery(members=members)
    for job in ("one", "two"):
        one.expect("alpha", job, None)
    events = [step(1), step(2, job="two"), step(3), step(4, job=None)]

    emits = list(one.spread(events))

    whole = {1, 2, 3, 4}
    numbers = {PROJECT: whole, PROJECT_BATCH: whole, JOB: {1, 3}, JOB_BATCH: {1, 3}, OTHER_JOB: {2}, OTHER_BATCH: {2}}
    assert told(iter(emits), "ada", *entered) == sorted(set().union(*(numbers[room] for room in entered)))
    assert told(iter(emits), "bob", JOB) == [1, 3]
    assert told(iter(emits), "eve", PROJECT) == [1, 2, 3, 4]


def test_several_subscriptions_that_all_ask_for_batches_have_batches() -> None:
    one = delivery(members=Members(ada=[PROJECT_BATCH, JOB_BATCH]))
    one.expect("alpha", "one", None)

    emits = [emit for emit in one.spread([step(1), step(2)]) if emit.only == "ada"]

    assert [(emit.event, emit.rooms) for emit in emits] == [("agent_batch", (PROJECT_BATCH, JOB_BATCH))]


def test_what_a_client_is_left_out_of_it_does_not_get_by_another_subscription() -> None:
    one = delivery(members=Members(ada=[PROJECT, JOB]))
    one.expect("alpha", "one", None)

    emits = one.spread([step(1, skip_sid="ada"), step(2)])

    assert told(emits, "ada", PROJECT, JOB) == [2]


def test_a_followed_job_of_another_project_has_none_of_them() -> None:
    other = delivery()
    other.expect("beta", "one", None)

    assert {emit.room for emit in other.spread([step(1)])} == {"project:alpha", "batch:alpha"}


def test_a_resync_goes_to_every_followed_job() -> None:
    one = delivery()
    for job_id in ("one", "two"):
        one.expect("alpha", job_id, None)

    emits = list(one.spread([Heard("alpha", None, "agent_resync", {"project_id": "alpha"})]))

    single = {emit.room for emit in emits if emit.event == "agent_resync"}
    assert single == {"project:alpha", rooms_of("alpha", "one")[0], rooms_of("alpha", "two")[0]}


def test_a_project_is_watched_while_any_room_of_it_is_occupied() -> None:
    for job_id, audience in ((None, None), ("one", None), (None, "owner"), ("one", "owner")):
        for room in rooms_of("alpha", job_id, audience):
            watching = delivery(room)
            watching.expect("alpha", job_id, audience)
            assert watching.is_watched("/", "alpha")
            assert not watching.is_watched("/", "beta")


def test_what_no_client_asks_for_any_more_is_forgotten() -> None:
    one = delivery()
    one.expect("alpha", "one", None)
    one.expect("alpha", "two", None)

    one.forget_unwatched({("alpha", "two")})

    emitted = {emit.room for emit in one.spread([step(1, job="one"), step(2, job="two")])}
    assert rooms_of("alpha", "two")[0] in emitted
    assert rooms_of("alpha", "one")[0] not in emitted


# -- batches ------------------------------------------------------------------------------------------------------


def batches(one: Delivery, events: list[Heard]) -> list[Emit]:
    return [emit for emit in one.spread(events) if emit.event == "agent_batch"]


def test_a_batch_lists_the_events_of_one_project_in_order() -> None:
    events = decoded(*(Outgoing("alpha", f"step {number}", b"%d" % number) for number in range(3)))

    [batch] = batches(delivery(), events)

    assert batch.room == "batch:alpha"
    assert batch.namespace == "/chat"
    assert batch.data == [{"event": f"step {number}", "data": number} for number in range(3)]


def test_projects_have_batches_of_their_own() -> None:
    events = decoded(*(Outgoing(project, "step", b"{}") for project in ("alpha", "beta", "alpha")))

    assert {batch.room: len(batch.data) for batch in batches(delivery(), events)} == {"batch:alpha": 2, "batch:beta": 1}


def test_no_batch_is_made_for_an_empty_room_which_is_looked_at_once() -> None:
    occupied = Rooms("project:alpha")

    assert batches(Delivery(occupied, None, Members()), [step(1), step(2), step(3)]) == []
    assert occupied.asked == [("/", "batch:alpha")]


def test_a_followed_job_has_batches_too() -> None:
    _, batched = rooms_of("alpha", "one")
    one = delivery("batch:alpha", batched)
    one.expect("alpha", "one", None)

    found = {batch.room: [item["data"]["number"] for item in batch.data] for batch in batches(one, [step(1), step(2)])}

    assert found == {"batch:alpha": [1, 2], batched: [1, 2]}


def test_in_a_batch_data_that_are_no_object_say_whose_they_are() -> None:
    stamped = stamp(Outgoing("alpha", "step", b"[1,2]", "job"), {"epoch": "e", "offset": 7})

    [batch] = batches(delivery(), decoded(stamped))

    mark = {"job_id": "job", "project_id": "alpha", "epoch": "e", "offset": 7}
    assert batch.data == [{**mark, "event": "step", "data": [1, 2]}]


def test_a_forged_mark_changes_neither_the_event_nor_its_data() -> None:
    forged = Heard("alpha", None, "step", 1, mark={"event": "agent_status", "data": 2})

    [batch] = batches(delivery(), [forged])

    assert batch.data == [{"event": "step", "data": 1}]


@given(any_frames | any_messages)
def test_no_message_whatever_stops_the_delivery(sent: Any) -> None:
    events = [event for event in decode_message(json.dumps(sent)) if isinstance(event, Heard)]
    for emit in delivery().spread(events):
        assert emit.room.startswith(("project:", "batch:"))


# -- audiences ----------------------------------------------------------------------------------------------------


def without_secrets(_event: str, _project: str, payload: Any, audience: str | None) -> Any:
    if audience == "owner" or not isinstance(payload, dict):
        return payload
    return None if payload.get("secret") else {**payload, "text": None}


def test_each_audience_has_a_room_of_its_own_with_what_it_may_see() -> None:
    one = delivery(rule=without_secrets)
    one.expect("alpha", None, "owner")
    one.expect("alpha", None, "member")
    event = Heard("alpha", None, "line", {"text": "a"}, "e", 1)

    emitted = {emit.room: emit.data for emit in one.spread([event]) if emit.event == "line"}

    assert emitted == {
        "project:alpha": {"text": None},
        rooms_of("alpha", None, "owner")[0]: {"text": "a"},
        rooms_of("alpha", None, "member")[0]: {"text": None},
    }


def test_an_audience_of_another_project_gets_nothing() -> None:
    one = delivery(rule=without_secrets)
    one.expect("alpha", None, "owner")
    one.expect("beta", None, "member")

    emitted = {emit.room for emit in one.spread([step(1), step(1, project="beta")]) if emit.event == "step"}

    assert emitted == {
        *("project:alpha", "project:beta"),
        *(rooms_of("alpha", None, "owner")[0], rooms_of("beta", None, "member")[0]),
    }


def test_in_place_of_what_an_audience_may_not_see_it_learns_the_offset() -> None:
    one = delivery("project:alpha", rule=without_secrets)

    [emit] = one.spread([Heard("alpha", "one", "line", {"secret": True}, "e", 3)])

    assert (emit.event, emit.data) == ("agent_hidden", {"project_id": "alpha", "epoch": "e", "offset": 3})


def test_of_an_event_without_an_offset_that_it_may_not_see_an_audience_learns_nothing() -> None:
    one = delivery("project:alpha", rule=without_secrets)

    assert list(one.spread([Heard("alpha", None, "line", {"secret": True})])) == []


@pytest.mark.parametrize("event", ["agent_status", "agent_progress", "agent_workflow", "step"])
def test_a_filter_that_fails_hides_the_event_and_is_logged_once(event: str, caplog: pytest.LogCaptureFixture) -> None:
    def fails(*_: Any) -> Any:
        raise KeyError("owner")

    one = delivery("project:alpha", rule=fails)

    emits = [emit for n in (1, 2, 3) for emit in one.spread([Heard("alpha", None, event, {"job_id": "one"}, "e", n)])]

    assert [emit.event for emit in emits] == ["agent_hidden"] * 3
    [record] = caplog.records
    assert record.getMessage().startswith(f"realtime_event_filter failed on {event}")
    assert "KeyError: 'owner'" in record.getMessage()


@pytest.mark.parametrize("content", ["secret", [{"secret": 1}]], ids=["text", "items"])
@pytest.mark.parametrize(
    "left",
    [
        lambda data: {**data, "chunk": None},
        lambda data: {**data, "chunk": 7},
        lambda data: {name: value for name, value in data.items() if name != "chunk"},
        lambda _: {},
    ],
    ids=["none", "number", "missing", "empty"],
)
def test_whatever_a_filter_leaves_of_a_chunk_it_has_its_place_and_a_value_of_its_kind(left: Any, content: Any) -> None:
    one = delivery(rule=lambda _event, _project, data, _audience: left(data))
    kind = "text" if isinstance(content, str) else "json"
    place = {"job_id": "one", "project_id": "alpha", "stream": "answer", "kind": kind, "position": 5}
    event = Heard("alpha", "one", "agent_stream", {**place, "generation": 1, "state": "open", "chunk": content})

    shown = [emit.data for emit in one.spread([event]) if emit.event == "agent_stream"]

    assert [(data["position"], data["chunk"], data["end"]) for data in shown] == [(5, content[:0], 5 + len(content))]


@pytest.mark.parametrize("left", ["text", 7, [1]])
def test_what_a_filter_leaves_of_a_chunk_that_is_no_object_is_not_shown(left: Any) -> None:
    one = delivery(rule=lambda *_: left)
    data = {"job_id": "one", "stream": "answer", "kind": "text", "position": 0, "generation": 1, "chunk": "secret"}
    assert list(one.spread([Heard("alpha", "one", "agent_stream", data)])) == []


def test_a_filter_cannot_change_what_other_audiences_see() -> None:
    def spoil(_event: str, _project: str, payload: Any, audience: str | None) -> Any:
        payload["number"] = audience
        return payload

    one = delivery(rule=spoil)
    one.expect("alpha", None, "owner")
    event = step(1)

    numbers = {emit.room: emit.data["number"] for emit in one.spread([event]) if emit.event == "step"}

    assert numbers == {"project:alpha": None, rooms_of("alpha", None, "owner")[0]: "owner"}
    assert event.data["number"] == 1


# -- threads ------------------------------------------------------------------------------------------------------


class Turning:
    """Calls something again and again in a thread, with the number of the call.

    Args:
        turn: What is called.
    """

    def __init__(self, turn: Callable[[int], Any]) -> None:
        self.turns = 0
        self.error: BaseException | None = None
        self._turn = turn
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                self._turn(self.turns)
                self.turns += 1
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        """End the thread; raises what ended it before."""
        self._ended.set()
        self._thread.join(60)
        if self.error is not None:
            raise self.error


def without_hurry(_event: str, _project: str, payload: Any, _audience: str | None) -> Any:
    threading.Event().wait(0.0001)
    return payload


@pytest.mark.parametrize("rule", [None, without_hurry])
def test_clients_may_come_and_go_while_events_are_delivered(rule: Any) -> None:
    """Rooms are expected by the threads of clients, and forgotten by that of housekeeping, as the listener reads."""
    one = delivery(rule=rule)
    coming = Turning(lambda number: one.expect("alpha", f"job {number % 50}", f"audience {number % 20}"))
    going = Turning(lambda number: one.forget_unwatched({("alpha", f"job {number % 50}")} if number % 10 else set()))
    asking = Turning(lambda _: one.is_watched("/", "alpha"))
    events = [step(1, job="job 1"), Heard("alpha", None, "agent_resync", {})]

    for _ in range(30):
        assert list(one.spread(events))

    for turning in (coming, going, asking):
        wait_for(lambda turning=turning: turning.error or turning.turns > 1000)
        turning.end()


def test_an_audience_that_comes_while_the_filter_runs_does_no_harm() -> None:
    one: Delivery

    def expects_more(_event: str, _project: str, payload: Any, audience: str | None) -> Any:
        one.expect("alpha", f"job of {audience}", f"{audience} and one more")
        return payload

    one = delivery(rule=expects_more)
    one.expect("alpha", None, "owner")

    assert rooms_of("alpha", None, "owner")[0] in rooms(one.spread([step(1)]))
