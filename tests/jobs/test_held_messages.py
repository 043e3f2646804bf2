"""A message that a worker had and the broker has no more is of a job that has begun."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from kombu import Connection

from celery_realtime.history.leases import HeldJob, HeldMessage
from celery_realtime.jobs.held_messages import HeldMessages
from celery_realtime.jobs.redis_broker import MOST_LOOKED_AT, RedisBroker
from tests.services import RedisServer

QUEUE = "jobs"


class Received:
    """What a worker's request is to whoever asks for its message."""

    def __init__(self, message: Any) -> None:
        self.message = message
        self.delivery_info = message.delivery_info


class Worker:
    """Takes messages from the queue as a worker does, and acknowledges them when it is told to."""

    def __init__(self, app: Celery) -> None:
        self._connection: Connection = app.connection_for_read()
        self._channel = self._connection.channel()
        self._queue = app.amqp.queues[QUEUE](self._channel)

    def receive(self) -> Any:
        self._queue.declare()
        message = self._queue.get()
        assert message is not None
        return message

    def die(self) -> None:
        """Be gone without a word: what is not acknowledged stays as it is."""
        self._channel.qos.restore_at_shutdown = False
        self._connection.close()

    def stop(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def server(module_launcher: Any) -> RedisServer:
    server: RedisServer = module_launcher.redis(name="broker")
    return server


@pytest.fixture(params=["", "studio_"], ids=["", "prefixed"])
def app(server: RedisServer, request: pytest.FixtureRequest) -> Celery:
    app = Celery("held", broker=server.fresh_url(), set_as_current=False)
    app.conf.broker_transport_options = {"global_keyprefix": request.param}
    app.conf.task_default_queue = QUEUE
    return app


@pytest.fixture
def start(app: Celery) -> Iterator[Callable[[], Worker]]:
    workers: list[Worker] = []

    def start() -> Worker:
        workers.append(Worker(app))
        return workers[-1]

    yield start
    for worker in workers:
        worker.die()


def publish(app: Celery, job: str = "job", **options: Any) -> None:
    app.send_task("some.task", ("x" * 100,), task_id=job, **options)


def held(app: Celery, message: Any, job: str = "job", project: str = "p") -> HeldJob:
    noted = HeldMessages(app).message_of(Received(message))
    assert noted is not None
    return HeldJob(job_id=job, project_id=project, message=noted)


def test_a_message_that_a_dead_worker_had_not_acknowledged_is_of_a_job_that_waits(
    app: Celery, start: Callable[[], Worker]
) -> None:
    publish(app)
    worker = start()
    job = held(app, worker.receive())
    worker.die()
    assert HeldMessages(app).begun([job]) == set()


def test_one_that_it_had_acknowledged_is_of_a_job_that_has_begun(app: Celery, start: Callable[[], Worker]) -> None:
    publish(app, "begins")
    publish(app, "waits")
    worker = start()
    begins, waits = worker.receive(), worker.receive()
    jobs = [held(app, begins, "begins"), held(app, waits, "waits")]
    assert HeldMessages(app).begun(jobs) == set()
    begins.ack()
    worker.die()
    assert HeldMessages(app).begun(jobs) == {"p\nbegins"}


def test_of_two_jobs_of_one_id_it_is_known_which_has_begun(app: Celery, start: Callable[[], Worker]) -> None:
    publish(app, "same")
    publish(app, "same")
    worker = start()
    begins, waits = worker.receive(), worker.receive()
    jobs = [held(app, begins, "same", "p"), held(app, waits, "same", "q")]
    begins.ack()
    worker.die()
    assert HeldMessages(app).begun(jobs) == {"p\nsame"}


@pytest.mark.parametrize("priority", [None, 6])
def test_one_that_was_put_back_waits_in_its_queue(
    app: Celery, start: Callable[[], Worker], priority: int | None
) -> None:
    publish(app, priority=priority)
    worker = start()
    job = held(app, worker.receive())
    worker.stop()
    assert HeldMessages(app).begun([job]) == set()
    again = start().receive()
    assert HeldMessages(app).begun([job]) == set(), "another worker has it"
    again.ack()
    assert HeldMessages(app).begun([job]) == {"p\njob"}


@pytest.mark.parametrize("requeued", [False, True])
def test_of_a_long_queue_it_waits_at_an_end(app: Celery, start: Callable[[], Worker], requeued: bool) -> None:
    publish(app)
    worker = start()
    message = worker.receive()
    for number in range(2 * MOST_LOOKED_AT + 10):
        publish(app, f"behind-{number}")
    if requeued:
        message.requeue()
    else:
        worker.stop()
    assert HeldMessages(app).begun([held(app, message)]) == set()


def test_a_job_of_another_broker_is_not_asked_for(
    app: Celery, server: RedisServer, start: Callable[[], Worker]
) -> None:
    publish(app)
    message = start().receive()
    message.ack()
    job = held(app, message)
    for url in (server.fresh_url(), "amqp://guest@127.0.0.1:1//"):
        another = Celery("another", broker=url, set_as_current=False)
        assert HeldMessages(another).begun([job]) == set()
    assert HeldMessages(app).begun([job]) == {"p\njob"}


def test_nor_is_one_that_is_known_to_run_or_whose_message_is_not(app: Celery, start: Callable[[], Worker]) -> None:
    publish(app)
    message = start().receive()
    message.ack()
    noted = held(app, message).message
    jobs = [HeldJob(job_id="runs", running=True, message=noted), HeldJob(job_id="nothing")]
    assert HeldMessages(app).begun(jobs) == set()


def test_a_broker_that_is_no_redis_is_not_asked() -> None:
    app = Celery("rabbit", broker="amqp://guest@127.0.0.1:1//", set_as_current=False)
    assert HeldMessages(app).message_of(None) is None


def test_a_broker_that_cannot_be_reached_cannot_be_asked(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(name="away")
    app = Celery("away", broker=server.url(), set_as_current=False)
    message = HeldMessage(str(RedisBroker.name_of(app)), "", QUEUE, "tag")
    messages, job = HeldMessages(app), HeldJob(job_id="job", message=message)
    assert messages.begun([job]) == {"job"}
    server.kill()
    assert messages.begun([job]) is None
