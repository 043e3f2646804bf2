"""Whatever is said on the channel, a web server goes on listening, and loses nothing of what is said beside it."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import kombu
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from celery_realtime.channel.kombu_manager import RealtimeKombuManager
from celery_realtime.events import Outgoing
from celery_realtime.history.store import Snapshot
from celery_realtime.rooms import rooms_of
from celery_realtime.sending.filtering import EventFilter
from celery_realtime.web.delivery import Emit
from tests.channels import client_manager, every_room
from tests.fuzz import material
from tests.fuzz.budget import tried
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.launcher import Brokers
    from tests.services import Broker

WORDS = [
    *("method", "event", "room", "data", "namespace", "mark", "binary", "callback", "host_id", "skip_sid", "sid", "v"),
    *("events", "epoch", "offset", "job_id", "project_id", "_realtime", "emit", "celery_realtime", "disconnect"),
    *("celery_realtime_order", "action", "user", "project", "agent_status", "agent_progress", "agent_workflow"),
    *("agent_batch", "agent_resync", "agent_hidden", "project:alpha", "batch:alpha", "project:", "alpha", "one", "e"),
    *("audience:5:owner:project:alpha", "job:5:alpha:one", "/", ""),
]
MARK = {"job_id": "one", "project_id": "alpha", "epoch": "e", "offset": 3}
STATUS = {**MARK, "event": "status_change", "status": "running", "state": "STARTED", "attempt": 0}
PLACE = {"sid": "s", "room": "project:alpha", "namespace": "/", "host_id": "h"}


def frame(*entries: Any) -> dict[str, Any]:
    return {"method": "celery_realtime", "v": 1, "namespace": "/", "host_id": "h", "events": list(entries)}


def stock(event: str, data: Any, **more: Any) -> dict[str, Any]:
    return {"method": "emit", "event": event, "room": "project:alpha", "data": [data], "namespace": "/", **more}


GOOD = [
    frame(["agent_status", "project:alpha", STATUS], ["step", "project:alpha", {"number": 1, "_realtime": MARK}]),
    frame(["step", "project:alpha", 5, MARK], ["agent_progress", "project:alpha", {**STATUS, "progress": 5}]),
    stock("step", {"number": 1, "_realtime": MARK}),
    stock("step", None, mark=MARK, room="audience:5:owner:project:alpha"),
    stock("agent_status", STATUS, binary=False, skip_sid=None, callback=None, host_id="h"),
    stock("agent_resync", {"project_id": "alpha", "epoch": "e", "offset": 5}),
    stock("step", "eA==", binary=True, callback=["room", "/", 1]),
    {"method": "celery_realtime_order", "host_id": "h", "action": "revoke", "user": "ada", "project": "a", "at": 1.5},
    {"method": "disconnect", **PLACE},
    {"method": "enter_room", **PLACE},
    {"method": "leave_room", **PLACE},
    {"method": "close_room", **PLACE},
    {"method": "callback", "id": 1, "args": [], **PLACE},
]
right = st.sampled_from(GOOD)
wrong = material.values(WORDS)
said = material.near(right, wrong).map(material.written)
bodies = st.one_of(
    said,
    material.spoilt(said),
    material.written_twice(right, wrong),
    wrong.map(material.written),
    material.near(right, material.deep_values()).map(material.written),
    st.integers(1, 5000).map(lambda depth: b'{"method":' + b"[" * depth),
    st.binary(max_size=40),
)
content_types = st.none() | st.sampled_from(["text/plain", "application/json", "application/data", "text/html"])


class Told(NamedTuple):
    """A message as kombu hands it over."""

    body: Any
    content_type: Any = "text/plain"


class Ears:
    """What a web server hears with; its clients are in every room of the project alpha, or in none."""

    def __init__(self, *, redacts: bool, watched: bool, recovers: bool) -> None:
        audience_filter = EventFilter(_without_results, by_audience=True) if redacts else None
        self.manager = client_manager("memory://", audience_filter=audience_filter, read=self._read)
        self._recovers = recovers
        if watched:
            self._let_in()

    def _let_in(self) -> None:
        for audience, job_id in itertools.product((None, "owner"), (None, "one")):
            self.manager.delivery.expect("alpha", job_id, audience)
            for room in rooms_of("alpha", job_id, audience):
                self.manager.basic_enter_room("sid", "/", room, "eio_sid")
        self.manager.catch_up.expect("alpha")
        self.manager.catch_up.seed("alpha", "e", 2)

    def _read(self, project_id: str, epoch: str, offset: int, _most_jobs: int) -> Snapshot:
        events = [{"event": "step", "data": {"number": offset}}] if self._recovers else []
        return Snapshot(epoch, offset + len(events), self._recovers, [], 0, [], events)

    def hear(self, told: Told | None) -> list[Any]:
        """Return what is emitted on this server."""
        return self.manager.reader.items(told)

    def close(self) -> None:
        """End the thread that reads the history."""
        self.manager.stop_listening()


def _without_results(_event: str, _project_id: str, payload: Any, audience: str | None) -> Any:
    return payload if audience == "owner" else {**payload, "result": None} if payload["number"] != 1 else None


ears = st.builds(Ears, redacts=st.booleans(), watched=st.booleans(), recovers=st.booleans())


@tried(75)
@given(ears=ears, told=st.lists(st.builds(Told, bodies, content_types), min_size=1, max_size=4))
def test_nothing_that_is_published_stops_the_decoder_or_becomes_anything_but_messages(
    ears: Ears, told: list[Told]
) -> None:
    for one in told:
        for item in ears.hear(one):
            assert isinstance(item, Emit) or isinstance(item["method"], str)
    ears.manager.catch_up.fall_behind()
    assert all(isinstance(item, Emit) and "alpha" in item.room for item in ears.hear(None))
    ears.close()


STEP = {"method": "emit", "room": "project:alpha", "event": "step", "data": [1]}
ODD = {
    **{method: {"method": method, "sid": "s", "namespace": "/"} for method in ("disconnect", "close_room", "callback")},
    "no event": {"method": "emit", "room": "project:alpha", "data": [1]},
    "no data": {"method": "emit", "room": "project:alpha", "event": "step"},
    "empty data for an audience": {**STEP, "room": "audience:5:owner:project:alpha", "data": []},
    "an event that is a list": {**STEP, "event": ["step"]},
    "a mark that is null": {**STEP, "mark": None},
    "a mark that is a number": {**STEP, "mark": 5},
    "a namespace that is a list": {**STEP, "namespace": ["/"]},
    "a frame for a list of namespaces": {**frame(["step", "project:alpha", 1]), "namespace": ["/"]},
}


@pytest.mark.parametrize("told", ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize("redacts", [False, True])
def test_a_message_without_what_others_have_is_no_end_of_hearing(told: dict[str, Any], redacts: bool) -> None:
    with contextlib.closing(Ears(redacts=redacts, watched=True, recovers=True)) as ears:
        ears.hear(Told(json.dumps(told)))
        assert ears.hear(Told(json.dumps(stock("agent_status", {**STATUS, "number": 2, "offset": 3}))))


@pytest.mark.parametrize("body", [None, 5, [], {}, True])
def test_a_message_whose_body_is_no_text_says_nothing(body: Any) -> None:
    with contextlib.closing(Ears(redacts=False, watched=True, recovers=True)) as ears:
        assert ears.hear(Told(body)) == []


# -- through a broker ---------------------------------------------------------------------------------------------


class Channel:
    """Both ends of a channel on a broker, and a stranger who says what he likes between the good ones."""

    def __init__(self, url: str) -> None:
        self.heard: list[int] = []
        self._numbers = itertools.count()
        self._ears, self._mouth = every_room(url), RealtimeKombuManager(url, write_only=True)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        assert self._ears.wait_until_listening(60)
        self._stranger = kombu.Connection(url)
        self._publish = self._stranger.Producer(
            exchange=kombu.Exchange("socketio", type="fanout", durable=False)
        ).publish
        self._redis = redis.Redis.from_url(url) if url.startswith("redis:") else None
        self._topic = f"/{url.rpartition('/')[2]}.socketio"

    def _listen(self) -> None:
        for items in self._ears.reader.read():
            self.heard += [item.data for item in items if isinstance(item, Emit) and item.event == "counted"]

    def count(self) -> int:
        """Say a good one, and return its number."""
        number = next(self._numbers)
        assert self._mouth.publish_events([Outgoing("alpha", "counted", b"%d" % number)]) == 1
        return number

    def disturb(self, body: bytes, content_type: str, encoding: str) -> None:
        """Say something that kombu has an envelope for."""
        self._publish(body, content_type=content_type, content_encoding=encoding)

    def disturb_bare(self, envelope: bytes) -> None:
        """Say something on Redis that no envelope is around."""
        assert self._redis is not None
        self._redis.publish(self._topic, envelope)

    def heard_between(self, disturb: Callable[[Any], None], poisons: list[Any]) -> bool:
        """Return whether all good ones around poisons are heard, in order, and without a new connection."""
        self.heard.clear()
        failures = self._ears.reader.loop.failures
        generation = self._ears.generation
        counted = [self.count()]
        for poison in poisons:
            disturb(poison)
            counted.append(self.count())
        wait_for(lambda: self.heard[-1:] == counted[-1:])
        is_whole = self._ears.reader.loop.failures == failures and self._ears.generation == generation
        return self.heard == counted and is_whole

    def close(self) -> None:
        self._ears.stop_listening()
        self.count()
        self._thread.join(60)
        self._mouth.close()
        self._stranger.release()
        if self._redis is not None:
            self._redis.close()


@pytest.fixture(scope="module")
def channel(module_broker: Broker) -> Iterator[Channel]:
    with contextlib.closing(Channel(module_broker.url)) as channel:
        yield channel


@pytest.fixture(scope="module")
def redis_channel(brokers: Brokers) -> Iterator[Channel]:
    with contextlib.closing(Channel(brokers.make("redis").url)) as channel:
        yield channel


ENVELOPE = {
    "body": "eyJtZXRob2QiOiAiZW1pdCJ9",
    "content-encoding": "utf-8",
    "content-type": "text/plain",
    "headers": {},
    "properties": {
        "delivery_mode": 1,
        "delivery_info": {"exchange": "socketio", "routing_key": ""},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": "tag",
    },
}
ENVELOPE_WORDS = [
    *ENVELOPE,
    *ENVELOPE["properties"],
    "text/plain",
    "application/json",
    "utf-8",
    "binary",
    "zip",
    "eA==",
]
envelopes = material.near(st.just(ENVELOPE), material.values(ENVELOPE_WORDS)).map(material.written)
encodings = st.sampled_from(["utf-8", "binary", "us-ascii", "utf-16", "unheard of"])


@tried(12, share=0.05, shrinks=False)
@given(st.lists(st.tuples(bodies, content_types.map(str), encodings), min_size=1, max_size=4))
def test_messages_around_poison_on_a_broker_are_received(channel: Channel, poisons: list[Any]) -> None:
    assert channel.heard_between(lambda poison: channel.disturb(*poison), poisons)


@tried(12, share=0.05, shrinks=False)
@given(st.lists(envelopes | material.spoilt(envelopes) | st.binary(max_size=20), min_size=1, max_size=4))
def test_messages_around_a_bare_publish_on_redis_are_received(redis_channel: Channel, poisons: list[Any]) -> None:
    assert redis_channel.heard_between(redis_channel.disturb_bare, poisons)
