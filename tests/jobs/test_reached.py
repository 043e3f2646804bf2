from __future__ import annotations

import multiprocessing

import pytest

from celery_realtime.jobs.reached import Reached


@pytest.mark.parametrize("shared", [False, True])
def test_it_grows_and_never_goes_back(shared: bool) -> None:
    reached = Reached()
    if shared:
        reached.share()
    assert [reached.raise_to(number) for number in (10, 5, 20)] == [10, 10, 20]
    assert reached.add(30) == 50
    assert reached.raise_to(reached.add(80)) == 100
    assert reached.value == 100


def test_what_other_processes_have_added_is_known() -> None:
    reached = Reached()
    reached.raise_to(10)
    reached.share()
    child = multiprocessing.get_context("fork").Process(target=reached.add, args=(30,))
    child.start()
    child.join(60)
    assert (reached.value, reached.unreported) == (40, 40)
    assert reached.raise_to(5) == 40
    assert reached.unreported is None
