"""A wrong page is told from a right one."""

from __future__ import annotations

import pytest

from tests.deaths.diary import Run
from tests.deaths.oracle import Truth
from tests.deaths.verdict import Change, Fault, View, answer_of, judge, turns

RETURNED = Run(1, 2, 1.0, "success", stored=True, reported=True, noted_at=2.0, alive=True, main_alive=True)
RUNS = Run(1, 2, 1.0, noted_at=1.0, alive=True, main_alive=True)
KILLED = Run(1, 2, 1.0, noted_at=1.0)

TRUTHS = {
    "returned": Truth(0, (RETURNED,), stored="SUCCESS"),
    "runs": Truth(0, (RUNS,)),
    "killed": Truth(0, (KILLED,)),
    "waits": Truth(0, waiting=True),
}
RIGHT = {"returned": "success", "runs": "running", "killed": "error:LOST", "waits": "queued"}


def kinds(faults: list[Fault]) -> list[tuple[str, str, str]]:
    return [(fault.kind, fault.job, fault.view) for fault in faults]


def test_what_is_right_has_no_fault() -> None:
    assert judge(TRUTHS, [View("a", RIGHT), View("b", RIGHT)]) == []


@pytest.mark.parametrize(
    ("job", "shown"),
    [
        ("returned", "running"),
        ("returned", "error:LOST"),
        ("returned", "absent"),
        ("runs", "error:LOST"),
        ("runs", "queued"),
        ("killed", "running"),
        ("killed", "success"),
        ("killed", "queued"),
        ("waits", "running"),
        ("waits", "error:LOST"),
    ],
)
def test_one_wrong_answer_is_found_in_each_view(job: str, shown: str) -> None:
    faults = judge(TRUTHS, [View("a", RIGHT), View("b", {**RIGHT, job: shown})])
    assert ("wrong", job, "b") in kinds(faults)
    assert not [fault for fault in faults if fault.view == "a" or fault.job != job]


def test_a_job_that_a_view_has_never_heard_of_is_a_fault() -> None:
    answers = {job: answer for job, answer in RIGHT.items() if job != "runs"}
    (fault,) = judge(TRUTHS, [View("a", answers)])
    assert str(fault) == "wrong: a shows runs as absent, not running"


def test_a_fault_says_how_it_came_to_that() -> None:
    changes = (Change("returned", "queued"), Change("other", "queued"), Change("returned", "running"))
    (fault,) = judge(TRUTHS, [View("a", {**RIGHT, "returned": "running"}, changes)])
    assert str(fault).endswith("(queued > running)")


def test_two_views_that_may_both_be_right_must_agree() -> None:
    truths = {"killed": TRUTHS["killed"]}
    assert judge(truths, [View("a", {"killed": "error:FAILURE"})]) == []
    faults = judge(truths, [View("a", {"killed": "error:FAILURE"}), View("b", {"killed": "error:LOST"})])
    assert kinds(faults) == [("disagree", "killed", "a / b")]


def test_what_a_view_may_have_forgotten_is_no_disagreement() -> None:
    truths = {"old": Truth(0, (RETURNED,), forgot_at=3.0)}
    assert judge(truths, [View("a", {"old": "success"}), View("b", {})]) == []


def test_a_job_that_comes_back_from_its_end_is_a_fault_although_it_ends_right() -> None:
    changes = tuple(Change("returned", answer) for answer in ("queued", "success", "running", "success"))
    assert kinds(judge(TRUTHS, [View("a", RIGHT, changes)])) == [("reopened", "returned", "a")]


def test_only_lost_is_taken_back() -> None:
    changes = tuple(Change("returned", answer) for answer in ("running", "error:LOST", "running", "success"))
    assert judge(TRUTHS, [View("a", RIGHT, changes)]) == []


def test_the_end_of_a_killed_process_is_taken_back_by_the_next_start_and_by_nothing_else() -> None:
    killed = Change("returned", "error:FAILURE", killed=True)
    assert turns(View("a", RIGHT, (killed, Change("returned", "running"), Change("returned", "success")))) == []
    for answer in ("queued", "success", "error:LOST"):
        assert [fault.kind for fault in turns(View("a", RIGHT, (killed, Change("returned", answer))))] == ["reopened"]
    raised = Change("returned", "error:FAILURE")
    assert [fault.kind for fault in turns(View("a", RIGHT, (raised, Change("returned", "running"))))] == ["reopened"]


def test_one_end_after_another_is_a_fault() -> None:
    view = View("a", {}, (Change("job", "success"), Change("job", "error:LOST")))
    assert [fault.shown for fault in turns(view)] == ["success and then error:LOST"]


def test_going_backwards_is_a_fault_but_in_the_next_attempt() -> None:
    backwards = View("a", {}, (Change("job", "running"), Change("job", "queued")))
    retried = View("a", {}, (Change("job", "running"), Change("job", "queued", attempt=1)))
    assert [fault.kind for fault in turns(backwards)] == ["backwards"]
    assert turns(retried) == []


@pytest.mark.parametrize(("queued", "faults"), [("12:00:02", []), ("12:00:00", ["backwards"])])
def test_a_job_whose_message_went_back_after_its_start_is_queued_again(queued: str, faults: list[str]) -> None:
    changes = (Change("job", "running", 0, "12:00:01"), Change("job", "queued", 0, queued))
    assert [fault.kind for fault in turns(View("a", {}, changes))] == faults


def test_jobs_are_not_mistaken_for_one_another() -> None:
    view = View("a", {}, (Change("one", "success"), Change("two", "running"), Change("two", "success")))
    assert turns(view) == []


def test_a_job_s_own_event_that_is_missing_is_a_fault() -> None:
    truths = {"job": Truth(0, (RETURNED,), stored="SUCCESS", spoke=True)}
    answers = {"job": "success"}
    assert judge(truths, [View("a", answers, spoken={"job"})]) == []
    assert kinds(judge(truths, [View("a", answers, spoken=set())])) == [("unheard", "job", "a")]
    assert judge(truths, [View("a", answers)]) == [], "it need not hear all"


def test_progress_over_an_end_in_the_backend_is_a_fault() -> None:
    truths = {"job": Truth(0, (RETURNED,), stored="PROGRESS")}
    assert kinds(judge(truths, [View("a", {"job": "success"})])) == [("overwritten", "job", "the result backend")]


def test_an_answer_is_the_status_and_for_an_error_the_state() -> None:
    assert answer_of({"status": "error", "state": "LOST"}) == "error:LOST"
    assert answer_of({"status": "queued", "state": "RETRY"}) == "queued"
