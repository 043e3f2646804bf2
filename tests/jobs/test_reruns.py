"""What is kept of a job's message, and what is published when the job is run again: with a real Redis, no worker."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import logging
import pickle
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from celery import chain, chord, group, signals
from kombu import Producer, Queue

from celery_realtime import Realtime, events
from celery_realtime.events import Job
from celery_realtime.exceptions import ImproperlyConfigured, RerunError
from celery_realtime.history.kept import KeptMessages
from celery_realtime.jobs import reruns
from celery_realtime.jobs.seams import publish_bytes
from celery_realtime.kept_messages import OVERHEAD, Publication, WaitingMessages
from tests.processes import free_port
from tests.recording import new_app
from tests.waiting import wait_for

SECRET = "a long and random string of the tests"
OTHER_SECRET = "another long and random string of the tests"
HEADERS = {"project_id": "p"}


def work(*_: Any, **__: Any) -> None:
    """Do nothing."""


class Message(NamedTuple):
    """A message in a queue."""

    headers: dict[str, Any]
    properties: dict[str, Any]
    content: tuple[str, str]
    body: bytes

    @property
    def arguments(self) -> list[Any]:
        """The body of a message in JSON: positional and keyword arguments, and what it carries along."""
        loaded: list[Any] = json.loads(self.body)
        return loaded


class Shop:
    """An app that keeps messages, on a Redis of its own.

    Args:
        url: The Redis.
        **settings: Of the Realtime.
    """

    def __init__(self, url: str, **settings: Any) -> None:
        self.app = new_app(broker=url, backend=url)
        self.realtime = Realtime(self.app, **{"secret_key": SECRET, "keep_messages": True, **settings})
        self.redis = redis.Redis.from_url(url)
        self.add = self.app.task(shared=False, name="add")(work)

    def task(self, name: str, **options: Any) -> Any:
        return self.app.task(shared=False, name=name, **options)(work)

    def end(self, job_id: str, project: str = "p") -> None:
        """Report that a job has ended."""
        assert self.realtime.flush(60)
        history = self.realtime.manager.history
        assert history is not None
        job = Job(job_id=job_id, project_id=project, run=history.job_and_run(project, job_id)[1])
        self.realtime.manager.put(events.outgoing_status(events.status_change(job, "SUCCESS"), job=job))
        assert self.realtime.flush(60)

    def publish(self, task: Any = None, args: tuple[Any, ...] = (), **options: Any) -> tuple[str, Message]:
        """Publish a job, have it end, and return its id and its message."""
        job_id = (task or self.add).apply_async(args, **{"headers": HEADERS, **options}).id
        self.end(job_id)
        return job_id, self.take(options.get("queue", "celery"))

    def rerun(self, job_id: str, queue: str = "celery") -> tuple[str, Message]:
        """Run a job again, and return the new one's id and message."""
        new_id = self.realtime.rerun(job_id)
        assert self.realtime.flush(60)
        return new_id, self.take(queue)

    def take(self, queue: str = "celery") -> Message:
        """Take the oldest message of a queue, of whatever priority."""
        keys = sorted(key for key in self.redis.scan_iter(f"{queue}*") if self.redis.type(key) == b"list")
        raw = json.loads(self.redis.rpop(keys[0]))
        content = raw["content-type"], raw["content-encoding"]
        return Message(raw["headers"], raw["properties"], content, base64.b64decode(raw["body"]))

    def snapshot(self, job_id: str, project: str = "p") -> dict[str, Any]:
        """Return a job as a snapshot has it."""
        history = self.realtime.manager.history
        assert history is not None
        return history.job(project, job_id) or {}

    def kept_keys(self, project: str = "p") -> list[str]:
        """Return the keys of what is kept of a project."""
        history = self.realtime.manager.history
        assert history is not None
        return history.keys.kept(project)

    def kept(self) -> dict[bytes, bytes]:
        """Return what is kept of the project, by the ids of the jobs; and the sum of it under the empty id."""
        return self.redis.hgetall(self.kept_keys()[0])


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests publish is stored before they go on."""
    monkeypatch.setattr(reruns, "LONGEST_DELAY", 0.0)


@pytest.fixture
def make_shop(redis_url: str) -> Iterator[Callable[..., Shop]]:
    made: list[Shop] = []

    def make(**settings: Any) -> Shop:
        made.append(Shop(redis_url, **settings))
        return made[-1]

    yield make
    for shop in made:
        shop.realtime.manager.close_publisher()


@pytest.fixture
def shop(make_shop: Callable[..., Shop]) -> Shop:
    return make_shop()


def refusal(shop: Shop, job_id: str) -> str:
    with pytest.raises(RerunError) as caught:
        shop.realtime.rerun(job_id)
    return f"{caught.value.code}: {caught.value}"


NOT_KEPT = "unavailable: the message of this job is not kept, or not any more, so it cannot be run again"

#: Headers that a new job has for itself.
OWN = ("id", "root_id", "origin", "realtime_run", "rerun_of", "expires")


# -- the same job ---------------------------------------------------------------------------------------------------


def test_the_new_job_has_all_of_the_message_but_who_it_is(shop: Shop) -> None:
    shop.app.conf.task_queues = [Queue("celery"), Queue("slow", routing_key="slow")]
    task = shop.task("labelled", label="Add {0} to {name}")
    job_id, before = shop.publish(
        task,
        ("größe",),
        kwargs={"name": "日本", "b": [1, {"c": None}]},
        headers={**HEADERS, "tenant": "t1"},
        queue="slow",
        priority=6,
        time_limit=60,
        soft_time_limit=50.5,
        shadow="a shadow",
        ignore_result=True,
        argsrepr="('***',)",
        kwargsrepr="{...}",
        countdown=3600,
        stamped_headers=["stamp"],
        stamp="value",
    )
    new_id, after = shop.rerun(job_id, "slow")
    assert new_id != job_id
    assert after.content == before.content
    assert after.arguments == before.arguments
    same = {name: value for name, value in before.headers.items() if name not in OWN}
    assert {name: after.headers[name] for name in same} == {**same, "eta": None}
    assert after.headers.keys() - before.headers.keys() == {"rerun_of", "label"}
    own = {name: after.headers[name] for name in ("id", "root_id", "parent_id", "group", "rerun_of", "label")}
    assert own == {
        "id": new_id,
        "root_id": new_id,
        "parent_id": None,
        "group": None,
        "rerun_of": job_id,
        "label": "Add größe to 日本",
    }
    names = ("priority", "delivery_mode", "delivery_info")
    assert {name: after.properties[name] for name in names} == {name: before.properties[name] for name in names}
    assert after.properties["correlation_id"] == new_id
    queued = shop.snapshot(new_id)
    described = {name: queued[name] for name in ("status", "task", "label", "queue", "priority", "rerun_of")}
    assert described == {
        "status": "queued",
        "task": "labelled",
        "label": "Add größe to 日本",
        "queue": "slow",
        "priority": 6,
        "rerun_of": job_id,
    }
    assert queued["root_id"] == new_id


def test_a_job_that_was_run_again_can_be_run_again(shop: Shop) -> None:
    job_id, before = shop.publish(args=(1,))
    second, _ = shop.rerun(job_id)
    shop.end(second)
    third, after = shop.rerun(second)
    assert (after.headers["rerun_of"], after.arguments) == (second, before.arguments)
    assert shop.snapshot(third)["rerun_of"] == second


@pytest.mark.parametrize("expires", [600, datetime.now(timezone.utc) + timedelta(minutes=10)])
def test_the_new_job_has_as_long_until_it_expires(shop: Shop, expires: Any) -> None:
    job_id, before = shop.publish(expires=expires, countdown=5)
    _, after = shop.rerun(job_id)
    first, second = (datetime.fromisoformat(message.headers["expires"]) for message in (before, after))
    assert timedelta(0) < second - first < timedelta(minutes=5)
    assert abs(float(after.properties["expiration"]) - float(before.properties["expiration"])) < 1


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack"])
def test_each_serializer_has_its_own_body(shop: Shop, serializer: str) -> None:
    pytest.importorskip(serializer)
    job_id, before = shop.publish(args=({"a": [1, "ü"]},), serializer=serializer)
    _, after = shop.rerun(job_id)
    assert (after.content, after.headers["task"]) == (before.content, "add")
    if serializer == "pickle":
        assert pickle.loads(after.body) == pickle.loads(before.body)
    else:
        assert after.body == before.body


def test_the_serializer_of_a_route_and_of_the_configuration_count(shop: Shop) -> None:
    shop.app.conf.update(task_routes={"routed": {"serializer": "pickle"}}, task_serializer="yaml")
    for name, kind in (("routed", "application/x-python-serialize"), ("other", "application/x-yaml")):
        job_id = shop.app.send_task(name, (1,), headers=HEADERS).id
        shop.end(job_id)
        before = shop.take()
        assert (before.content[0], shop.rerun(job_id)[1].content) == (kind, before.content)


def test_a_compressed_body_is_compressed_again(shop: Shop) -> None:
    job_id, before = shop.publish(args=("x" * 1000,), compression="zlib")
    _, after = shop.rerun(job_id)
    assert after.headers["compression"] == before.headers["compression"]
    assert zlib.decompress(after.body) == zlib.decompress(before.body)


def test_a_message_of_the_older_protocol_is_published_in_the_newer_one(shop: Shop) -> None:
    shop.app.conf.task_protocol = 1
    job_id, before = shop.publish(args=(1,), kwargs={"b": 2}, time_limit=9, expires=600)
    assert before.arguments["id"] == job_id  # type: ignore[call-overload]
    new_id, after = shop.rerun(job_id)
    assert (after.headers["id"], after.headers["task"], after.headers["timelimit"]) == (new_id, "add", [9, None])
    assert after.arguments[:2] == [[1], {"b": 2}]
    assert after.headers["project_id"] == "p"


def test_what_other_receivers_write_into_a_message_is_kept(shop: Shop) -> None:
    def write(headers: Any = None, **_: Any) -> None:
        headers["written"] = "late"

    signals.before_task_publish.connect(write)
    try:
        job_id, _ = shop.publish()
    finally:
        signals.before_task_publish.disconnect(write)
    assert shop.rerun(job_id)[1].headers["written"] == "late"


def test_a_published_job_is_the_same_with_and_without(make_shop: Callable[..., Shop]) -> None:
    kept, plain = (make_shop(keep_messages=keep).publish(args=(1,), priority=2, expires=60) for keep in (True, False))
    assert kept[1].headers.keys() == plain[1].headers.keys()
    assert kept[1].arguments == plain[1].arguments


# -- canvas ---------------------------------------------------------------------------------------------------------


def test_a_step_of_a_chain_stands_alone(shop: Shop) -> None:
    job = chain(shop.add.s(1), shop.add.s(2)).apply_async(headers=HEADERS)
    first = job.parent.id
    shop.end(first)
    assert shop.take().arguments[2]["chain"]
    _, after = shop.rerun(first)
    assert after.arguments == [[1], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]


def test_a_member_of_a_chord_is_of_no_chord_when_it_is_run_again(shop: Shop) -> None:
    result = chord([shop.add.s(1), shop.add.s(2)])(shop.add.s())
    member = result.parent.results[0].id
    assert shop.realtime.flush(60)
    assert shop.redis.hlen(shop.kept_keys()[0]) == 0  # without a project nothing is kept
    with shop.realtime.project("p"):
        result = chord([shop.add.s(1), shop.add.s(2)])(shop.add.s())
    member = result.parent.results[0].id
    shop.end(member)
    before = [shop.take() for _ in range(4)][2]
    assert before.headers["id"] == member
    assert before.headers["group"]
    assert before.arguments[2]["chord"]
    _, after = shop.rerun(member)
    assert (after.headers["group"], after.headers["group_index"]) == (None, None)
    assert after.arguments[2] == {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def test_callbacks_come_along_as_other_jobs(shop: Shop) -> None:
    link = (shop.add.s(1) | group(shop.add.s(2), shop.add.s(3)) | shop.add.s(4)).on_error(shop.add.s(5))
    link.freeze()
    job_id, before = shop.publish(link=[link, shop.add.s(6).set(task_id="fixed")], link_error=shop.add.si(7))
    _, after = shop.rerun(job_id)
    assert '"fixed"' in json.dumps(before.arguments)
    text = json.dumps(after.arguments)
    for word in ("task_id", "group_id", "root_id", "parent_id", "realtime_", '"fixed"', job_id):
        assert word not in text, word
    callbacks = after.arguments[2]["callbacks"]
    assert [callback["task"] for callback in callbacks] == [one["task"] for one in before.arguments[2]["callbacks"]]
    assert callbacks[1]["args"] == [6]
    assert after.arguments[2]["errbacks"][0]["args"] == [7]


def test_a_task_in_a_group_and_one_that_is_called_by_name_are_kept(shop: Shop) -> None:
    result = group(shop.add.s(1), shop.add.s(2)).apply_async(headers=HEADERS)
    named = shop.app.send_task("unknown.here", (3,), headers=HEADERS, serializer="json").id
    for job_id in (*(one.id for one in result.results), named):
        shop.end(job_id)
    for _ in range(3):
        shop.take()
    assert shop.rerun(result.results[1].id)[1].arguments[0] == [2]
    assert shop.rerun(named)[1].headers["task"] == "unknown.here"


# -- what is not kept -----------------------------------------------------------------------------------------------


def test_nothing_is_kept_unless_it_is_asked_for(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(keep_messages=False)
    job_id, _ = shop.publish()
    assert shop.kept() == {}
    assert refusal(shop, job_id) == NOT_KEPT


def test_a_task_says_whether_its_messages_are_kept(make_shop: Callable[..., Shop], caplog: Any) -> None:
    shop = make_shop(keep_messages=False)
    job_id, _ = shop.publish(shop.task("kept", keep_messages=True), (1,))
    assert shop.rerun(job_id)[1].arguments[0] == [1]
    other = make_shop()
    job_id, _ = other.publish(other.task("secret", keep_messages=False))
    assert refusal(other, job_id) == NOT_KEPT
    with caplog.at_level(logging.WARNING):
        job_id, _ = other.publish(other.task("odd", keep_messages="yes"))
    assert "keep_messages of task odd must be True or False" in caplog.text
    assert refusal(other, job_id) == NOT_KEPT


def test_a_task_that_asks_where_it_cannot_be_is_named_in_the_log(make_shop: Callable[..., Shop], caplog: Any) -> None:
    shop = make_shop(keep_messages=False, secret_key=None)
    shop.publish(shop.task("kept", keep_messages=True))
    assert "keep_messages of task kept needs both realtime_secret_key and a history" in caplog.text


def test_a_message_that_is_too_large_is_refused_by_that_name(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(keep_message_size=2000)
    small, _ = shop.publish(args=("x" * 500,))
    large, _ = shop.publish(args=("x" * 2000,))
    assert shop.rerun(small)[0]
    assert refusal(shop, large).startswith("unavailable: the message of this job was too large to be kept")


def test_a_message_that_cannot_be_kept_is_published_all_the_same(shop: Shop, caplog: Any) -> None:
    """RabbitMQ, or a broker in memory, takes headers that JSON has not."""
    shop.app.conf.broker_url = "memory://"
    job_id = shop.add.apply_async((1,), headers={**HEADERS, "odd": {1, 2}}).id
    shop.end(job_id)
    assert "cannot keep the message of a job of task add" in caplog.text
    assert refusal(shop, job_id) == NOT_KEPT


def test_only_so_many_messages_and_bytes_are_kept(make_shop: Callable[..., Shop]) -> None:
    few = make_shop(keep_messages_per_project=2)
    jobs = [few.publish(args=(number,))[0] for number in range(3)]
    assert refusal(few, jobs[0]) == NOT_KEPT
    assert [few.rerun(job_id)[1].arguments[0] for job_id in jobs[1:]] == [[1], [2]]
    assert len(few.kept()) == 3  # two, and their size
    sizes = few.kept()
    assert int(sizes.pop(b"")) == sum(map(len, sizes.values()))


def test_bytes_beyond_the_bound_push_out_the_oldest(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(keep_messages_size=8000)
    jobs = [shop.publish(args=("x" * 2000,))[0] for _ in range(4)]
    kept = shop.kept()
    assert 0 < int(kept.pop(b"")) == sum(map(len, kept.values())) <= 8000
    assert jobs[-1].encode() in kept
    assert jobs[0].encode() not in kept


def test_a_message_expires(make_shop: Callable[..., Shop]) -> None:
    """Redis forgets it; and whoever has kept it for longer, or puts it back from a backup, has nothing of it."""
    shop = make_shop(keep_messages_ttl=600)
    job_id, _ = shop.publish()
    assert all(0 < shop.redis.ttl(key) <= 600 for key in shop.kept_keys())
    later = make_shop(keep_messages_ttl=1)
    wait_for(lambda: _is_refused(later, job_id))
    assert refusal(later, job_id) == NOT_KEPT
    assert not _is_refused(shop, job_id)


def _is_refused(shop: Shop, job_id: str) -> bool:
    try:
        shop.realtime.prepare_rerun("p", job_id)
    except RerunError:
        return True
    return False


def test_what_is_kept_goes_with_the_project(shop: Shop) -> None:
    job_id, _ = shop.publish()
    history = shop.realtime.manager.history
    assert history is not None
    history.places.forget("p", [job_id])
    assert shop.kept() == {}
    assert refusal(shop, job_id) == "unavailable: no such job is on record"


def test_a_job_that_has_not_ended_is_not_run_again(shop: Shop) -> None:
    job_id = shop.add.apply_async(headers=HEADERS).id
    assert shop.realtime.flush(60)
    assert refusal(shop, job_id) == "bad_request: this job has not ended yet; wait for its end, or cancel it first"


def test_a_message_that_comes_late_is_waited_for(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker may have told all of a short job before its publisher has stored anything."""
    monkeypatch.setattr(reruns, "LONGEST_DELAY", 60.0)
    job_id, _ = shop.publish(args=(1,))
    sealed = shop.kept()[job_id.encode()]
    shop.redis.hdel(shop.kept_keys()[0], job_id)
    has_looked = threading.Event()
    read = KeptMessages.read

    def look(self: KeptMessages, *place: str) -> bytes | None:
        kept = read(self, *place)
        has_looked.set()
        return kept

    def store() -> None:
        assert has_looked.wait(60)
        shop.redis.hset(shop.kept_keys()[0], job_id, sealed)

    monkeypatch.setattr(KeptMessages, "read", look)
    thread = threading.Thread(target=store)
    thread.start()
    assert shop.rerun(job_id)[1].arguments[0] == [1]
    thread.join()


# -- who may read and change it -------------------------------------------------------------------------------------


def test_what_is_at_rest_shows_nothing_of_the_arguments(shop: Shop) -> None:
    shop.publish(args=("a very secret word",), headers={**HEADERS, "tenant": "a secret tenant"})
    stored = b"".join(
        value
        for key in shop.redis.scan_iter("celery-realtime*kept*")
        if shop.redis.type(key) == b"hash"
        for value in shop.redis.hvals(key)
    )
    for word in ("a very secret word", "a secret tenant", "add"):
        for form in (word.encode(), base64.b64encode(word.encode()).rstrip(b"=")):
            assert form not in stored


def test_a_message_that_was_moved_or_changed_is_refused(shop: Shop) -> None:
    one, _ = shop.publish(args=(1,))
    two, _ = shop.publish(args=(2,))
    kept_key = shop.kept_keys()[0]
    kept = shop.kept()
    shop.redis.hset(kept_key, two, kept[one.encode()])
    assert refusal(shop, two) == NOT_KEPT
    shop.add.apply_async((3,), task_id=one, headers={"project_id": "q"})
    shop.end(one, "q")
    shop.redis.hset(shop.kept_keys("q")[0], one, kept[one.encode()])
    with pytest.raises(RerunError):
        shop.realtime.rerun(one, "q")
    changed = bytearray(kept[one.encode()])
    changed[60] ^= 1
    for bad in (bytes(changed), b"", b"!!", b"\xff", b"x" * 200):
        shop.redis.hset(kept_key, one, bad)
        with pytest.raises(RerunError) as caught:
            shop.realtime.rerun(one, "p")
        assert (caught.value.code, str(caught.value)) == tuple(NOT_KEPT.split(": ", 1))
    shop.redis.hset(kept_key, one, kept[one.encode()])
    assert shop.realtime.rerun(one, "p")


def test_the_message_of_an_earlier_run_of_the_same_id_is_refused(shop: Shop) -> None:
    job_id, _ = shop.publish(args=(1,))
    earlier = shop.kept()[job_id.encode()]
    shop.publish(args=(2,), task_id=job_id)
    assert shop.rerun(job_id)[1].arguments[0] == [2]
    shop.redis.hset(shop.kept_keys()[0], job_id, earlier)
    assert refusal(shop, job_id) == NOT_KEPT


def test_keys_rotate(make_shop: Callable[..., Shop]) -> None:
    job_id, _ = make_shop().publish(args=(1,))
    assert refusal(make_shop(secret_key=OTHER_SECRET), job_id) == NOT_KEPT
    assert refusal(make_shop(secret_key=None, keep_messages=False), job_id) == NOT_KEPT
    both = make_shop(secret_key=[OTHER_SECRET, SECRET])
    new_id, after = both.rerun(job_id)
    assert after.arguments[0] == [1]
    both.end(new_id)
    assert make_shop(secret_key=OTHER_SECRET).rerun(new_id)[0]  # the first one seals


class Bomb:
    """What writes a file when somebody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_whoever_runs_a_job_again_does_not_read_its_arguments(make_shop: Callable[..., Shop], tmp_path: Path) -> None:
    path = tmp_path / "exploded"
    job_id, before = make_shop().publish(args=(Bomb(path),), serializer="pickle")
    _, after = make_shop().rerun(job_id)
    assert (after.content, path.exists()) == (before.content, False)
    pickle.loads(after.body)
    assert path.exists()


# -- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{"secret_key": None}, {"history_url": None}, {"secret_key": None, "history_url": None}]
)
def test_it_needs_a_secret_and_a_history(redis_url: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"needs both realtime_secret_key and a history"):
        Realtime(new_app(broker=redis_url), **{"secret_key": SECRET, "keep_messages": True, **settings})


def test_a_history_that_is_not_found_is_missed_when_settings_are_read() -> None:
    realtime = Realtime(new_app(), secret_key=SECRET, keep_messages=True)
    with pytest.raises(ImproperlyConfigured, match=r"realtime_history_url"):
        _ = realtime.settings
    assert Realtime(new_app(), enabled=False, keep_messages=True).settings.keep_messages


def test_it_needs_cryptography(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    from celery_realtime import settings

    monkeypatch.setattr(settings.importlib.util, "find_spec", lambda name: None if name == "cryptography" else True)
    with pytest.raises(ImproperlyConfigured, match=r"pip install celery-realtime\[rerun\]"):
        Realtime(new_app(broker=redis_url), secret_key=SECRET, history_url=redis_url, keep_messages=True)


# -- the broker is away ---------------------------------------------------------------------------------------------


def test_without_a_broker_no_job_is_shown(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop()
    job_id, _ = shop.publish()
    shop.app.conf.broker_url = f"amqp://127.0.0.1:{free_port()}"
    shop.app.conf.broker_write_url = None
    assert refusal(shop, job_id).startswith("unavailable: the broker cannot be reached now")
    assert shop.realtime.flush(60)
    history = shop.realtime.manager.history
    assert history is not None
    assert [job["job_id"] for job in history.read("p").jobs] == [job_id]


def shown(shop: Shop) -> list[str]:
    """Return the jobs that are shown of the project, when all that was told is stored."""
    assert shop.realtime.flush(60)
    history = shop.realtime.manager.history
    assert history is not None
    return [job["job_id"] for job in history.read("p").jobs]


def disturb(shop: Shop, disturbance: Callable[[], object]) -> None:
    """Have something happen when a message is on its way, and the connection is there."""

    class Disturbed(Producer):  # type: ignore[misc]
        def publish(self, *what: Any, **way: Any) -> Any:
            disturbance()
            return super().publish(*what, **way)

    shop.app.amqp.Producer = Disturbed


def test_a_broker_that_refuses_is_told_from_one_that_may_have_the_message(shop: Shop) -> None:
    job_id, _ = shop.publish()
    refuse = functools.partial(shop.redis.set, "celery", "no list")
    disturb(shop, refuse)
    assert "the broker has not confirmed that it has the new job" in refusal(shop, job_id)
    assert "so the job was not run again" in refusal(shop, job_id)  # it refuses to declare the queue now
    assert shown(shop) == [job_id]


@pytest.mark.long  # the test above has a broker that answers at once
def test_a_broker_that_does_not_answer_is_not_waited_for(shop: Shop) -> None:
    job_id, _ = shop.publish()
    disturb(shop, functools.partial(shop.redis.execute_command, "CLIENT", "PAUSE", 60000, "WRITE"))
    try:
        assert "the broker has not confirmed that it has the new job" in refusal(shop, job_id)
    finally:
        shop.redis.execute_command("CLIENT", "UNPAUSE")
    assert shown(shop) == [job_id]


def test_a_sentinel_that_ends_connections_is_not_asked_over_and_over() -> None:
    asked = []

    def listen() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                asked.append(connection.close())

    listener = socket.create_server(("127.0.0.1", 0))
    app = new_app(broker=f"sentinel://127.0.0.1:{listener.getsockname()[1]}/0")
    app.conf.broker_transport_options = {"master_name": "main", "sentinel_kwargs": {"socket_timeout": 60}}
    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        with pytest.raises(ConnectionError):
            publish_bytes(app, b"x", "celery", {"exchange": "", "routing_key": "celery"})
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
    assert 0 < len(asked) <= 4  # it is two: redis-py of its own accord asks 22 times


# -- what waits -----------------------------------------------------------------------------------------------------


def test_what_waits_is_bounded() -> None:
    waiting = WaitingMessages(100 + 2 * OVERHEAD)
    jobs = [Publication("p", str(number), "run") for number in range(3)]
    for job in jobs:
        waiting.put(job, b"x" * 40)
    waiting.put(jobs[2], b"y" * 50)
    assert [waiting.get(job) for job in jobs] == [None, b"x" * 40, b"y" * 50]
    waiting.forget(jobs[1])
    waiting.put(jobs[0], b"")
    assert (waiting.get(jobs[0]), len(waiting)) == (b"", 2)


def test_marks_of_messages_that_were_too_large_are_bounded_too() -> None:
    waiting = WaitingMessages(10 * OVERHEAD)
    for number in range(1000):
        waiting.put(Publication("p", str(number), "run"), b"")
        waiting.forget(Publication("p", "of nobody", "run"))
    assert len(waiting) == 10
    assert waiting.get(Publication("p", "999", "run")) == b""


def test_nothing_waits_once_it_is_stored(shop: Shop) -> None:
    shop.publish()
    assert len(shop.realtime.manager.kept) == 0
