from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from celery_realtime.sending.ledger import Ledger

if TYPE_CHECKING:
    import pytest

logger = logging.getLogger("test")


def test_what_is_dropped_is_counted_by_kind_and_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger(logger, "the broker", 5)
    for kind in ("progress", "lifecycle", "lifecycle", "persisted"):
        ledger.dropped(kind)
    assert ledger.counts == {"dropped_progress": 1, "dropped_lifecycle": 2, "dropped_persisted": 1}
    [line] = caplog.messages
    assert "realtime_queue_size=5" in line
    assert "the broker" in line


def test_each_kind_of_trouble_has_a_line_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger(logger, "the broker", 5)
    for _ in range(3):
        ledger.dropped("progress")
        ledger.failed(2)
        ledger.delayed(7)
        ledger.stranded(9, RuntimeError("can't start new thread"))
    assert ledger.counts["dropped_error"] == 6
    assert len(caplog.records) == 4
    assert "the broker does not accept events, so 7 wait" in caplog.text
    assert "can't start new thread" in caplog.text


def test_threads_that_count_at_once_lose_nothing() -> None:
    ledger = Ledger(logger, "the broker", 5)
    threads = [threading.Thread(target=lambda: [ledger.count("sent") for _ in range(1000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.counts["sent"] == 8000
