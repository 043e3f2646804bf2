"""What kombu does with a Redis that is a broker, which no truth of ours can be better than."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import redis
from kombu import Connection

from tests.deaths.unknowable import BRPOP
from tests.processes import ManagedProcess
from tests.services import Broker
from tests.waiting import wait_for

QUEUE = "jobs"


def test_a_message_that_redis_has_given_to_a_consumer_is_nowhere_until_kombu_has_read_it(
    redis_broker: Broker, tmp_path: Path
) -> None:
    """If the consumer is killed then, it is gone."""
    argv = [sys.executable, "-m", "tests.deaths.consumer", redis_broker.url, QUEUE]
    consumer = ManagedProcess(argv, folder=tmp_path, name="consumer").start()
    with redis.Redis.from_url(redis_broker.url) as server:
        try:
            wait_for(lambda: _is_given_away(consumer, redis_broker.url, server), timeout=60)
        finally:
            consumer.kill()
        assert (server.llen(QUEUE), server.hlen("unacked")) == (0, 0)
        threading.Event().wait(BRPOP * 2)
        assert (server.llen(QUEUE), server.hlen("unacked")) == (0, 0), "nobody brings it back"
    assert "lost" not in consumer.log


def _is_given_away(consumer: ManagedProcess, url: str, server: redis.Redis) -> bool:
    """Publish to a consumer that waits and is halted; tell whether Redis has sent it the message."""
    database = url.rpartition("/")[2]
    waiting = [client for client in server.client_list() if client["cmd"] == "brpop" and client["db"] == database]
    if not any("b" in client["flags"] for client in waiting):
        return False
    consumer.pause()
    with Connection(url) as connection:
        connection.SimpleQueue(QUEUE).put("lost")
    if server.llen(QUEUE) == 0 and server.hlen("unacked") == 0:
        return True
    server.delete(QUEUE)  # its question had ended just before
    consumer.resume()
    return False
