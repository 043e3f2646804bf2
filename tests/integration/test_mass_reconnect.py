"""Many clients come back at once to a web server that was restarted: Redis hardly feels it, and each gets all."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import redis

from tests.integration import jobs
from tests.integration.stage import new_project, producing
from tests.launcher import Brokers, Launcher
from tests.mass_clients import Crowd, MassClient
from tests.processes import WebServer
from tests.variants import long_unless
from tests.waiting import wait_for_async

logger = logging.getLogger(__name__)

#: What is said before the restart, while the web server is away, and when all are back.
BEFORE, MISSED, AFTER = 10, 20, 5


class Cost(NamedTuple):
    """What Redis has executed, and how long it took the crowd."""

    reads: int
    commands: int
    seconds: float


@dataclass(frozen=True)
class Scene:
    """A web server, and the Redis that has the history and nothing else.

    Args:
        web: The web server.
        history_url: The Redis.
    """

    web: WebServer
    history_url: str

    def crowd(self, size: int, projects: list[str]) -> Crowd:
        """Make so many users, each of whom follows one of the projects."""
        clients = []
        for number in range(size):
            project = projects[number % len(projects)]
            clients.append(MassClient(jobs.realtime.issue_token(f"user-{number}", [project]), project))
        return Crowd(self.web.url, clients)

    def say(self, projects: list[str], numbers: range) -> None:
        """Say numbers to each project: their offsets."""
        for project in projects:
            jobs.realtime.manager.emit_many(project, [("step", {"number": number}) for number in numbers])
        assert jobs.realtime.flush(60)

    async def cost_of(self, deed: Awaitable[None]) -> Cost:
        """Return what Redis has executed until the deed was done, and how long that took."""
        before, began = self._executed(), time.perf_counter()
        await deed
        seconds, after = time.perf_counter() - began, self._executed()
        calls = {name: count - before.get(name, 0) for name, count in after.items()}
        reads = sum(calls.get(name, 0) for name in ("eval", "evalsha", "fcall"))
        return Cost(reads, sum(calls.values()), seconds)

    def _executed(self) -> dict[str, int]:
        """Return how often Redis has executed each command, those of scripts included."""
        with redis.Redis.from_url(self.history_url) as client:
            told: dict[str, Any] = client.info("commandstats")
        return {name.removeprefix("cmdstat_"): int(counts["calls"]) for name, counts in told.items()}


@pytest.fixture
def scene(launcher: Launcher, brokers: Brokers) -> Iterator[Scene]:
    history_url = launcher.redis(name="history").url()
    broker = brokers.make("redis")
    with producing(broker, history_url=history_url):
        web = launcher.web("tests.integration.asgi_web", broker=broker, env={"HISTORY_URL": history_url})
        yield Scene(web, history_url)


# Who asks for one project shares readings with nobody who asks for another, however many those are. A thousand show the
# same as some hundreds, and take longer to connect.
@pytest.mark.parametrize(
    ("clients", "projects", "most_reads"),
    long_unless([(300, 1, 100)], [(300, 1, 100), (1000, 1, 20), (1000, 10, 120)]),
)
def test_many_clients_come_back_to_a_web_server_that_was_restarted(
    scene: Scene, clients: int, projects: int, most_reads: int
) -> None:
    """They come as fast as they can; later all ask again in the same moment."""
    names = [new_project() for _ in range(projects)]
    costs = asyncio.run(_come_back(scene, clients, names))
    logger.info("%s", costs)
    # Who comes as fast as it can comes as the web server lets it in, so how many share a reading is a matter of speed.
    # Reads are shared by those who ask while one is going on: on a busy machine they ask one after the other.
    assert costs["coming"].reads <= clients // 2
    assert costs["asking again"].reads <= most_reads
    for cost in costs.values():
        assert cost.commands <= 30 * max(cost.reads, most_reads)  # a new connection takes some, too


async def _come_back(scene: Scene, clients: int, projects: list[str]) -> dict[str, Cost]:
    crowd = scene.crowd(clients, projects)
    async with crowd.gathered():
        await crowd.come()
        scene.say(projects, range(1, BEFORE + 1))
        await _all_hear(crowd, BEFORE)
        assert {client.answer["offset"] for client in crowd.clients} == {0}
        scene.web.kill()
        _forget_some(crowd)
        scene.say(projects, range(BEFORE + 1, BEFORE + MISSED + 1))
        scene.web.start()
        coming = await scene.cost_of(crowd.come())
        _check_answers(crowd, BEFORE + MISSED)
        scene.say(projects, range(BEFORE + MISSED + 1, BEFORE + MISSED + AFTER + 1))
        await _all_hear(crowd, AFTER)
        asking = await scene.cost_of(crowd.subscribe())
        _check_answers(crowd, BEFORE + MISSED + AFTER)
        assert all(_numbers(client.heard) == _last(AFTER) for client in crowd.clients)
    return {"coming": coming, "asking again": asking}


async def _all_hear(crowd: Crowd, count: int) -> None:
    await wait_for_async(lambda: all(len(client.heard) >= count for client in crowd.clients))


def _forget_some(crowd: Crowd) -> None:
    """Let each have lost its connection after another event."""
    for number, client in enumerate(crowd.clients):
        assert _numbers(client.heard) == list(range(1, BEFORE + 1))
        mark = client.heard[number // 10 % BEFORE][1]["_realtime"]
        client.since = {"epoch": mark["epoch"], "offset": mark["offset"]}


def _check_answers(crowd: Crowd, last: int) -> None:
    """Each has been told everything that it missed, once and in order."""
    for client in crowd.clients:
        assert client.since is not None
        assert client.answer["ok"] is True
        assert client.answer["recovered"] is True
        assert client.answer["offset"] == last
        missed = [(one["event"], one["data"]) for one in client.answer["events"]]
        assert _numbers(missed) == list(range(client.since["offset"] + 1, last + 1))


def _numbers(told: list[tuple[str, Any]]) -> list[int]:
    """Return the numbers that were said, each of which is its own offset."""
    assert all((event, data["_realtime"]["offset"]) == ("step", data["number"]) for event, data in told)
    return [data["number"] for _, data in told]


def _last(count: int) -> list[int]:
    return list(range(BEFORE + MISSED + 1, BEFORE + MISSED + count + 1))
