"""Processes go on storing while slots are moved and masters are killed: no event is lost, and none is stored twice."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import redis

from celery_realtime.events import Outgoing
from celery_realtime.history.slots import slot_of
from celery_realtime.history.store import History
from tests.appended import custom
from tests.clusters import RedisCluster
from tests.services import RedisServer
from tests.waiting import wait_for

pytestmark = [pytest.mark.service, pytest.mark.long]

PROJECTS = [f"p{number}" for number in range(24)]
WRITERS = 4


class Writer:
    """Stores numbered lines of all projects, each batch until it is stored, as a process does.

    Attributes:
        published: By project, the numbers, epochs and offsets of the lines that it would publish.
    """

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.published: dict[str, list[tuple[int, str, int]]] = {project: [] for project in PROJECTS}
        self.failures = 0
        self._history = History(url, "load", size=100000, ttl=3600.0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        chance = random.Random(self.name)
        numbers = itertools.count(1)
        while not self._ended.is_set():
            names = chance.sample(PROJECTS, chance.randint(1, 8))
            self._store([custom({"writer": self.name, "n": next(numbers)}, name) for name in names])
        self._history.close()

    def _store(self, batch: list[Outgoing]) -> None:
        while (answers := self._history.append(batch)) is None:
            self.failures += 1
            self._ended.wait(0.02)
        for event, answer in zip(batch, answers, strict=True):
            data: Any = msgspec.json.decode(answer[0].payload)
            place = data["_realtime"]
            self.published[event.project_id].append((data["n"], place["epoch"], place["offset"]))

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(120)
        assert not self._thread.is_alive()


@contextmanager
def cluster_of(folder: Any, node_timeout: int) -> Iterator[RedisCluster]:
    cluster = RedisCluster(folder, node_timeout)
    try:
        yield cluster.start()
    finally:
        cluster.kill()


@contextmanager
def writing(cluster: RedisCluster) -> Iterator[list[Writer]]:
    writers = [Writer(f"w{number}", cluster.url()) for number in range(WRITERS)]
    try:
        wait_for_more(writers)
        yield writers
        wait_for_more(writers)
    finally:
        for writer in writers:
            writer.stop()


def wait_for_more(writers: list[Writer]) -> None:
    """Wait until each writer has published of all projects once more."""
    lines = [writer.published[name] for writer in writers for name in PROJECTS]
    before = [len(of_one) for of_one in lines]
    wait_for(
        lambda: all(len(of_one) > count for of_one, count in zip(lines, before, strict=True)),
        timeout=180,
        message="all writers go on",
    )


def elsewhere(cluster: RedisCluster, slot: int, turn: int) -> RedisServer:
    """Return one of the masters that do not have a slot."""
    owner = cluster.master_of(slot)
    others = [node for node in cluster.masters() if node is not owner]
    return others[turn % len(others)]


def published(writers: list[Writer], project: str) -> list[tuple[str, int, str, int]]:
    return [(writer.name, *line) for writer in writers for line in writer.published[project]]


def stored(history: History, project: str) -> list[tuple[str, int, str, int]]:
    found = []
    for event in history.recent(project):
        data, place = event["data"], event["data"]["_realtime"]
        found.append((data["writer"], data["n"], place["epoch"], place["offset"]))
    return found


SLOTS = [*{slot_of(name) for name in (*PROJECTS, "leases", "places")}]


def move_by_keys(cluster: RedisCluster, writers: list[Writer]) -> None:
    with cluster.moving(SLOTS[0], elsewhere(cluster, SLOTS[0], 0)):
        wait_for(lambda: any(writer.failures for writer in writers), message="events wait for their slot")
    for turn, slot in enumerate(SLOTS * 3):
        cluster.move(slot, elsewhere(cluster, slot, turn))


def move_at_once(cluster: RedisCluster, _writers: list[Writer]) -> None:
    for slot in SLOTS:
        try:
            cluster.move_at_once(slot, elsewhere(cluster, slot, 0))
        except redis.ResponseError as error:
            pytest.skip(f"needs Valkey 9: {error}")


@pytest.mark.parametrize("move_all", [move_by_keys, move_at_once])
def test_while_slots_are_moved_each_event_is_stored_once_and_in_order(
    tmp_path: Any, move_all: Callable[[RedisCluster, list[Writer]], None]
) -> None:
    with cluster_of(tmp_path, 30000) as cluster:
        with writing(cluster) as writers:
            move_all(cluster, writers)
        history = History(cluster.url(), "load", size=100000, ttl=3600.0)
        for name in PROJECTS:
            in_order = sorted(published(writers, name), key=lambda line: line[3])
            assert stored(history, name) == in_order
            assert [offset for *_, offset in in_order] == [*range(1, len(in_order) + 1)]
            assert len({epoch for _, _, epoch, _ in in_order}) == 1


def test_when_masters_die_no_position_is_given_twice_and_all_events_are_published_once(tmp_path: Any) -> None:
    with cluster_of(tmp_path, 1500) as cluster:
        with writing(cluster) as writers:
            for _ in range(2):
                master = cluster.master_of(slot_of("p0"))
                master.kill()
                wait_for(lambda: cluster.master_of(slot_of("p0")) is not master, timeout=180)  # noqa: B023
                wait_for_more(writers)
                master.start()
                wait_for(cluster.is_whole, timeout=180)
                wait_for_more(writers)
        history = History(cluster.url(), "load", size=100000, ttl=3600.0)
        for name in PROJECTS:
            lines = published(writers, name)
            assert len({(writer, number) for writer, number, _, _ in lines}) == len(lines)
            assert len({(epoch, offset) for _, _, epoch, offset in lines}) == len(lines)
            for writer in writers:
                numbers = [number for number, _, _ in writer.published[name]]
                assert numbers == sorted(numbers)
            # All that was published in the epoch that goes on is on record.
            epoch = history.read(name).epoch
            assert {*stored(history, name)} >= {line for line in lines if line[2] == epoch}
