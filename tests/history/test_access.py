"""What access was taken back is on record with the time of Redis, and so is which web servers have carried it out."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis

from celery_realtime.history import access
from celery_realtime.history.access import DISCONNECTED_TTL, REVOKED_TTL, AccessRecord, Taken
from celery_realtime.history.lua import Runner
from tests.lua_scripts import KEYS

REVOKED, DISCONNECTED, NAME, SERVERS = KEYS.leases("revoked", "disconnected", "access", "servers")


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


@pytest.fixture
def record(client: redis.Redis) -> AccessRecord:
    return AccessRecord(KEYS, Runner(client))


def redis_time(client: redis.Redis) -> float:
    seconds, microseconds = client.time()  # type: ignore[misc]
    return float(seconds) + float(microseconds) / 1e6


def revoked_at(record: AccessRecord, user: str, project: str) -> float | None:
    return next((one.at for one in record.look(None).taken if (one.user, one.project) == (user, project)), None)


# -- taking access back ---------------------------------------------------------------------------------------------


def test_a_revocation_has_the_time_of_redis(record: AccessRecord, client: redis.Redis) -> None:
    before = redis_time(client)
    at = record.revoke("ada", "p")
    assert before <= at <= redis_time(client) + 0.001
    assert revoked_at(record, "ada", "p") == at
    assert revoked_at(record, "ada", "q") is None
    assert revoked_at(record, "bob", "p") is None


def test_the_latest_time_counts_and_no_two_are_the_same(record: AccessRecord) -> None:
    times = [record.revoke("ada", "p"), record.disconnect("ada"), record.revoke("bob", "p"), record.revoke("ada", "p")]
    assert times == sorted(set(times))
    assert revoked_at(record, "ada", "p") == times[-1]


def test_times_rise_although_the_clock_of_redis_was_put_back(record: AccessRecord, client: redis.Redis) -> None:
    later = redis_time(client) + 1000
    client.zadd(DISCONNECTED, {'"bob"': later})
    assert record.revoke("ada", "p") > later


def test_what_is_old_is_forgotten(record: AccessRecord, client: redis.Redis) -> None:
    now = redis_time(client)
    client.zadd(REVOKED, {'["old","p"]': now - REVOKED_TTL - 1, '["ada","q"]': now - REVOKED_TTL + 60})
    client.zadd(DISCONNECTED, {'"old"': now - DISCONNECTED_TTL - 1})
    record.revoke("ada", "p")
    assert (client.zcard(REVOKED), client.zcard(DISCONNECTED)) == (2, 0)
    assert 0 < client.ttl(REVOKED) <= REVOKED_TTL + 86400  # type: ignore[operator]


# -- looking --------------------------------------------------------------------------------------------------------


def test_a_server_reads_what_was_taken_since_it_last_looked_in_order(record: AccessRecord) -> None:
    start = record.look(None)
    assert (start.taken, start.record) == ([], None)
    times = [record.revoke("ada", "p"), record.disconnect("bob"), record.revoke("ü", 'a"b')]

    look = record.look(start.up_to)
    assert look.taken == [
        Taken("ada", "p", times[0]),
        Taken("bob", None, times[1]),
        Taken("ü", 'a"b', times[2]),
    ]
    assert look.up_to == times[2]
    assert record.look(look.up_to).taken == []


def test_a_server_that_has_not_looked_before_reads_all_revocations_and_what_happened_in_the_last_seconds(
    record: AccessRecord, client: redis.Redis
) -> None:
    now = redis_time(client)
    client.zadd(REVOKED, {'["ada","p"]': now - 60})
    client.zadd(DISCONNECTED, {'"eve"': now - 60})
    at = record.revoke("bob", "p")
    look = record.look(None)
    assert [(one.user, one.at > look.since) for one in look.taken] == [("ada", False), ("bob", True)]
    assert look.up_to == at


def test_entries_of_another_writer_hide_nothing(record: AccessRecord, client: redis.Redis) -> None:
    start = record.look(None).up_to
    at = record.revoke("ada", "p")
    client.zadd(REVOKED, dict.fromkeys(["junk", '["a"]', '"a"', b"\xff"], at + 1))
    client.zadd(DISCONNECTED, {"7": at + 2})
    look = record.look(start)
    assert look.taken == [Taken("ada", "p", at)]
    assert look.up_to == pytest.approx(at + 2)  # they are not read again


def test_looking_writes_nothing(record: AccessRecord, client: redis.Redis) -> None:
    record.look(None)
    record.servers()
    assert client.keys() == []


def test_what_was_lost_is_noted_again_and_later_times_stay(record: AccessRecord, client: redis.Redis) -> None:
    at = record.revoke("ada", "p")
    later = record.revoke("bob", "p")
    client.flushdb()
    record.restore([Taken("ada", "p", at), Taken("bob", "p", later), Taken("bob", None, later)])
    record.restore([Taken("bob", "p", at)])
    assert (revoked_at(record, "ada", "p"), revoked_at(record, "bob", "p")) == (at, later)
    assert client.ttl(REVOKED) > 0  # type: ignore[operator]
    assert record.look(at - 1).taken == [
        *(Taken("ada", "p", at), Taken("bob", "p", later)),
        Taken("bob", None, later),  # not carried out by all servers, perhaps
    ]


# -- servers --------------------------------------------------------------------------------------------------------


def test_servers_say_what_they_have_carried_out(record: AccessRecord) -> None:
    record.confirm("a:1", 100.0)
    record.confirm("b:1", 5.0)
    record.confirm("b:1", 7.25)
    assert {name: state.up_to for name, state in record.servers().items()} == {"a:1": 100.0, "b:1": 7.25}
    record.leave("a:1")
    assert list(record.servers()) == ["b:1"]


def test_a_server_that_says_nothing_any_more_is_listed_for_a_while(record: AccessRecord, client: redis.Redis) -> None:
    now = redis_time(client)
    entries = {"long": f"1.0 {now - access.SERVER_TTL - 1}", "short": f"1.0 {now - 30}", "junk": "x"}
    client.hset(SERVERS, mapping=entries)
    states = record.servers()
    assert list(states) == ["short"]
    assert states["short"].silence == pytest.approx(30, abs=5)
    assert not client.hexists(SERVERS, "long")


def test_it_is_known_which_servers_there_are_from_the_first_one_on(record: AccessRecord) -> None:
    record.revoke("ada", "p")  # by a script, before any server has started
    assert not record.servers().is_whole
    record.confirm("a:1", 1.0)
    assert record.servers().is_whole
    record.confirm("b:1", 1.0, [str(record.look(None).record)])
    record.confirm("a:1", 2.0, was_listed=True)
    assert record.servers().is_whole
    for server in ("a:1", "b:1"):
        record.leave(server)
    assert (record.servers(), record.servers().is_whole) == ({}, True)


def forget_loss(client: redis.Redis) -> None:
    """Let a loss have been noticed more than ten minutes ago."""
    client.hset(SERVERS, "since", f"{float(client.hget(SERVERS, 'since') or 0) - access.SERVER_TTL - 60!r}")


@pytest.mark.parametrize("is_first_remembering", [True, False])
@pytest.mark.parametrize("others", [[], [REVOKED], [NAME], [NAME, REVOKED, DISCONNECTED]])
def test_for_ten_minutes_after_the_list_of_servers_was_lost_it_is_not_known_which_there_are(
    record: AccessRecord, client: redis.Redis, others: list[str], is_first_remembering: bool
) -> None:
    record.revoke("ada", "p")
    for server in ("here:1", "deaf:1"):
        record.confirm(server, 1.0)
    name = str(record.look(None).record)
    client.delete(SERVERS, *others)
    assert not record.servers().is_whole

    new, old = ("new:1", 2.0, []), ("here:1", 2.0, [name])
    for server, up_to, remembered in [old, new] if is_first_remembering else [new, old]:
        record.confirm(server, up_to, remembered, was_listed=server == "here:1")
    assert sorted(record.servers()) == ["here:1", "new:1"]
    assert not record.servers().is_whole

    forget_loss(client)
    record.confirm("here:1", 3.0, [name], was_listed=True)
    assert record.servers().is_whole


def test_a_list_from_which_a_server_was_lost_is_not_whole(record: AccessRecord, client: redis.Redis) -> None:
    """A Redis that was restored from an older copy has an older list."""
    for server in ("here:1", "there:1"):
        record.confirm(server, 1.0)
    client.hdel(SERVERS, "here:1")
    record.confirm("here:1", 1.0, was_listed=True)
    assert not record.servers().is_whole


def test_the_list_of_servers_is_kept_as_long_as_the_record(record: AccessRecord, client: redis.Redis) -> None:
    record.confirm("a:1", 1.0)
    assert client.ttl(SERVERS) > client.ttl(NAME) > 0  # type: ignore[operator]


@pytest.mark.parametrize("project", ["p", None])
def test_an_order_that_was_lost_has_been_carried_out_by_nobody_for_all_that_is_known(
    record: AccessRecord, client: redis.Redis, project: str | None
) -> None:
    at = record.disconnect("ada") if project is None else record.revoke("ada", project)
    order = Taken("ada", project, at)
    record.confirm("a:1", at)
    assert record.servers(order).has_order
    client.delete(DISCONNECTED if project is None else REVOKED)
    record.confirm("a:1", record.revoke("bob", "q"))
    assert not record.servers(order).has_order
    record.restore([order])
    assert record.servers(order).has_order


def test_a_record_has_a_name_until_it_is_lost(record: AccessRecord, client: redis.Redis) -> None:
    names = []
    for _ in range(2):
        record.confirm("a:1", 1.0)
        record.confirm("b:1", 1.0)
        names += [record.look(None).record] * 2
    client.flushdb()
    assert record.look(None).record is None
    record.confirm("a:1", 1.0)
    names.append(record.look(None).record)
    assert len(set(names[:4])) == 1
    assert names[4] not in (None, names[0])


@pytest.mark.parametrize("key", [REVOKED, DISCONNECTED, NAME])
@pytest.mark.parametrize("is_made_anew", [False, True])
def test_the_loss_of_any_key_of_the_record_is_noticed(
    record: AccessRecord, client: redis.Redis, key: str, is_made_anew: bool
) -> None:
    record.revoke("ada", "p")
    record.confirm("a:1", 1.0)
    name = record.look(None).record
    assert name is not None
    client.delete(key)
    if is_made_anew:
        record.revoke("bob", "p")
        record.disconnect("bob")
    look = record.look(None)
    assert look.record is None
    assert list(look.lost) == ([name] if key == REVOKED else [])
    record.confirm("a:1", 1.0, [name])
    look = record.look(None)
    assert look.record not in (None, name)
    assert look.lost == {}


def test_it_stays_on_record_that_revocations_were_lost_until_somebody_remembers_them(
    record: AccessRecord, client: redis.Redis
) -> None:
    record.confirm("a:1", 1.0)
    name = record.look(None).record
    assert name is not None
    client.delete(REVOKED)
    before = redis_time(client)
    record.confirm("b:1", 1.0, ["another"])
    for _ in range(2):
        lost = record.look(None).lost
        assert list(lost) == [name]
        assert before - 0.001 <= lost[name] <= redis_time(client)
        record.confirm("b:1", 1.0)
        record.revoke("bob", "p")
    record.restore([], {"another": lost[name]}, [name])
    assert record.look(None).lost == {"another": pytest.approx(lost[name])}


def test_what_is_lost_of_revocations_is_forgotten_with_them(record: AccessRecord, client: redis.Redis) -> None:
    now = redis_time(client)
    record.restore([], {"old": now - REVOKED_TTL - 1, "new": now - REVOKED_TTL + 60})
    record.confirm("a:1", 1.0)
    assert list(record.look(None).lost) == ["new"]


def test_a_record_of_an_earlier_version_has_lost_nothing(record: AccessRecord, client: redis.Redis) -> None:
    client.set(NAME, "0a1b2c3d")
    at = record.revoke("ada", "p")
    for _ in range(2):
        assert record.look(None).lost == {}
        assert revoked_at(record, "ada", "p") == at
        record.confirm("a:1", 1.0)
    assert record.look(None).record is not None


def test_nothing_is_lost_when_no_server_has_said_anything_for_as_long_as_the_record_is_kept(
    record: AccessRecord, client: redis.Redis
) -> None:
    record.confirm("a:1", 1.0)
    record.revoke("ada", "p")
    ttls = [client.ttl(key) for key in (NAME, REVOKED, DISCONNECTED)]
    assert 0 < ttls[0] < min(ttls[1:])
    client.delete(NAME)
    assert record.look(None).lost == {}


# -- the clock ------------------------------------------------------------------------------------------------------


def test_the_clock_is_that_of_redis_and_never_ahead(record: AccessRecord, client: redis.Redis) -> None:
    assert record.clock.estimate is None
    for _ in range(20):
        said = record.clock.now()
        assert said <= redis_time(client)
    assert record.clock.estimate == pytest.approx(redis_time(client), abs=1)


def test_what_is_made_after_a_revocation_is_later_by_the_clock_of_the_process_that_revoked(
    record: AccessRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the answer that the clock was read from had been on its way for long."""
    record.clock.now()
    slow = record.clock
    monkeypatch.setattr(slow, "_ahead", (slow.estimate or 0.0) - time.monotonic() - 0.5)
    assert record.revoke("ada", "p") <= slow.now()


def test_redis_is_asked_for_the_time_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Slow:
        """A Redis whose clock is put back, and whose answers are quick."""

        def run(self, _command: Any) -> tuple[int, int]:
            asked.append(True)
            return 1000 - 100 * len(asked), 0

    clock = access.RedisClock(Slow())  # type: ignore[arg-type]
    assert [round(clock.now()) for _ in range(5)] == [900] * 5
    monkeypatch.setattr(access, "CLOCK_TTL", 0.0)
    assert round(clock.now()) == 800
    assert len(asked) == 2
