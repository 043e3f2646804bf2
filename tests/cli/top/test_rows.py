from __future__ import annotations

import pytest

from celery_realtime.cli.top.layout import Layout
from celery_realtime.cli.top.rows import STATUSES, Filter, Rows, in_one_line, row_of

JOB = {"job_id": "j", "status": "running", "state": "STARTED", "timestamp": "2026-01-01T00:00:00.000Z"}


def jobs(*described: tuple[str, str, str]) -> list[tuple[str, dict[str, str]]]:
    """Return jobs of a name, a status and the seconds at which they came to it."""
    return [
        ("p", {**JOB, "job_id": name, "status": status, "timestamp": f"2026-01-01T00:00:{at}.000Z"})
        for name, status, at in described
    ]


def chosen(chooser: Filter, *described: tuple[str, str, str]) -> list[str]:
    return [row.key[1] for row in chooser.chosen(Rows().of(jobs(*described)))]


def test_what_runs_comes_first_and_the_oldest_that_waits_before_later_ones() -> None:
    described = [
        ("done", "success", "01"),
        ("waits", "queued", "05"),
        ("failed", "error", "09"),
        ("began", "running", "02"),
        ("waits-long", "queued", "03"),
        ("began-last", "running", "08"),
    ]
    assert chosen(Filter(), *described) == ["began-last", "began", "waits-long", "waits", "failed", "done"]


def test_statuses_are_chosen_one_after_the_other() -> None:
    chooser, offered = Filter(), []
    for _ in range(len(STATUSES) + 1):
        offered.append(chooser.status)
        chooser = chooser.next_status()
    assert offered == [None, "running", "queued", "error", "success", None]
    assert chosen(Filter("queued"), ("a", "queued", "01"), ("b", "running", "01")) == ["a"]


@pytest.mark.parametrize(
    ("text", "is_found"),
    [("THING", True), ("wrong apollo", True), ("celery@host", True), ("j-1", True), ("other", False), ("", True)],
)
def test_all_words_are_looked_for_in_all_that_is_said(text: str, is_found: bool) -> None:
    job = {**JOB, "job_id": "j-1", "task": "studio.thing", "error": "ValueError: wrong", "worker": "celery@host"}
    assert bool(Filter(text=text).chosen([row_of("apollo", job)])) is is_found


def test_a_line_has_nothing_that_a_terminal_would_obey() -> None:
    evil = "\x1b]0;mine\x07\x1b[2J\r\nnext\u202eline\x9b31m"
    assert in_one_line(evil) == "]0;mine [2J next line 31m"
    job = {**JOB, "job_id": evil, "task": evil, "message": evil, "worker": evil, "status": evil, "state": evil}
    text = "".join(segment.text for segment in Layout(200, with_project=True).line(row_of(evil, job), 0.0))
    assert text.isprintable()


@pytest.mark.parametrize("job", [{}, {"progress": "half"}, {"progress": float("nan"), "timestamp": "soon"}])
def test_what_a_filter_has_left_is_shown(job: dict[str, object]) -> None:
    row = row_of("p", job)
    assert (row.progress, row.age(0.0), row.name) == (None, "", "-")
    assert Layout(100, with_project=False).line(row, 0.0)


@pytest.mark.parametrize(
    ("seconds", "age"), [(-5, "0s"), (59, "59s"), (60, "1m"), (3600, "1h"), (86400, "24h"), (864000, "10d")]
)
def test_ages_are_short(seconds: float, age: str) -> None:
    assert row_of("p", JOB).age(1767225600.0 + seconds) == age


def test_lines_of_jobs_that_have_not_changed_are_kept() -> None:
    rows, [one, other] = Rows(), jobs(("one", "running", "01"), ("other", "running", "01"))
    before = rows.of([one, other])
    after = rows.of([one, ("p", {**other[1], "status": "success"})])
    assert after[0] is before[0]
    assert after[1].status == "success"
    assert rows.of([]) == []


@pytest.mark.parametrize("width", [20, 80, 81, 200])
@pytest.mark.parametrize("with_project", [True, False])
def test_columns_fit_into_each_width(width: int, with_project: bool) -> None:
    layout = Layout(width, with_project)
    job = {**JOB, "progress": 40, "task": "studio.transcribe", "message": "幅広い 😀" * 20, "worker": "celery@host"}
    lines = [layout.titles(), layout.line(row_of("apollo", job), 0.0)]
    assert len({sum(segment.cell_length for segment in line) for line in lines}) == 1
    if width >= 80:
        assert sum(segment.cell_length for segment in lines[0]) <= width
        for word in ("MESSAGE", "幅広い"):
            assert any(word in segment.text for line in lines for segment in line)


def test_a_state_is_named_where_it_says_more_than_the_status() -> None:
    def first(**job: object) -> str:
        return Layout(120, with_project=False).line(row_of("p", {**JOB, **job}), 0.0)[0].text.strip()

    assert first() == "running"
    assert first(status="error", state="LOST") == "error LOST"
    assert first(status="queued", state="RETRY") == "queued RETRY"
    assert first(stalled=True) == "running STALLED"
