"""Who asks for the same at the same time shares one reading, and is never given what was read before."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from celery_realtime.history.store import Snapshot
from celery_realtime.web.shared_reads import AsyncSharedReads, Reading, SharedReads
from tests.waiting import wait_for


class Source:
    """A project of which each reading tells one event more, and which can be made to wait."""

    def __init__(self, kept: int = 1000) -> None:
        self.reads: list[tuple[str, str, int]] = []
        self.kept = kept
        self.offset = 100
        self.open = threading.Event()
        self.open.set()
        self.error: Exception | None = None
        self._lock = threading.Lock()

    def __call__(self, project_id: str, epoch: str, offset: int) -> Snapshot:
        with self._lock:
            self.reads.append((project_id, epoch, offset))
        assert self.open.wait(60)
        if self.error is not None:
            raise self.error
        whole = epoch == "e" and 0 <= self.offset - offset <= self.kept
        missed = [{"n": n} for n in range(offset + 1, self.offset + 1)] if whole else []
        return Snapshot("e", self.offset, whole, [], 0, [], missed)


def numbers(reading: Reading) -> list[int]:
    return [event["n"] for event in reading.snapshot.events]


def test_many_who_ask_during_a_reading_share_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    read = SharedReads(source)
    source.open.clear()
    with ThreadPoolExecutor(101) as pool:
        first = pool.submit(read, "p", "e", 50)
        wait_for(lambda: source.reads)
        others = [pool.submit(read, "p", "e", 50 + number % 40) for number in range(100)]
        wait_for(lambda: read.waiting("p") == 40)
        source.offset = 105
        source.open.set()
        assert numbers(first.result(60))[-1] == 105
        answers = [other.result(60) for other in others]

    assert source.reads == [("p", "e", 50), ("p", "e", 50)]
    for number, answer in enumerate(answers):
        assert numbers(answer) == list(range(51 + number % 40, 106))


def test_nobody_is_given_what_was_read_before_he_asked() -> None:
    source = Source()
    read = SharedReads(source)
    source.open.clear()
    with ThreadPoolExecutor(2) as pool:
        early = pool.submit(read, "p", "e", 100)
        wait_for(lambda: source.reads)
        late = pool.submit(read, "p", "e", 100)
        wait_for(lambda: read.waiting("p"))
        source.open.set()
        early.result(60), late.result(10)

    assert len(source.reads) == 2


def test_who_is_too_far_behind_is_answered_beside_who_is_not() -> None:
    source = Source(kept=20)
    read = SharedReads(source)
    source.open.clear()
    with ThreadPoolExecutor(5) as pool:
        pool.submit(read, "p", "", -1)
        wait_for(lambda: source.reads)
        places = [("e", 10), ("e", 85), ("e", 100), ("old", 3)]
        asked = [pool.submit(read, "p", *place) for place in places]
        wait_for(lambda: read.waiting("p") == 4)
        source.open.set()
        answers = [one.result(60) for one in asked]

    assert [answer.snapshot.recovered for answer in answers] == [False, True, True, False]
    assert numbers(answers[1]) == list(range(86, 101))
    assert numbers(answers[2]) == []


def test_projects_do_not_wait_for_each_other() -> None:
    source = Source()
    read = SharedReads(source)
    source.open.clear()
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(read, project, "e", 100) for project in ("p", "q")]
        wait_for(lambda: len(source.reads) == 2)
        source.open.set()
        assert all(one.result(60).snapshot.recovered for one in both)


def test_a_reading_that_fails_fails_for_all_who_share_it_and_the_next_is_tried() -> None:
    source = Source()
    read = SharedReads(source)
    source.error = ConnectionError("away")
    with pytest.raises(ConnectionError, match="away"):
        read("p", "e", 100)
    source.error = None
    assert read("p", "e", 100).snapshot.recovered


def test_what_is_kept_of_projects_is_bounded() -> None:
    read = SharedReads(Source())
    for number in range(3000):
        read(f"project-{number}", "e", 100)
    assert read.remembered <= 1001


def test_an_event_loop_shares_readings_too() -> None:
    source = Source()

    async def ask() -> list[Any]:
        read = AsyncSharedReads(source)
        answers = await asyncio.gather(*(read("p", "e", 50 + number % 40) for number in range(1000)))
        assert not read.remembered
        return answers

    answers = asyncio.run(ask())

    assert len(source.reads) <= 2
    assert [numbers(answer) for answer in answers] == [list(range(51 + n % 40, 101)) for n in range(1000)]


def test_in_an_event_loop_who_gives_up_takes_nobody_along() -> None:
    source = Source()
    source.open.clear()

    async def ask() -> Any:
        read = AsyncSharedReads(source)
        first = asyncio.create_task(read("p", "e", 90))
        await asyncio.to_thread(wait_for, lambda: source.reads)
        second = asyncio.create_task(read("p", "e", 95))
        await asyncio.sleep(0)
        first.cancel()
        source.open.set()
        return await asyncio.wait_for(second, 10)

    assert numbers(asyncio.run(ask())) == [96, 97, 98, 99, 100]


def test_in_an_event_loop_a_failure_is_for_who_shares_it() -> None:
    source = Source()
    source.error = ConnectionError("away")

    async def ask() -> list[Any]:
        read = AsyncSharedReads(source)
        return await asyncio.gather(*(read("p", "e", 90) for _ in range(3)), return_exceptions=True)

    assert [str(answer) for answer in asyncio.run(ask())] == ["away"] * 3


# -- sizes ----------------------------------------------------------------------------------------------------------


def test_an_answer_knows_its_size_wherever_it_was_cut() -> None:
    source = Source()
    read = SharedReads(source)
    source.open.clear()
    with ThreadPoolExecutor(4) as pool:
        pool.submit(read, "p", "", -1)
        wait_for(lambda: source.reads)
        asked = [pool.submit(read, "p", "e", offset) for offset in (50, 90, 100)]
        wait_for(lambda: read.waiting("p") == 3)
        source.open.set()
        for reading in (future.result(60) for future in asked):
            assert abs(reading.size - len(msgspec.json.encode(reading.snapshot))) <= len(reading.snapshot.events) + 1


# -- readers that are killed ----------------------------------------------------------------------------------------


class Killed(BaseException):
    """As gevent's GreenletExit: nobody is to catch it."""


def test_when_the_reader_is_killed_those_who_share_its_read_are_answered_and_the_next_read_works() -> None:
    source = Source()
    source.open.clear()
    kills = [True]

    def killed(project_id: str, epoch: str, offset: int) -> Any:
        snapshot = source(project_id, epoch, offset)
        if len(source.reads) == 2 and kills:
            raise Killed
        return snapshot

    read = SharedReads(killed)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(read, "p", "e", 100)
        wait_for(lambda: source.reads)
        others = [pool.submit(read, "p", "e", offset) for offset in (97, 98, 99)]
        wait_for(lambda: read.waiting("p") == 3)
        source.open.set()
        assert first.result(60).snapshot.recovered
        endings = [type(other.exception(10)) for other in others]

    assert sorted(ending.__name__ for ending in endings) == ["Killed", "RuntimeError", "RuntimeError"]
    kills.clear()
    assert read("p", "e", 100).snapshot.recovered


def test_in_an_event_loop_a_reader_that_is_cancelled_leaves_nobody_waiting() -> None:
    source = Source()
    source.open.clear()

    async def ask() -> list[Any]:
        read = AsyncSharedReads(source)
        before = asyncio.all_tasks()
        first = asyncio.create_task(read("p", "e", 90))
        await asyncio.to_thread(wait_for, lambda: source.reads)
        second = asyncio.create_task(read("p", "e", 95))
        await asyncio.sleep(0)
        [reader] = asyncio.all_tasks() - before - {first, second}
        reader.cancel()
        answers = await asyncio.wait_for(asyncio.gather(first, second, return_exceptions=True), 10)
        source.open.set()
        return answers

    assert [type(answer) for answer in asyncio.run(ask())] == [RuntimeError, RuntimeError]


# -- positions that are made up ---------------------------------------------------------------------------------------


def ask_all(source: Source, positions: list[tuple[str, int]]) -> dict[tuple[str, int], Reading]:
    """Ask for all positions at once, and forget the reading that they waited for."""
    read = SharedReads(source)
    source.open.clear()
    with ThreadPoolExecutor(len(positions) + 1) as pool:
        first = pool.submit(read, "p", "e", source.offset)
        wait_for(lambda: source.reads)
        asked = [pool.submit(read, "p", *position) for position in positions]
        wait_for(lambda: read.waiting("p") == len(positions))
        source.reads.clear()
        source.open.set()
        first.result(60)
        return {position: one.result(60) for position, one in zip(positions, asked, strict=True)}


@pytest.mark.parametrize("genuine", [("e", 90), ("", -1)])
def test_made_up_epochs_cost_one_reading_together(genuine: tuple[str, int]) -> None:
    source = Source()
    answers = ask_all(source, [*((f"epoch-{number}", number) for number in range(50)), genuine])
    assert len(source.reads) <= 2
    assert [answer.snapshot.recovered for answer in answers.values()] == [False] * 50 + [genuine == ("e", 90)]
    assert numbers(answers[genuine]) == (list(range(91, 101)) if genuine == ("e", 90) else [])
    assert all(answer.snapshot.offset == 100 for answer in answers.values())


def test_positions_that_are_too_far_behind_cost_few_readings() -> None:
    source = Source(kept=20)
    answers = ask_all(source, [("e", offset) for offset in range(101)])
    assert len(source.reads) <= 9
    for (_, offset), answer in answers.items():
        assert answer.snapshot.recovered == (offset >= 80)
        assert numbers(answer) == (list(range(offset + 1, 101)) if offset >= 80 else [])


def test_positions_in_the_future_cost_one_reading_together() -> None:
    source = Source()
    answers = ask_all(source, [("e", 10**6 + number) for number in range(30)])
    assert len(source.reads) <= 2
    assert not any(answer.snapshot.recovered for answer in answers.values())
    answers = ask_all(source, [("e", 99), *(("e", 10**6 + number) for number in range(30))])
    assert len(source.reads) <= 2
    assert answers["e", 99].snapshot.recovered
