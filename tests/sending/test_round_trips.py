"""A batch costs two round trips to a Redis that is far away: one to store it, one to publish it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from celery_realtime import Realtime
from celery_realtime.events import Outgoing
from tests.appended import custom, progress, status
from tests.proxy import Proxy
from tests.recording import new_app

#: As far as another region, in seconds.
FAR = 0.03


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    with Proxy(redis_url, delay=FAR) as proxy:
        yield proxy


@pytest.fixture
def realtime(proxy: Proxy) -> Iterator[Realtime]:
    """One that has sent an event, and so is connected, and whose scripts are loaded."""
    realtime = Realtime(new_app(), url=proxy.url, history_url=proxy.url, batch_size=100)
    send(realtime, [status("PENDING", job="first", expires_at=time.time() + 60), status("STARTED", stall_after=60.0)])
    yield realtime
    realtime.manager.close()


def send(realtime: Realtime, batch: list[Outgoing]) -> None:
    realtime.manager.outbox.put_all(batch)
    assert realtime.flush(60)


def batch_of(size: int) -> list[Outgoing]:
    """Return events of all kinds, of several projects: jobs that expire, start, stall, end, and are of a workflow."""
    soon, events = time.time() + 60, []
    for number in range(size // 5):
        job, project, incarnation = f"job-{number}", f"p{number % 3}", f"i{number % 2}"
        events += [
            status("PENDING", job=job, project=project, expires_at=soon, root_id="root"),
            status("STARTED", job=job, project=project, stall_after=60.0, incarnation=incarnation, root_id="root"),
            progress(50, job=job, project=project, stall_after=60.0),
            custom({"number": number}, project=project),
            status("SUCCESS", job=job, project=project, incarnation=incarnation, root_id="root"),
        ]
    return events


@pytest.mark.parametrize("size", [5, 100])
def test_a_batch_is_stored_in_one_round_trip_and_published_in_another(
    realtime: Realtime, proxy: Proxy, size: int
) -> None:
    before = proxy.round_trips
    send(realtime, batch_of(size))
    assert proxy.round_trips - before <= 2
