from __future__ import annotations

import os
import threading
import time

import pytest

from celery_realtime.lazy import Lazy


def test_a_part_is_made_when_it_is_first_asked_for_and_then_stays() -> None:
    made: list[object] = []
    part = Lazy(lambda: made.append(object()) or made[-1])
    assert not part.is_made
    assert part.peek() is None
    assert part.get() is part.get() is part.peek()
    assert len(made) == 1
    assert part.is_made


def test_a_part_may_be_none() -> None:
    calls: list[None] = []
    part = Lazy(lambda: calls.append(None))
    assert part.get() is part.get() is None
    assert len(calls) == 1
    assert part.is_made


def test_threads_that_come_at_once_get_the_same_part() -> None:
    made: list[object] = []

    def make() -> object:
        time.sleep(0.05)  # noqa: TID251 - so that all come while it is being made
        made.append(object())
        return made[-1]

    part = Lazy(make)
    seen: list[object] = []
    threads = [threading.Thread(target=lambda: seen.append(part.get())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert seen == made * 8


def test_after_an_error_the_next_one_tries_again() -> None:
    answers = iter([ValueError("not yet"), 5])

    def make() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    part = Lazy(make)
    with pytest.raises(ValueError, match="not yet"):
        part.get()
    assert part.get() == 5


def test_what_is_forgotten_is_made_again() -> None:
    numbers = iter(range(5))
    part = Lazy(lambda: next(numbers))
    assert part.get() == 0
    part.forget()
    assert part.get() == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_child_that_is_forked_while_another_thread_makes_a_part_makes_its_own() -> None:
    making, go_on = threading.Event(), threading.Event()
    parent = os.getpid()

    def make() -> int:
        if os.getpid() == parent:
            making.set()
            go_on.wait(60)
        return os.getpid()

    part = Lazy(make)
    thread = threading.Thread(target=part.get)
    thread.start()
    assert making.wait(60)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if part.get() == os.getpid() else 1)
    go_on.set()
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0
    assert part.get() == parent
