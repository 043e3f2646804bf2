"""Which shards a server listens to: those of the projects that its clients watch, and for a while after."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from celery_realtime.channel.bindings import Bindings
from celery_realtime.channel.shards import shard_of
from celery_realtime.web import watched_shards
from celery_realtime.web.watched_shards import MOST_COUNTS, WatchedShards
from tests.log_records import logged_by

if TYPE_CHECKING:
    import pytest


class Server:
    """A server of which a test says which projects its clients watch."""

    def __init__(self, count: int = 8) -> None:
        self.watched: set[str] = set()
        self.woken = 0
        self.bindings = Bindings()
        self.shards = WatchedShards(count, self.bindings, self.watched.__contains__, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def bind(self) -> None:
        """Do what the listening thread does: bind what is wanted."""
        for shard in self.bindings.wanted():
            self.bindings.note_bound(shard)


def test_what_is_bound_is_not_waited_for_and_wakes_nobody() -> None:
    server = Server()
    assert not server.shards.wait("alpha", 0.01)
    assert server.woken == 1
    assert not server.shards.wait("alpha", 0.01)
    assert server.woken == 1  # it is bound within a second anyway
    server.bind()
    assert server.shards.wait("alpha", 0)
    assert server.woken == 1


def test_with_one_shard_there_is_nothing_to_bind() -> None:
    server = Server(1)
    assert server.shards.wait("alpha", 0)
    assert server.bindings.wanted() == set()
    assert server.woken == 0
    assert not server.shards.are_there


def test_the_projects_of_a_shard_that_was_bound_are_said_once() -> None:
    server = Server()
    server.shards.watch("alpha")
    assert server.shards.sweep() == set()
    server.bind()
    assert server.shards.sweep() == {"alpha"}
    assert server.shards.sweep() == set()


def test_a_shard_is_left_when_no_project_of_it_is_watched_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_shards, "LINGER", -1.0)
    monkeypatch.setattr(watched_shards, "SWEEP_INTERVAL", 0.0)
    server = Server()
    first = shard_of("alpha", 8)
    others = [f"p{number}" for number in range(100)]
    same = next(name for name in others if shard_of(name, 8) == first)
    server.watched |= {"alpha", same}
    server.shards.watch("alpha")
    server.shards.watch(same)
    server.watched.remove("alpha")
    server.shards.sweep()
    assert server.bindings.wanted() == {first}
    server.watched.remove(same)
    server.shards.sweep()
    assert server.bindings.wanted() == set()


def test_a_shard_is_kept_for_a_client_that_is_about_to_watch_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_shards, "SWEEP_INTERVAL", 0.0)
    server = Server()
    server.shards.watch("alpha")  # nobody is in a room of it yet
    server.shards.sweep()
    assert server.bindings.wanted() == {shard_of("alpha", 8)}


def test_each_number_of_shards_is_reported_once_and_only_a_few_are_followed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "celery_realtime")
    server = Server()
    server.shards.watch("alpha")
    for announced in (*range(2, 100), *range(2, 100)):
        server.shards.learn(announced)
    assert len(server.bindings.totals) == MOST_COUNTS
    server.shards.learn(8)
    followed, not_followed = [record.getMessage() for record in logged_by(caplog, watched_shards.__name__)]
    assert "realtime_shards = 2, and this web server 8" in followed
    assert "listens to the shards of both" in followed
    assert "realtime_shards = 5, and this web server 8" in not_followed
    assert "it hears no live events of that publisher" in not_followed


def test_a_child_of_a_fork_starts_over() -> None:
    server = Server()
    server.shards.watch("alpha")
    bindings = Bindings()
    server.shards.start_over(bindings)
    assert bindings.wanted() == set()
    server.shards.watch("beta")
    assert bindings.wanted() == {shard_of("beta", 8)}
    assert server.bindings.wanted() == {shard_of("alpha", 8)}
