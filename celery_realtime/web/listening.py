"""Have threads and tasks hear the channel for a client manager without keeping it alive.

They know the manager, and so the server and the app, only while they do something for it. In between they have no more
than what is listened to. So a server that nobody serves any more is collected, and they end within about a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import weakref
from typing import TYPE_CHECKING

from celery_realtime.web.loop_queue import LoopQueue

if TYPE_CHECKING:
    from celery_realtime.web.channel_reader import Item
    from celery_realtime.web.client_manager import AsyncRealtimeClientManager, RealtimeClientManager

#: Seconds that the listening thread waits for an event loop that does not keep up, before it leaves messages out.
#: Shorter than the silence after which a listener counts as deaf.
ROOM_TIMEOUT = 2.0

#: Emits after which the event loop has a turn, however many wait.
TURN = 100


def listen(reference: weakref.ref[RealtimeClientManager]) -> None:
    """Read the channel, in a thread, and do what is heard, until the manager is stopped or gone."""
    manager = reference()
    if manager is None:
        return
    heard = manager.reader.read()
    del manager
    for items in heard:
        _take(reference, items)
        del items  # while it waits for the next


def _take(reference: weakref.ref[RealtimeClientManager], items: list[Item]) -> None:
    manager = reference()
    if manager is not None:
        manager.take(items)


class Handover:
    """What the thread that listens and the task that emits have of each other, and what a manager has of both.

    Attributes:
        queue: Goes from the thread to the event loop; None before the loop runs. While the thread lives it keeps what
            waits for the queue, the task, from being collected in the midst of its wait.
    """

    def __init__(self) -> None:
        self.queue: LoopQueue[Item] | None = None

    def __len__(self) -> int:
        return 0 if self.queue is None else len(self.queue)

    def has_room(self) -> bool:
        """Wait until the event loop has taken enough; returns whether it has."""
        return self.queue is None or self.queue.wait_for_room(ROOM_TIMEOUT)

    def close(self) -> None:
        """Let the task end when it has taken what there is."""
        if self.queue is not None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                self.queue.close()


def hand_over(reference: weakref.ref[AsyncRealtimeClientManager], handover: Handover) -> None:
    """Read the channel, in a thread, and hand over to the event loop what is for any of its clients."""
    manager = reference()
    if manager is not None:
        heard = manager.reader.read(handover.has_room)
        del manager
        for items in heard:
            try:
                _hand_over(reference, items)
            except RuntimeError:  # the loop has been closed: the server is gone
                return
            del items
    handover.close()


def _hand_over(reference: weakref.ref[AsyncRealtimeClientManager], items: list[Item]) -> None:
    manager = reference()
    if manager is not None:
        manager.hand_over(items)


async def emit_on(reference: weakref.ref[AsyncRealtimeClientManager]) -> None:
    """Do in the event loop what is heard, until the manager is stopped or gone."""
    manager = reference()
    if manager is None:
        return
    queue = manager.attach_loop()
    del manager
    take = functools.partial(_take_in_loop, reference)
    while not queue.is_closed:
        for _ in range(TURN):
            item = await queue.get()
            if item is None or await take(item):
                break  # what it has scheduled goes before the next event
            del item
        await asyncio.sleep(0)


async def _take_in_loop(reference: weakref.ref[AsyncRealtimeClientManager], item: Item) -> bool:
    manager = reference()
    return manager is not None and await manager.take(item)
