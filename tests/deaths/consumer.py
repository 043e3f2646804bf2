"""A consumer with kombu alone, which acknowledges nothing: ``python -m tests.deaths.consumer URL QUEUE``."""

from __future__ import annotations

import sys

from kombu import Connection, Queue

if __name__ == "__main__":
    url, queue = sys.argv[1:]
    with Connection(url) as connection, connection.Consumer(Queue(queue), callbacks=[lambda body, _: print(body)]):  # noqa: T201
        while True:
            connection.drain_events()
