"""Bars of tqdm report the progress of the job that they run in."""

from __future__ import annotations

import io
from typing import Any

import pytest
from tqdm import tqdm as plain_tqdm

from celery_realtime import JobCancelled
from celery_realtime.contrib.tqdm import tqdm, trange
from celery_realtime.events import Cancellation, job_name
from tests.jobs.test_task import HEADERS, progress_of, run, task_of
from tests.recording import Studio

ALWAYS = {"mininterval": 0, "miniters": 1}


@pytest.fixture
def studio() -> Studio:
    return Studio()


def last(studio: Studio) -> dict[str, Any]:
    update: dict[str, Any] = progress_of(studio)[-1]
    return update


def test_a_bar_reports_units_and_what_it_says(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    percents = []

    def work(_: Any) -> None:
        for _item in tqdm(["a", "b", "c", "d"], desc="Reading", **ALWAYS):
            assert studio.realtime.flush(60)
            percents.append(last(studio)["progress"])

    assert run(studio, work).successful()
    assert percents == [0, 25, 50, 75]
    end = last(studio)
    assert (end["progress"], end["current"], end["total"], end["message"]) == (100, 4, 4, "Reading")
    assert capsys.readouterr().err == ""


def test_a_bar_that_is_moved_by_hand_reports_where_it_ends(studio: Studio) -> None:
    def work(_: Any) -> None:
        with tqdm(total=10) as bar:
            bar.set_description("Copying")
            bar.update(3)

    run(studio, work)
    end = last(studio)
    assert (end["progress"], end["current"], end["total"], end["message"]) == (30, 3, 10, "Copying")


@pytest.mark.parametrize("total", [None, 0, 3])
def test_bars_of_whatever_length_are_reported(studio: Studio, total: int | None) -> None:
    run(studio, lambda _: [*tqdm(iter("abcde"), total=total, **ALWAYS)])
    assert last(studio)["current"] == 5


def test_a_bar_in_a_stage_reports_of_the_stage(studio: Studio) -> None:
    def work(self: Any) -> None:
        self.plan_stages(["a", "b"])
        with self.stage("a"):
            list(trange(4))
        with self.stage("b"):
            for number in trange(4, **ALWAYS):
                assert studio.realtime.flush(60)
                if number == 2:
                    assert last(studio)["progress"] == 75

    assert run(studio, work).successful()
    assert [stage["status"] for stage in last(studio)["stages"]] == ["done", "done"]


def test_of_two_bars_the_outer_one_reports_and_afterwards_the_next(studio: Studio) -> None:
    def work(_: Any) -> None:
        for _outer in tqdm("ab", desc="outer", **ALWAYS):
            list(tqdm("cdefg", desc="inner", **ALWAYS))
            assert studio.realtime.flush(60)
        list(tqdm("hi", desc="next", **ALWAYS))

    run(studio, work)
    messages = [update["message"] for update in progress_of(studio)]
    assert "inner" not in messages
    assert messages[-1] == "next"


def test_a_bar_that_is_off_reports_nothing(studio: Studio) -> None:
    run(studio, lambda _: [*tqdm("ab", disable=True), *tqdm("ab", **ALWAYS)])
    assert last(studio)["current"] == 2
    assert len(progress_of(studio)) >= 1


def test_a_bar_with_a_file_is_drawn_there_and_reports(studio: Studio) -> None:
    file = io.StringIO()
    run(studio, lambda _: [*tqdm("abcd", desc="Drawn", file=file, **ALWAYS)])
    assert "Drawn: 100%" in file.getvalue()
    assert last(studio)["progress"] == 100


def test_in_a_worker_without_a_terminal_a_bar_for_terminals_reports_all_the_same(studio: Studio) -> None:
    run(studio, lambda _: [*tqdm("abcd", disable=None, **ALWAYS)])
    assert last(studio)["progress"] == 100


def test_outside_a_job_it_is_a_plain_bar(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    assert [*tqdm("ab", desc="plain")] == ["a", "b"]
    task_of(studio.app, lambda _: [*tqdm("ab", desc="called")])()
    shown = capsys.readouterr().err
    assert "plain: 100%" in shown
    assert "called: 100%" in shown
    assert studio.sent == []
    assert isinstance(tqdm("", disable=True), plain_tqdm)


def test_where_nothing_is_reported_it_is_a_plain_bar(capsys: pytest.CaptureFixture[str]) -> None:
    silent = Studio(enabled=False)
    assert task_of(silent.app, lambda _: [*tqdm("ab")]).apply(headers=HEADERS).result == ["a", "b"]
    assert "100%" in capsys.readouterr().err


def test_a_cancelled_job_ends_at_its_next_step(studio: Studio) -> None:
    def work(self: Any) -> None:
        for _item in tqdm(range(100), **ALWAYS):
            name = job_name(self.request.id, "p")
            studio.realtime.running_jobs.cancellations.add(name, Cancellation())

    result = run(studio, work, cancellable=True)
    assert result.state == "REVOKED" or isinstance(result.result, JobCancelled)
    assert last(studio)["current"] < 100


def test_a_bar_that_cannot_be_made_leaves_nothing_behind(studio: Studio) -> None:
    def work(_: Any) -> None:
        with pytest.raises(Exception, match="nosuch"):
            tqdm("ab", nosuch=True)
        list(tqdm("ab", desc="after", **ALWAYS))

    assert run(studio, work).successful()
    assert last(studio)["message"] == "after"
