"""What blocks runs in the threads of its kind of request."""

from __future__ import annotations

import asyncio
import threading

from celery_realtime.web.lanes import Lanes, in_thread


def name() -> str:
    return threading.current_thread().name


def test_each_kind_has_its_own_threads() -> None:
    async def names() -> list[str]:
        lanes = Lanes({"cancel": 1, "read": 1})
        with lanes.of("cancel"):
            cancel = await in_thread(name)
        with lanes.of("read"):
            read = await in_thread(name)
        with lanes.of("unknown"):
            unknown = await in_thread(name)
        return [cancel, read, unknown, await in_thread(name)]

    cancel, read, *others = asyncio.run(names())
    assert cancel.startswith("celery-realtime-cancel")
    assert read.startswith("celery-realtime-read")
    assert not any(other.startswith("celery-realtime") for other in others)


def test_a_kind_that_is_blocked_holds_up_no_other() -> None:
    async def overtaken() -> str:
        lanes, blocked = Lanes({"cancel": 1, "read": 1}), threading.Event()
        with lanes.of("cancel"):
            blocking = asyncio.ensure_future(in_thread(blocked.wait, 10))
        with lanes.of("read"):
            read: str = await in_thread(name)
        blocked.set()
        assert await blocking
        return read

    assert asyncio.run(overtaken()).startswith("celery-realtime-read")
