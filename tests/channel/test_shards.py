"""A server hears of the shards that its clients watch, of no others, and of those whatever is published since."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import threading
from typing import TYPE_CHECKING, Any

import kombu
import pytest
import redis

from celery_realtime.channel.bindings import Bindings
from celery_realtime.channel.shards import Shard, by_shard, shard_of
from celery_realtime.channel.speaker import Speaker
from celery_realtime.channel.wire import announcement, frames
from celery_realtime.web import watched_shards
from tests.channels import PROBE, Channel, ChannelRecorder, async_client_manager, numbers, step
from tests.log_records import logged_by
from tests.proxy import Proxy
from tests.waiting import PATIENCE, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

    from celery_realtime.channel.kombu_manager import RealtimeKombuManager
    from celery_realtime.web.client_manager import RealtimeClientManager
    from tests.launcher import Brokers
    from tests.services import Broker

SHARDS = 8

#: A project of each shard.
PROJECTS = {shard.number: f"p{number}" for number in range(1000, 0, -1) if (shard := shard_of(f"p{number}", SHARDS))}


@pytest.fixture
def channel(broker: Broker) -> Iterator[Channel]:
    channel = Channel(broker.url)
    yield channel
    channel.close()


def enter(manager: RealtimeClientManager, project_id: str, sid: str = "sid") -> None:
    """Have a client of a server enter a project's room, as a subscription does."""
    manager.basic_enter_room(sid, "/", None, f"eio_{sid}")
    manager.basic_enter_room(sid, "/", f"project:{project_id}", f"eio_{sid}")


def watch(recorder: ChannelRecorder, *project_ids: str) -> None:
    for project_id in project_ids:
        enter(recorder.manager, project_id)
        assert recorder.manager.wait_until_listening(PATIENCE, project_id)


def heard_by(recorder: ChannelRecorder, publisher: RealtimeKombuManager) -> list[int]:
    """Return what has been heard, when all that was published before has come: it goes the same way."""
    recorder.probed.clear()
    wait_for(lambda: publisher.speaker.emit(PROBE.event, {}, room="project:alpha") and recorder.probed.wait(1))
    return numbers([emit for emit in recorder.emits if emit.event == "step"])


# -- which shard --------------------------------------------------------------------------------------------------


def test_a_project_belongs_to_the_same_shard_in_every_process() -> None:
    assert shard_of("project_456", 16) == Shard(16, 2)
    assert shard_of("café 🎉", 16) == Shard(16, 1)
    assert shard_of("project_456", 1) is None


def test_projects_are_spread_over_all_shards_about_evenly() -> None:
    shards = [shard_of(f"project_{number}", 16) for number in range(4000)]
    assert {shard.number for shard in shards if shard} == set(range(16))
    assert all(150 < shards.count(Shard(16, number)) < 350 for number in range(16))


def test_the_events_of_a_shard_stay_together_and_in_order() -> None:
    events = [step(number, PROJECTS[number % 3]) for number in range(9)]
    groups = by_shard(events, SHARDS)
    assert sorted(groups, key=lambda group: group[0].project_id) == sorted(
        (events[start::3] for start in range(3)), key=lambda group: group[0].project_id
    )
    assert by_shard(events, 1) == [events]


# -- on a broker --------------------------------------------------------------------------------------------------


def test_each_server_hears_what_its_own_clients_watch(channel: Channel) -> None:
    one, other = channel.recorder(shards=SHARDS), channel.recorder(shards=SHARDS)
    publisher = channel.publisher(shards=SHARDS)
    watch(one, PROJECTS[0], PROJECTS[1])
    watch(other, PROJECTS[1], PROJECTS[2])

    for number in range(100):
        shown = [step(10 * number + shard, PROJECTS[shard]) for shard in range(4)]
        assert publisher.publish_events(shown) == 4

    wanted = [[10 * number + shard for number in range(100) for shard in shards] for shards in ((0, 1), (1, 2))]
    assert [sorted(heard_by(recorder, publisher)) for recorder in (one, other)] == wanted


def test_with_one_shard_every_server_hears_everything_as_before(channel: Channel) -> None:
    recorder, publisher = channel.recorder(), channel.publisher()
    assert recorder.manager.wait_until_listening(PATIENCE, "alpha")
    publisher.publish_events([step(1), step(2, "beta")])
    assert heard_by(recorder, publisher) == [1, 2]


def test_orders_and_pythonsocketios_own_messages_go_to_every_server(channel: Channel) -> None:
    recorders = [channel.recorder(shards=SHARDS) for _ in range(2)]
    publisher = channel.publisher(shards=SHARDS)
    assert publisher.order({"action": "disconnect", "user": "ada"})
    assert publisher.speaker.emit("notice", {"number": 1}, room="project:alpha")
    for recorder in recorders:
        assert recorder.wait_for_count(1)[0].event == "notice"
        assert [message["user"] for message in recorder.messages if "user" in message] == ["ada"]


class Traffic:
    """Publishes in a thread, a number after the other to each project, for as long as it is entered.

    Args:
        publisher: Publishes.

    Attributes:
        newest: The newest number; it counts as appended to a history before it is published.
    """

    def __init__(self, publisher: RealtimeKombuManager) -> None:
        self.newest = 0
        self._publisher = publisher
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._publish, daemon=True)

    def _publish(self) -> None:
        while not self._stopped.wait(0.002):
            self.newest += 1
            events = [step(self.newest, name) for name in PROJECTS.values()]
            while events:
                del events[: self._publisher.publish_events(events)]

    def __enter__(self) -> Self:
        self._thread.start()
        self.flow()
        return self

    def flow(self) -> None:
        """Wait until some more has been published."""
        goal = self.newest + 20
        wait_for(lambda: self.newest > goal)

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(PATIENCE)


def test_a_subscription_amid_heavy_traffic_misses_nothing_of_what_its_snapshot_lacks(channel: Channel) -> None:
    """An event is appended to a history before it is published, and a snapshot is read after joining."""
    publisher = channel.publisher(shards=SHARDS)
    for _ in range(5):
        recorder = channel.recorder(shards=SHARDS)
        snapshots: dict[str, int] = {}
        with Traffic(publisher) as traffic:
            for name in PROJECTS.values():
                watch(recorder, name)
                snapshots[name] = traffic.newest
            traffic.flow()
        heard_by(recorder, publisher)
        if recorder.manager.generation == 1:  # or else the machine is so slow that it has listened anew
            break
    for name, snapshot in snapshots.items():
        since = {emit.data["number"] for emit in recorder.emits if emit.room == f"project:{name}"}
        assert {number for number in since if number > snapshot} == set(range(snapshot + 1, traffic.newest + 1))


def test_a_shard_that_nobody_watches_any_more_is_left_and_heard_again_when_it_is_watched(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched_shards, "LINGER", 0.0)
    monkeypatch.setattr(watched_shards, "SWEEP_INTERVAL", 0.0)
    recorder, publisher = channel.recorder(shards=SHARDS), channel.publisher(shards=SHARDS)
    manager, listener = recorder.manager, recorder.manager.reader.listener
    watch(recorder, PROJECTS[0], PROJECTS[1])

    manager.left = frozenset({f"project:{PROJECTS[0]}"})
    wait_for(lambda: listener.bindings.wanted() == {Shard(SHARDS, 1)})
    heard_by(recorder, publisher)  # the listener has had a turn since
    publisher.publish_events([step(1, PROJECTS[0]), step(2, PROJECTS[1])])
    assert heard_by(recorder, publisher) == [2]

    manager.left = frozenset()
    watch(recorder, PROJECTS[0])
    publisher.publish_events([step(3, PROJECTS[0])])
    assert heard_by(recorder, publisher) == [2, 3]


def test_a_client_that_the_application_places_in_a_room_hears_its_project(channel: Channel) -> None:
    recorder, publisher = channel.recorder(shards=SHARDS), channel.publisher(shards=SHARDS)
    enter(recorder.manager, PROJECTS[5])
    wait_for(lambda: recorder.manager.reader.listener.bindings.wait([Shard(SHARDS, 5)], 0))
    publisher.publish_events([step(1, PROJECTS[5])])
    assert heard_by(recorder, publisher) == [1]


@pytest.mark.parametrize(("of_publisher", "of_server"), [(4, SHARDS), (4, 1), (1, SHARDS)])
def test_another_number_of_shards_is_reported_and_followed(
    channel: Channel, caplog: pytest.LogCaptureFixture, of_publisher: int, of_server: int
) -> None:
    caplog.set_level(logging.WARNING, "celery_realtime")
    recorder, publisher = channel.recorder(shards=of_server), channel.publisher(shards=of_publisher)
    watch(recorder, "alpha")
    later = iter(range(1, 100_000))
    wait_for(lambda: publisher.publish_events([step(next(later))]) and recorder.emits)

    first = max(heard_by(recorder, publisher))
    publisher.publish_events([step(number) for number in range(first + 1, first + 51)])
    assert heard_by(recorder, publisher)[-50:] == list(range(first + 1, first + 51))
    lines = [record.getMessage() for record in logged_by(caplog, "celery_realtime.web.watched_shards")]
    assert len(lines) == 1
    assert f"realtime_shards = {of_publisher}, and this web server {of_server}" in lines[0]


def test_the_same_number_of_shards_is_nothing_to_report(channel: Channel, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "celery_realtime")
    recorder, publisher = channel.recorder(shards=SHARDS), channel.publisher(shards=SHARDS)
    watch(recorder, "alpha")
    publisher.publish_events([step(1)])
    assert heard_by(recorder, publisher) == [1]
    assert logged_by(caplog, "celery_realtime.web.watched_shards") == []


@pytest.mark.parametrize("announced", [None, "16", True, 0, -1, 10**9, 16.0, [16]])
def test_an_announcement_of_no_number_is_ignored(channel: Channel, announced: Any) -> None:
    recorder, publisher = channel.recorder(shards=SHARDS), channel.publisher(shards=SHARDS)
    watch(recorder, "alpha")
    message = {"method": "celery_realtime_shards", "shards": announced}
    channel.publish_raw(message, serializer="json")
    assert heard_by(recorder, publisher) == []
    assert recorder.manager.reader.listener.bindings.totals == {SHARDS}


def test_a_frame_that_says_nothing_sensible_of_where_it_was_published_is_heard(redis_broker: Broker) -> None:
    channel = Channel(redis_broker.url)
    recorder, publisher = channel.recorder(shards=SHARDS), channel.publisher(shards=SHARDS)
    [(_, body)] = frames([step(1)], "a stranger", "/")
    with redis.Redis.from_url(redis_broker.url) as client:
        for where in (["exchange"], "socketio", 7, True):
            properties = {"delivery_tag": "1", "delivery_info": where}
            message = {"body": body.decode(), "content-type": "text/plain", "headers": {}, "properties": properties}
            client.publish(topic(redis_broker), json.dumps(message))
    assert heard_by(recorder, publisher) == [1, 1, 1, 1]
    assert recorder.manager.reader.loop.failures == 0
    channel.close()


def test_an_asyncio_server_hears_what_its_clients_watch(channel: Channel) -> None:
    publisher = channel.publisher(shards=SHARDS)

    async def serve() -> tuple[list[bool], set[Shard], bool]:
        manager = async_client_manager(channel.url, shards=SHARDS)
        manager.server = None
        manager._attached.set()
        manager.start_listening()
        try:
            waits = [manager.wait_until_listening(PATIENCE, name) for name in PROJECTS.values() for _ in range(20)]
            heard = list(await asyncio.gather(*waits))
            return heard, manager.reader.listener.bindings.wanted(), manager.reader.listener.bindings.is_complete
        finally:
            manager.stop_listening()
            thread = manager.listener_thread
            assert thread is not None
            await asyncio.to_thread(publisher.order, {"action": "wake up"})
            await asyncio.to_thread(thread.join, PATIENCE)
            manager.close()

    heard, wanted, is_complete = asyncio.run(serve())
    assert heard == [True] * len(heard)
    assert len(wanted) == SHARDS
    assert is_complete


# -- Redis --------------------------------------------------------------------------------------------------------


def topic(broker: Broker, shard: int | None = None, prefix: str = "") -> str:
    """Return the name of a channel of Redis: that of a shard, or that of all servers."""
    name = "socketio" if shard is None else f"socketio.{SHARDS}/{shard}"
    return f"{prefix}/{broker.url.rpartition('/')[2]}.{name}"


def test_a_batch_becomes_one_message_a_shard_and_an_announcement_now_and_then(redis_broker: Broker) -> None:
    channel = Channel(redis_broker.url)
    publisher = channel.publisher(shards=SHARDS)
    with redis.Redis.from_url(redis_broker.url) as client, client.pubsub() as pubsub:
        pubsub.subscribe(topic(redis_broker), *(topic(redis_broker, shard) for shard in range(3)))
        confirmed = [wait_for(lambda: pubsub.get_message(timeout=1)) for _ in range(4)]
        assert {message["type"] for message in confirmed} == {"subscribe"}
        for start in (0, 100):
            events = [step(start + number, PROJECTS[number % 4]) for number in range(40)]
            assert publisher.publish_events(events) == 40
        topics = [wait_for(lambda: pubsub.get_message(timeout=1))["channel"].decode() for _ in range(7)]
        assert pubsub.get_message(timeout=0.1) is None
    channel.close()
    assert topics[0] == topic(redis_broker)
    assert topics[1:] == 2 * [topic(redis_broker, shard) for shard in range(3)]


def test_nothing_is_sent_to_redis_for_a_shard_that_nobody_hears_until_somebody_does(redis_broker: Broker) -> None:
    channel = Channel(redis_broker.url)
    publisher = channel.publisher(shards=SHARDS)
    assert publisher.publish_events([step(0, PROJECTS[3])]) == 1  # with the announcement
    with redis.Redis.from_url(redis_broker.url) as client, client.pubsub() as pubsub:
        pubsub.psubscribe(topic(redis_broker, 3))  # which does not count as a server
        assert wait_for(lambda: pubsub.get_message(timeout=1))["type"] == "psubscribe"
        for number in range(1, 11):
            assert publisher.publish_events([step(number, PROJECTS[3])]) == 1
        client.publish(topic(redis_broker, 3), b"the first message")
        assert wait_for(lambda: pubsub.get_message(timeout=1))["data"] == b"the first message"
    recorder = channel.recorder(shards=SHARDS)
    watch(recorder, PROJECTS[3])
    for number in range(11, 21):
        assert publisher.publish_events([step(number, PROJECTS[3])]) == 1
    assert heard_by(recorder, publisher) == list(range(11, 21))
    channel.close()


def test_shards_cost_a_publisher_no_further_connection(redis_broker: Broker) -> None:
    channel = Channel(redis_broker.url)
    publisher = channel.publisher(shards=SHARDS)
    with redis.Redis.from_url(redis_broker.url) as client, client.pubsub() as pubsub:
        pubsub.subscribe(topic(redis_broker, 3))
        assert wait_for(lambda: pubsub.get_message(timeout=1))["type"] == "subscribe"
        before = connections_here(client)
        assert publisher.publish_events([step(1, PROJECTS[3]), step(2, PROJECTS[4])]) == 2
        assert b"step" in base64.b64decode(json.loads(wait_for(lambda: pubsub.get_message(timeout=1))["data"])["body"])
        assert connections_here(client) == before + 1
    channel.close()


def connections_here(client: redis.Redis) -> int:
    """Return how many connections are to the database of a client, which is this test's alone."""
    database = str(client.connection_pool.connection_kwargs["db"])
    return [entry["db"] for entry in client.client_list()].count(database)


def test_shards_are_heard_behind_a_prefix_of_all_keys(redis_broker: Broker) -> None:
    options = {"connection_options": {"transport_options": {"global_keyprefix": "staging:"}}, "shards": SHARDS}
    channel = Channel(redis_broker.url)
    recorder, publisher = channel.recorder(**options), channel.publisher(**options)
    watch(recorder, PROJECTS[3])
    for number in range(10):
        assert publisher.publish_events([step(number, PROJECTS[3]), step(number, PROJECTS[4])]) == 2
    assert heard_by(recorder, publisher) == list(range(10))
    with redis.Redis.from_url(redis_broker.url) as client:
        assert client.pubsub_numsub(topic(redis_broker, 3, "staging:"), topic(redis_broker, 3)) == [
            (topic(redis_broker, 3, "staging:").encode(), 1),
            (topic(redis_broker, 3).encode(), 0),
        ]
    recorder.stop()  # the channel's own probe has no prefix
    publisher.publish_events([step(11, PROJECTS[3])])
    channel.close()


def test_nothing_reaches_a_server_of_a_shard_that_it_does_not_watch(redis_broker: Broker) -> None:
    channel = Channel(redis_broker.url)
    recorder = channel.recorder(shards=SHARDS)
    watch(recorder, PROJECTS[3])
    with redis.Redis.from_url(redis_broker.url) as client:
        receivers = [client.publish(topic(redis_broker, shard), b"{}") for shard in range(SHARDS)]
    assert receivers == [0, 0, 0, 1, 0, 0, 0, 0]
    channel.close()


# -- RabbitMQ -----------------------------------------------------------------------------------------------------


def test_a_queue_that_is_gone_is_made_again_with_all_bindings(rabbitmq_broker: Broker) -> None:
    channel = Channel(rabbitmq_broker.url)
    recorder, publisher = channel.recorder(shards=SHARDS), channel.publisher(shards=SHARDS)
    watch(recorder, *PROJECTS.values())
    generation = recorder.manager.generation
    with kombu.Connection(rabbitmq_broker.url) as connection:
        connection.default_channel.exchange_delete("socketio")  # what was bound to it hears nothing any more
    wait_for(lambda: recorder.manager.generation > generation)
    publisher.close()
    publisher.publish_events([step(number, name) for number, name in PROJECTS.items()])
    assert sorted(heard_by(recorder, publisher)) == list(range(SHARDS))
    channel.close()


# -- outages ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["redis", pytest.param("own_rabbitmq", marks=pytest.mark.long)])
def fragile_broker(request: pytest.FixtureRequest, brokers: Brokers) -> Broker:
    """A broker that the test may restart."""
    return brokers.make(request.param)


def test_a_server_whose_broker_restarts_hears_all_its_shards_before_anything_else(fragile_broker: Broker) -> None:
    channel = Channel(fragile_broker.url)
    recorder, publisher = channel.recorder(shards=SHARDS), channel.publisher(shards=SHARDS)
    listener = recorder.manager.reader.listener
    watch(recorder, *PROJECTS.values())
    generation = listener.generation
    complete: list[bool] = []
    note = listener._note_hearing

    def noting() -> None:
        complete.append(listener.bindings.is_complete)
        note()

    listener._note_hearing = noting  # type: ignore[method-assign]
    fragile_broker.server.kill()
    wait_for(lambda: not listener.wait(0))
    assert not recorder.manager.wait_until_listening(0.01, PROJECTS[0])
    fragile_broker.server.start()
    wait_for(lambda: listener.generation > generation)

    wait_for(lambda: publisher.publish_events([step(1, name) for name in PROJECTS.values()]) == SHARDS)
    heard_by(recorder, publisher)
    assert {emit.room for emit in recorder.emits} == {f"project:{name}" for name in PROJECTS.values()}
    assert set(complete) == {True}
    channel.close()


def test_an_announcement_that_a_dead_connection_has_swallowed_is_made_again(
    redis_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = Channel(redis_broker.url)
    with Proxy(redis_broker.url) as proxy, redis.Redis.from_url(redis_broker.url) as client, client.pubsub() as pubsub:
        publisher = channel.publisher(shards=SHARDS)
        publisher.speaker = Speaker(proxy.url, shards=SHARDS)
        with monkeypatch.context() as patched:
            patched.setattr("celery_realtime.channel.speaker.ANNOUNCE_EVERY", 0.0)
            assert publisher.publish_events([step(1)]) == 1
        pubsub.subscribe(topic(redis_broker))
        assert wait_for(lambda: pubsub.get_message(timeout=1))["type"] == "subscribe"
        proxy.refuse()
        proxy.heal()
        wait_for(lambda: publisher.publish_events([step(2)]) == 1)
        message = wait_for(lambda: pubsub.get_message(timeout=1))
        body = base64.b64decode(json.loads(message["data"])["body"])
        assert body == announcement(SHARDS, publisher.speaker.host_id)
        channel.close()


def test_a_listener_whose_connection_is_dead_when_it_has_to_bind_a_shard_makes_a_new_one(
    channel: Channel, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery_realtime.channel.bindings.ANSWER_TIMEOUT", 1.0)
    with Proxy(broker.url) as proxy:
        recorder, publisher = ChannelRecorder(proxy.url, shards=SHARDS), channel.publisher(shards=SHARDS)
        watch(recorder, PROJECTS[0])
        generation = recorder.manager.generation
        proxy.stall(new=False)
        enter(recorder.manager, PROJECTS[1])
        wait_for(lambda: recorder.manager.generation > generation)
        watch(recorder, PROJECTS[1])
        publisher.publish_events([step(1, PROJECTS[1])])
        assert heard_by(recorder, publisher) == [1]
        recorder.stop()
        publisher.publish_events([PROBE])
        recorder.close()


def test_a_server_that_may_not_listen_to_shards_which_others_announce_goes_on_without_them(
    brokers: Brokers, caplog: pytest.LogCaptureFixture
) -> None:
    broker = brokers.make("redis")
    database = broker.url.rpartition("/")[2]
    user = f"listens{database}"
    rights = ["on", ">secret", "~*", "resetchannels", f"&/{database}.socketio", "+@all", "-@dangerous"]
    channel = Channel(broker.url)
    with redis.Redis.from_url(broker.url) as client:
        client.execute_command("ACL", "SETUSER", user, *rights)
        try:
            recorder = ChannelRecorder(broker.url.replace("//", f"//{user}:secret@"))
            watch(recorder, "alpha")
            publisher, plain = channel.publisher(shards=SHARDS), channel.publisher()
            listener = recorder.manager.reader.listener
            wait_for(lambda: publisher.publish_events([step(0)]) and listener.bindings.totals == {SHARDS})
            wait_for(lambda: "does not let this user listen to the shards of 8" in caplog.text)
            wait_for(lambda: plain.publish_events([step(1)]) and recorder.emits)  # it had to listen anew
            heard_by(recorder, plain)
            assert "but not publish" not in caplog.text
            wait_for(lambda: recorder.manager.is_hearing)
            watch(recorder, "beta")  # which waits for nothing that cannot be
            recorder.stop()
            plain.publish_events([PROBE])
            recorder.close()
        finally:
            client.execute_command("ACL", "DELUSER", user)
    channel.close()


# -- waiting ------------------------------------------------------------------------------------------------------


def test_what_cannot_be_bound_in_time_is_reported_and_is_wanted_all_the_same() -> None:
    bindings = Bindings()
    bindings.want([Shard(8, 1)])
    assert not bindings.wait([Shard(8, 1)], 0.01)
    assert bindings.wanted() == {Shard(8, 1)}


def test_nobody_is_told_that_a_shard_is_heard_which_has_just_been_dropped() -> None:
    bindings = Bindings()
    bindings.want([Shard(8, 1)])
    bindings.note_bound(Shard(8, 1))
    assert bindings.wait([Shard(8, 1)], 0)
    bindings.drop([Shard(8, 1)])
    bindings.want([Shard(8, 1)])
    assert not bindings.wait([Shard(8, 1)], 0)
