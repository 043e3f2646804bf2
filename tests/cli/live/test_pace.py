"""When a job will be done is said where its progress lets it be said, and nowhere else."""

from __future__ import annotations

from celery_realtime.cli.live.pace import Paces

JOB = ("a", 0)


def reported(*reports: tuple[float, float]) -> Paces:
    paces = Paces()
    for now, percent in reports:
        paces.note(JOB, percent, now)
    return paces


def test_a_steady_job_is_done_when_its_pace_says() -> None:
    paces = reported((0, 10), (1, 12), (2, 14), (3, 16), (4, 18))
    assert paces.left(JOB, 4) == 41
    assert paces.left(JOB, 5) == 40


def test_of_few_reports_or_little_progress_nothing_is_said() -> None:
    assert reported((0, 10), (1, 12), (2, 14)).left(JOB, 2) is None
    assert reported((0, 10), (0.1, 20), (0.2, 30), (0.3, 40)).left(JOB, 0.3) is None
    assert reported((0, 10), (1, 10.5), (2, 11), (3, 11.5)).left(JOB, 3) is None
    assert Paces().left(JOB, 0) is None


def test_a_job_that_falls_silent_has_no_pace_any_more() -> None:
    paces = reported((0, 10), (1, 12), (2, 14), (3, 16))
    assert paces.left(JOB, 6) is not None
    assert paces.left(JOB, 7.5) is None


def test_progress_that_goes_back_or_is_none_begins_anew() -> None:
    assert reported((0, 10), (1, 20), (2, 30), (3, 40), (4, 5)).left(JOB, 4) is None
    paces = reported((0, 10), (1, 20), (2, 30), (3, 40))
    paces.note(JOB, None, 4)
    assert paces.left(JOB, 4) is None


def test_the_latest_reports_count_and_jobs_are_forgotten() -> None:
    slow = [(second * 10.0, second / 10) for second in range(100)]
    fast = [(1000.0 + second, 10.0 + second) for second in range(40)]
    paces = reported(*slow, *fast)
    assert paces.left(JOB, 1039) == 51
    paces.keep(set())
    assert paces.left(JOB, 1039) is None
