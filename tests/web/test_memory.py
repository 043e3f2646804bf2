"""When many connections have gone, their memory goes back to the system."""

from __future__ import annotations

import gc
import sys
import weakref

import pytest

from celery_realtime.web import memory
from celery_realtime.web.memory import MANY, MANY_TO_COLLECT, Memory


def test_it_is_given_back_once_when_many_have_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PAUSE", -1.0)
    free = Memory()
    for _ in range(MANY - 1):
        free.note_gone()
    assert not free.is_due()
    free.note_gone()
    assert free.is_due()
    free.give_back()
    assert not free.has_more
    assert not free.is_due()


def test_it_is_not_given_back_all_the_time() -> None:
    free = Memory()
    for _ in range(MANY):
        free.note_gone()
    assert free.has_more
    assert not free.is_due()


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_glibc_gives_it_back() -> None:
    assert Memory().give_back()


class Request:
    """What refers to itself, as eventlet's do."""

    def __init__(self) -> None:
        self.myself = self


def test_what_refers_to_itself_is_freed_when_very_many_have_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PAUSE", -1.0)
    free = Memory()
    gc.disable()
    try:
        request = weakref.ref(Request())
        for _ in range(MANY_TO_COLLECT):
            free.note_gone()
        free.give_back()
        assert request() is not None  # connections go at this moment: it would take the time of those that stay
        assert free.is_due()
        monkeypatch.setattr(memory, "CALM", -1.0)
        free.give_back()
        assert request() is None
        assert not free.has_more
    finally:
        gc.enable()
