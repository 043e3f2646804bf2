"""What the outbox has to know of its process. The ``uwsgi`` module is a stand-in: uWSGI alone has the real one."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from celery_realtime.sending.seams import threads_stand_still
from tests.outboxes import custom, new_outbox

OLD, NEW = b"2.0.26", b"2.0.27"


@pytest.mark.parametrize(
    ("version", "opt", "stands"),
    [
        (OLD, {}, True),
        (OLD, {"http": b":8000", "master": True}, True),
        ("2.0.9", {}, True),
        (OLD, {"enable-threads": True}, False),
        (OLD, {b"enable-threads": b"true"}, False),
        (OLD, {"enable-threads": b"false"}, True),
        (OLD, {"threads": b"4"}, False),
        (NEW, {}, False),
        ("2.1.0", {}, False),
        ("2.1-dev", {}, True),
    ],
)
def test_threads_stand_still_in_an_old_uwsgi_that_was_not_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, version: Any, opt: dict[Any, Any], stands: bool
) -> None:
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(version=version, opt=opt))
    assert threads_stand_still() == stands


def test_they_run_everywhere_else() -> None:
    assert not threads_stand_still()


def test_it_is_said_once_with_the_first_event(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(version=OLD, opt={}))
    outbox = new_outbox(len)
    with caplog.at_level(logging.WARNING, "celery_realtime"):
        for number in range(3):
            outbox.put(custom(str(number)))
            assert outbox.flush(60)
    assert caplog.text.count("enable-threads") == 1
