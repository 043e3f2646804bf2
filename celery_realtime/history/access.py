"""Remember whose access was taken back, and which web servers have carried that out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from celery_realtime.clocks import time
from celery_realtime.history.keys import Keys, new_epoch
from celery_realtime.history.lua import Command, Runner, Script, call, command
from celery_realtime.history.snapshot import UNREADABLE

#: Seconds that a revocation is remembered, and that a user was disconnected, which concerns connections that were open.
REVOKED_TTL = 30 * 86400
DISCONNECTED_TTL = 86400

#: Seconds for which a server is listed that says nothing any more. When a list was lost, the one that is made since is
#: whole after that time: whoever is not on it would have been forgotten.
SERVER_TTL = 600

#: How far back, in seconds, a server looks that has not looked before: to when it cannot have heard yet.
FIRST_LOOK = 5.0

#: Seconds after which the clock of Redis is looked at again, and how often an answer that took long is asked again.
CLOCK_TTL = 60.0
SLOW_ANSWER = 0.005
MOST_QUESTIONS = 3

#: How the name of a record begins: earlier versions, whose records say nothing of keys that were lost, had others.
NAMED = "v2-"

_TAKE, _CONFIRM = Script("take_access"), Script("confirm_access")


class Taken(msgspec.Struct, frozen=True):
    """Access that was taken back.

    Attributes:
        user: The user.
        project: The project; None where all connections of the user were ended.
        at: When, by the clock of Redis; no two have the same.
    """

    user: str
    project: str | None
    at: float


class Look(msgspec.Struct, frozen=True):
    """What a server has read of the record.

    Attributes:
        taken: What was taken back since it read the record before, in order; if it had not, all revocations.
        since: What came up to this time is no news.
        up_to: The time of the last of it; what comes later is later.
        record: Which record it is; another one when any part of it was lost. None for one that has not begun, or of
            which a part is missing.
        lost: By the name of a record of which the revocations are gone, when that was noticed.
    """

    taken: list[Taken]
    since: float
    up_to: float
    record: str | None
    lost: dict[str, float]


class ServerState(msgspec.Struct, frozen=True):
    """How far a web server is.

    Attributes:
        up_to: What was taken back up to this time it has carried out.
        silence: Seconds since it last said so.
    """

    up_to: float
    silence: float


class Servers(dict[str, ServerState]):
    """How far each web server is that is listed, by its name.

    Attributes:
        is_whole: Whether these are known to be all of them.
        has_order: Whether what they are to carry out is on record; else how far they are says nothing about it.
    """

    is_whole = False
    has_order = True


class RedisClock:
    """What the clock of Redis says, from an answer that is a minute old at most.

    It is never ahead of that clock: what has a time of it, such as a token, was not made before that time. It is behind
    by the time that the quickest answer has taken.

    Args:
        runner: Of the Redis.
        near: In a cluster, a key of the node whose clock is meant.
    """

    def __init__(self, runner: Runner, near: str = "") -> None:
        self._runner = runner
        self._near = near
        #: By how much it is ahead of :func:`time.monotonic`; None before the first answer.
        self._ahead: float | None = None
        self._asked_at = 0.0

    def now(self) -> float:
        """Return the time, in seconds since the epoch.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        if self._ahead is None or time.monotonic() - self._asked_at > CLOCK_TTL:
            self._ask()
        return time.monotonic() + (self._ahead or 0.0)

    @property
    def estimate(self) -> float | None:
        """The time as far as it is known without asking; None if it is not."""
        return None if self._ahead is None else time.monotonic() + self._ahead

    def observe(self, at: float) -> None:
        """Note that it was not earlier than this when Redis answered last."""
        ahead = at - time.monotonic()
        self._ahead = ahead if self._ahead is None else max(self._ahead, ahead)

    def _ask(self) -> None:
        self._asked_at = time.monotonic()
        ahead = []
        for _ in range(MOST_QUESTIONS):
            began = time.monotonic()
            seconds, microseconds = self._runner.run(command("TIME", at=self._near))
            answered = time.monotonic()
            ahead.append(int(seconds) + int(microseconds) / 1e6 - answered)
            if answered - began < SLOW_ANSWER:
                break
        self._ahead = max(ahead)


class AccessRecord:
    """The access that was taken back on a channel, and what its web servers have carried out of it.

    Times are of the clock of Redis, and so the same for all hosts.

    Args:
        keys: Of the channel.
        runner: Of its Redis.
    """

    def __init__(self, keys: Keys, runner: Runner) -> None:
        self._runner = runner
        self._taken = keys.leases("revoked", "disconnected")
        self._servers, self._id = keys.leases("servers", "access")
        #: The clock of Redis.
        self.clock = RedisClock(runner, self._id)

    # -- taking access back -------------------------------------------------------------------------------------

    def revoke(self, user: str, project_id: str) -> float:
        """Note that a user's access to a project is revoked; return when that was.

        Raises:
            redis.RedisError: Redis cannot be reached, or refuses.
        """
        return self._take(1, msgspec.json.encode([user, project_id]))

    def disconnect(self, user: str) -> float:
        """Note that all connections of a user are ended; return when that was.

        Raises:
            redis.RedisError: Redis cannot be reached, or refuses.
        """
        return self._take(2, msgspec.json.encode(user))

    def _take(self, which: int, member: bytes) -> float:
        at = float(self._runner.run(call(_TAKE, self._taken, [which, member, REVOKED_TTL, DISCONNECTED_TTL])))
        self.clock.observe(at)
        return at

    def restore(self, taken: Iterable[Taken], lost: Mapping[str, float] = {}, remembered: Iterable[str] = ()) -> None:
        """Note again what was on records that were lost; a later time that is on record stays.

        Args:
            taken: What was on them.
            lost: What was gone of them already, as :class:`Look` has it.
            remembered: The names of records of which all revocations are among ``taken``.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        revoked, ended = self._taken
        commands = [
            command("ZADD", ended, "GT", repr(one.at), msgspec.json.encode(one.user))
            if one.project is None
            else command("ZADD", revoked, "GT", repr(one.at), msgspec.json.encode([one.user, one.project]))
            for one in taken
        ]
        commands += [command("ZADD", revoked, "NX", repr(-at), _LOST + name) for name, at in lost.items()]
        commands += [command("ZREM", revoked, _LOST + name) for name in remembered]
        if commands:
            expiring = [command("EXPIRE", key, REVOKED_TTL) for key in self._taken]
            self._runner.run_all([*commands, *expiring])

    # -- carrying it out ----------------------------------------------------------------------------------------

    def look(self, since: float | None) -> Look:
        """Return what was taken back since a server last looked; writes nothing.

        Args:
            since: What it had carried out up to; None if it has not looked before.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        now = self.clock.now()
        start = now - FIRST_LOOK if since is None else since
        after = f"({start!r}"
        name, revoked, ended, of_revoked, of_ended = self._runner.read(
            [
                command("GET", self._id),
                _range(self._taken[0], "0" if since is None else after, "+inf"),
                _range(self._taken[1], after, "+inf"),
                *(_range(key, "-inf", "(0") for key in self._taken),
            ]
        )
        taken = [*_decoded(revoked, tuple[str, str]), *_decoded(ended, str)]
        taken.sort(key=lambda one: one.at)
        up_to = max([start, *(float(at) for _, at in (*revoked, *ended))])
        record, lost = _state(None if name is None else name.decode(errors="replace"), of_revoked, of_ended, now)
        return Look(taken, start, up_to, record, lost)

    def confirm(self, server: str, up_to: float, remembered: Iterable[str] = (), *, was_listed: bool = False) -> None:
        """Note what a web server has carried out, and that it is there; begin another record if a part of it was lost.

        Args:
            server: What it is called.
            up_to: When the last of that was taken back.
            remembered: The names of records that it remembers.
            was_listed: Whether it has said so a short time ago, so that a list without it was made anew.

        Raises:
            redis.RedisError: Redis cannot be reached, or refuses.
        """
        state = f"{up_to!r} {self.clock.now()!r}"
        arguments = [NAMED + new_epoch(), server, state, REVOKED_TTL, int(was_listed), *remembered]
        self._runner.run(call(_CONFIRM, [self._id, *self._taken, self._servers], arguments))

    def leave(self, server: str) -> None:
        """Note that a web server has no clients any more.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        self._runner.run(command("HDEL", self._servers, server))

    def servers(self, order: Taken | None = None) -> Servers:
        """Return how far each web server is; those that have said nothing for :data:`SERVER_TTL` are forgotten.

        Args:
            order: What they are to carry out.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        questions = [command("HGETALL", self._servers)]
        if order is not None:
            questions.append(command("ZSCORE", *self._place_of(order)))
        listed, *scores = self._runner.read(questions)
        now, servers = self.clock.now(), Servers()
        since = listed.pop(_SINCE, None)
        for name, state in listed.items():
            with contextlib.suppress(ValueError):  # an entry of another writer
                up_to, seen_at = (float(part) for part in state.split())
                servers[name.decode(errors="replace")] = ServerState(up_to, max(0.0, now - seen_at))
        gone = [name for name, state in servers.items() if state.silence > SERVER_TTL]
        if gone:
            self._runner.run(command("HDEL", self._servers, *gone))
        for name in gone:
            del servers[name]
        servers.has_order = order is None or (scores[0] is not None and scores[0] >= order.at)
        servers.is_whole = since is not None and now - float(since) > SERVER_TTL
        return servers

    def _place_of(self, order: Taken) -> tuple[str, bytes]:
        """Return the key in which something that was taken back is noted, and its member."""
        if order.project is None:
            return self._taken[1], msgspec.json.encode(order.user)
        return self._taken[0], msgspec.json.encode([order.user, order.project])


def _range(key: str, first: str, last: str) -> Command:
    """Return the command that reads a part of a sorted set, with its scores."""
    return command("ZRANGEBYSCORE", key, first, last, "WITHSCORES", withscores=True)


#: The entry of the list of servers that says when it was noticed that one was lost.
_SINCE = b"since"

#: How entries begin that say which record a key is of, and of which records the revocations are gone.
_RECORD, _LOST = "record ", "lost "


def _state(
    name: str | None, of_revoked: list[tuple[bytes, float]], of_ended: list[tuple[bytes, float]], now: float
) -> tuple[str | None, dict[str, float]]:
    """Return which record it is, if it is whole, and of which records the revocations are gone, and since when."""
    named = name if name is not None and name.startswith(NAMED) else None
    revoked, ended = (_marked(_RECORD, marks) for marks in (of_revoked, of_ended))
    lost = {former: -at for former, at in _marked(_LOST, of_revoked).items()}
    for former in {*ended, *([] if named is None else [named])} - {*revoked}:
        lost.setdefault(former, now)
    return named if named in revoked and named in ended else None, lost


def _marked(kind: str, marks: list[tuple[bytes, float]]) -> dict[str, float]:
    texts = ((member.decode(errors="replace"), float(at)) for member, at in marks)
    return {text.removeprefix(kind): at for text, at in texts if text.startswith(kind)}


def _decoded(entries: Iterable[tuple[bytes, bytes]], kind: Any) -> Iterable[Taken]:
    for member, at in entries:
        with contextlib.suppress(*UNREADABLE):  # an entry of another writer
            decoded: Any = msgspec.json.decode(member, type=kind)
            user, project = decoded if isinstance(decoded, tuple) else (decoded, None)
            yield Taken(user, project, float(at))
