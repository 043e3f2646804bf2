from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest
from celery import group

from tests.jobs.test_task import flush, task_of
from tests.recording import Studio

HEADERS = {"project_id": "p"}


@pytest.fixture
def studio() -> Studio:
    return Studio()


def updates(studio: Studio) -> list[tuple[Any, ...]]:
    """Return all progress so far, after the first event."""
    return [
        (sent.data["progress"], sent.data["current"], sent.data["total"], sent.data["message"])
        for sent in studio.sent
        if sent.event == "agent_progress"
    ]


def work(self: Any, item: int, other: int = 0) -> int:
    flush(self)
    return item + other


def reporting(self: Any, item: int) -> int:
    self.update_progress(50, f"item {item}")
    flush(self)
    return item


def tracking(self: Any, item: int) -> int:
    for _ in self.track([1, 2], "Reading"):
        flush(self)
    return item


@pytest.mark.parametrize("how", ["map", "starmap"])
def test_the_items_that_are_done_with_are_the_progress_of_the_job(studio: Studio, how: str) -> None:
    task = task_of(studio.app, work)
    items = [1, 2, 3, 4] if how == "map" else [(1, 1), (2, 2), (3, 3), (4, 4)]
    result = getattr(task, how)(items).apply(headers=HEADERS)
    assert result.get() == ([1, 2, 3, 4] if how == "map" else [2, 4, 6, 8])
    assert updates(studio) == [(25 * done, done, 4, None) for done in range(5)]
    assert {sent.data["task"] for sent in studio.sent} == {task.name}


def test_what_an_item_reports_is_a_part_of_it(studio: Studio) -> None:
    task_of(studio.app, reporting).map([1, 2]).apply(headers=HEADERS)
    assert [update for update in updates(studio) if update[0] in (25, 75, 100)] == [
        (25, 0, 2, "item 1"),
        (75, 1, 2, "item 2"),
        (100, 2, 2, "item 2"),
    ]


def test_what_an_item_tracks_is_a_part_of_it(studio: Studio) -> None:
    task_of(studio.app, tracking).map([1, 2]).apply(headers=HEADERS)
    # The beginning of the job and that of its first item may be one update, or two.
    assert [percent for percent, _ in groupby(update[0] for update in updates(studio))] == [0, 25, 50, 75, 100]


def test_each_chunk_is_a_job_with_its_items(studio: Studio) -> None:
    chunks = task_of(studio.app, work).chunks([(1, 1), (2, 2), (3, 3), (4, 4)], 2).group()
    assert isinstance(chunks, group)
    for chunk in chunks.tasks:
        chunk.apply(headers=HEADERS)
    assert [update[:3] for update in updates(studio)] == [(0, 0, 2), (50, 1, 2), (100, 2, 2)] * 2


def test_an_item_sends_events_to_the_project_of_its_job(studio: Studio) -> None:
    def body(self: Any, item: int) -> None:
        self.emit("line", {"item": item})

    job = task_of(studio.app, body).map([1, 2]).apply(headers=HEADERS)
    lines = [sent.data for sent in studio.sent if sent.event == "line"]
    assert [line["item"] for line in lines] == [1, 2]
    assert {(line["_realtime"]["job_id"], line["_realtime"]["project_id"]) for line in lines} == {(job.id, "p")}


def test_another_task_that_an_item_calls_says_nothing_of_the_job(studio: Studio) -> None:
    other = task_of(studio.app, lambda self: self.update_progress(99))

    def body(self: Any, item: int) -> int:
        other()
        flush(self)
        return item

    assert task_of(studio.app, body).map([1, 2]).apply(headers=HEADERS).get() == [1, 2]
    assert [update[0] for update in updates(studio)] == [0, 50, 100]


def test_an_item_that_fails_fails_the_job_and_nothing_of_it_stays(studio: Studio) -> None:
    def body(self: Any, item: int) -> None:
        self.update_progress(50)
        raise ValueError("no luck")

    task = task_of(studio.app, body)
    task.map([1, 2]).apply(headers=HEADERS)
    assert studio.told()[-1] == "FAILURE"
    with pytest.raises(ValueError, match="no luck"):
        task(1)
    assert studio.told()[-1] == "FAILURE"


def test_no_items_are_no_progress_and_an_error_only_of_the_job(studio: Studio) -> None:
    assert task_of(studio.app, work).map([]).apply(headers=HEADERS).get() == []
    assert updates(studio) == []
