"""Which jobs a broker still has a message of."""

from __future__ import annotations

import json
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote

import redis

from tests.services import RabbitMQServer

NOT_FOUND = 404


def waiting_in_redis(url: str, queues: list[str]) -> set[str]:
    """Return the ids of the jobs whose messages wait in queues, or are held by a consumer, alive or dead."""
    with redis.Redis.from_url(url, socket_timeout=5) as connection:
        ready = [message for queue in queues for message in connection.lrange(queue, 0, -1)]
        held = [json.loads(entry)[0] for entry in connection.hvals("unacked")]
    return {message["headers"]["id"] for message in [*map(json.loads, ready), *held] if "id" in message["headers"]}


def waiting_in_rabbitmq(server: RabbitMQServer, url: str, queues: list[str]) -> set[str]:
    """Return the ids of the jobs whose messages wait in queues; those that a consumer holds are not seen."""
    vhost = quote(url.rpartition("/")[2], safe="")
    waiting = set()
    for queue in queues:
        for message in _peek(server, f"queues/{vhost}/{quote(queue, safe='')}/get"):
            waiting.add(str(message["properties"].get("headers", {}).get("id")))
    return waiting


def _peek(server: RabbitMQServer, path: str) -> list[Any]:
    request = {"count": 1000, "ackmode": "ack_requeue_true", "encoding": "auto", "truncate": 100}
    try:
        messages: list[Any] = server.manage("POST", path, request)
    except HTTPError as error:
        if error.code == NOT_FOUND:
            return []
        raise
    return messages
