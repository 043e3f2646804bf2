"""What is reported of the jobs of a dead worker, with a recorder in place of what knows their ends."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from celery_realtime.events import Ending, Step
from celery_realtime.history.leases import HeldJob, Leases
from celery_realtime.sending import lost_jobs as lost_jobs_module
from celery_realtime.sending.lost_jobs import TRIES, LostJobs, knows_nothing
from tests.appended import append, status
from tests.recording import Studio
from tests.waiting import wait_for

LEASE = 0.2
FOUND = Ending("SUCCESS", result=b'{"made":1}')


@pytest.fixture
def studio(redis_url: str) -> Studio:
    studio = Studio(history_url=redis_url)
    history = studio.realtime.manager.history
    assert history is not None
    append(history, *(status("STARTED", job=name, incarnation="i") for name in ("a", "b")))
    history.leases.hold("i", [], LEASE)
    return studio


def leases_of(studio: Studio) -> Leases:
    history = studio.realtime.manager.history
    assert history is not None
    return history.leases


def lost_jobs(studio: Studio, find: Any = knows_nothing, **more: Any) -> LostJobs:
    return LostJobs(studio.realtime.manager, leases_of(studio), lease=LEASE, find_ends=find, **more)


def held(name: str, **more: Any) -> HeldJob:
    return HeldJob(job_id=name, worker="w@host", **{"project_id": "p", "running": True, **more})


def ends(studio: Studio) -> dict[str, str]:
    return {sent.data["job_id"]: sent.data["state"] for sent in studio.sent}


def is_remembered(studio: Studio) -> bool:
    return leases_of(studio).hold("i", [], LEASE)


def test_an_end_that_somebody_knows_is_reported_and_all_others_are_lost(studio: Studio) -> None:
    reporter = lost_jobs(studio, lambda _: {"p\na": FOUND, "p\nb": None})
    reporter.report("i", [held("a"), held("b")])
    assert ends(studio) == {"a": "SUCCESS", "b": "LOST"}
    [found, lost] = [sent.data for sent in studio.sent]
    assert found["result"] == {"made": 1}
    assert lost["error"] == "WorkerLost: w@host has not been heard of for 0.2 s"
    assert is_remembered(studio)
    reporter.report("i", [held("a"), held("b")])
    assert not is_remembered(studio)


def test_the_end_of_an_earlier_start_is_taken_back_by_the_start_that_was_taken_for_lost(studio: Studio) -> None:
    earlier = Ending("FAILURE", "WorkerLostError: gone", earlier=True)
    lost_jobs(studio, lambda _: {"p\na": earlier}).report("i", [held("a")])
    history = studio.realtime.manager.history
    assert history is not None
    before = history.job("p", "a")
    append(history, status("SUCCESS", job="a", incarnation="i"))
    after = history.job("p", "a")
    assert before is not None
    assert after is not None
    assert [before["state"], after["state"]] == ["FAILURE", "SUCCESS"]


def test_of_jobs_that_waited_those_are_lost_that_have_begun_all_the_same(studio: Studio) -> None:
    history = studio.realtime.manager.history
    assert history is not None
    append(history, *(status("PENDING", job=name) for name in ("waits", "begun")))
    jobs = [held(name, running=False) for name in ("waits", "begun", "unheard of")]
    asked: list[list[HeldJob]] = []

    def find_begun(jobs: list[HeldJob]) -> set[str]:
        asked.append(jobs)
        return {"p\nbegun", "p\nunheard of"}

    lost_jobs(studio, find_begun=find_begun).report("i", jobs)
    assert ends(studio) == {"begun": "LOST", "unheard of": "LOST"}
    assert asked == [jobs]


def test_what_is_known_of_a_job_says_nothing_of_that_of_another_project_with_its_id(studio: Studio) -> None:
    history = studio.realtime.manager.history
    assert history is not None
    append(history, *(status("PENDING", job="waits", project=project) for project in ("p", "q")))
    append(history, status("STARTED", job="a", project="q", incarnation="i"))
    waiting = [held("waits", running=False, project_id=project) for project in ("p", "q")]
    running = [held("a", project_id=project) for project in ("p", "q")]
    reporter = lost_jobs(studio, lambda _: {"p\na": FOUND, "q\na": None}, find_begun=lambda _: {"q\nwaits"})
    reporter.report("i", [*waiting, *running])
    told = {(sent.data["project_id"], sent.data["job_id"]): sent.data["state"] for sent in studio.sent}
    assert told == {("p", "a"): "SUCCESS", ("q", "a"): "LOST", ("q", "waits"): "LOST"}


def test_if_nobody_can_be_asked_which_jobs_have_begun_they_are_asked_for_again(studio: Studio) -> None:
    history = studio.realtime.manager.history
    assert history is not None
    append(history, status("PENDING", job="begun"))
    answers: list[set[str] | None] = [None, None, None, {"p\nbegun"}]
    lost = lost_jobs(studio, find_begun=lambda _: answers.pop(0))
    for _ in range(3):
        lost.report("i", [held("begun", running=False)])
        assert is_remembered(studio)
    assert ends(studio) == {}
    lost.report("i", [held("begun", running=False)])
    assert ends(studio) == {"begun": "LOST"}
    assert not is_remembered(studio)


def test_jobs_whose_ends_are_all_known_are_looked_up_once(studio: Studio) -> None:
    lost_jobs(studio, lambda _: {"p\na": FOUND, "p\nb": FOUND}).report("i", [held("a"), held("b")])
    assert not is_remembered(studio)


def test_a_result_that_is_stored_after_a_loss_was_reported_replaces_it(studio: Studio) -> None:
    """The worker could not reach the history, stored the result, and then died."""
    answers: list[Mapping[str, Ending | None]] = [{"p\na": None}, {"p\na": FOUND}]
    lost = lost_jobs(studio, lambda _: answers.pop(0))
    for _ in range(2):
        lost.report("i", [held("a")])
    assert studio.told() == ["LOST", "SUCCESS"]
    assert not is_remembered(studio)


def test_jobs_that_ran_are_asked_for_first(studio: Studio) -> None:
    asked: list[str] = []

    def find(jobs: list[HeldJob]) -> Mapping[str, Ending | None]:
        asked.extend(job.job_id for job in jobs)
        return knows_nothing(jobs)

    lost_jobs(studio, find).report("i", [held("reserved", running=False), held("a")])
    assert asked == ["a", "reserved"]


def test_an_end_that_can_be_looked_up_only_later_replaces_the_loss(studio: Studio) -> None:
    answers: list[Mapping[str, Ending | None]] = [{}, {"p\na": FOUND}]
    lost = lost_jobs(studio, lambda _: answers.pop(0))
    lost.report("i", [held("a")])
    assert ends(studio) == {"a": "LOST"}
    assert is_remembered(studio)
    lost.report("i", [held("a")])
    assert studio.told() == ["LOST", "SUCCESS"]
    assert not is_remembered(studio)


def test_an_end_that_can_never_be_looked_up_is_given_up(studio: Studio) -> None:
    lost = lost_jobs(studio, lambda _: {})
    for _ in range(TRIES):
        lost.report("i", [held("a")])
    assert not is_remembered(studio)
    # Two reports of one millisecond are equal: the second passes for a repetition, and has the offset of the first.
    assert {(sent.data["offset"], sent.data["state"]) for sent in studio.sent} == {(3, "LOST")}


def test_jobs_without_a_project_are_nobody_s(studio: Studio) -> None:
    lost_jobs(studio).report("i", [held("a", project_id=None)])
    assert studio.sent == []


def test_they_are_reported_in_a_thread_that_outlives_a_failure(studio: Studio) -> None:
    calls: list[str] = []

    def find(jobs: list[HeldJob]) -> Mapping[str, Ending | None]:
        calls.append(jobs[0].job_id)
        if len(calls) == 1:
            raise OSError("cannot be asked")
        return knows_nothing(jobs)

    lost = lost_jobs(studio, find)
    lost.put("i", [held("a")])
    wait_for(lambda: lost.loop.failures == 1)
    wait_for(lambda: (lost.put("i", [held("b")]), len(calls) > 1)[1])
    wait_for(lambda: ends(studio).get("b") == "LOST")


def test_an_incarnation_that_is_being_reported_is_not_reported_twice(studio: Studio) -> None:
    lost = lost_jobs(studio, lambda _: {"p\na": FOUND})
    for _ in range(3):
        lost.put("i", [held("a")])
    wait_for(lambda: not is_remembered(studio))
    assert {(sent.data["offset"], sent.data["state"]) for sent in studio.sent} == {(3, "SUCCESS")}


# -- the steps behind ------------------------------------------------------------------------------------------------


def step(name: str, project: str = "p", **more: Any) -> Step:
    return Step(job_id=name, project_id=project, **more)


def errors(studio: Studio) -> dict[str, tuple[str, str]]:
    return {sent.data["job_id"]: (sent.data["state"], sent.data["error"]) for sent in studio.sent}


def test_the_steps_behind_a_lost_job_end_too(studio: Studio) -> None:
    lost, jobs = lost_jobs(studio), [held("a", behind=(step("next"), step("private", "q"))), held("b")]
    lost.report("i", jobs)
    told = errors(studio)
    assert told["next"] == ("FAILURE", f"not run: {told['a'][1]}")
    assert told["private"] == ("FAILURE", "not run: an earlier step did not succeed")  # of another project
    lost.report("i", jobs)
    assert not is_remembered(studio)


def test_if_a_step_runs_after_all_it_is_shown(studio: Studio) -> None:
    history = studio.realtime.manager.history
    assert history is not None
    lost_jobs(studio).report("i", [held("a", behind=(step("next"),))])
    for state in ("STARTED", "SUCCESS"):
        [[shown]] = [append(history, status(state, job="next", run="1795762121624-3a930231"))]
        assert shown
    assert (history.job("p", "next") or {})["state"] == "SUCCESS"


def test_a_step_that_was_published_already_is_left_alone(studio: Studio) -> None:
    history = studio.realtime.manager.history
    assert history is not None
    append(history, status("PENDING", job="next"))
    lost_jobs(studio).report("i", [held("a", behind=(step("next"),))])
    assert (history.job("p", "next") or {})["state"] == "PENDING"


def test_a_job_that_is_not_lost_on_record_has_its_steps(studio: Studio) -> None:
    """It has not begun, or another worker runs it by now, or it has ended."""
    history = studio.realtime.manager.history
    assert history is not None
    append(history, status("PENDING", job="waits"), status("SUCCESS", job="b", incarnation="i"))
    jobs = [held("waits", running=False, behind=(step("after waits"),)), held("b", behind=(step("after b"),))]
    lost_jobs(studio, lambda _: {"p\nwaits": None, "p\nb": None}).report("i", jobs)
    assert history.job("p", "after waits") is None
    assert history.job("p", "after b") is None


def test_an_end_that_is_known_is_the_reason(studio: Studio) -> None:
    failure = Ending("FAILURE", "ValueError: broken")
    lost_jobs(studio, lambda _: {"p\na": failure}).report("i", [held("a", behind=(step("next"),))])
    assert errors(studio)["next"] == ("FAILURE", "not run: ValueError: broken")


def test_a_job_that_goes_on_in_a_step_is_lost_with_it(studio: Studio) -> None:
    history = studio.realtime.manager.history
    assert history is not None
    append(history, status("STARTED", job="replaced", incarnation="i"))
    lost_jobs(studio).report("i", [held("a", behind=(step("replaced", continues=True),))])
    assert errors(studio)["replaced"][0] == "LOST"


def test_where_no_thread_can_be_started_they_are_reported_when_one_can(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    reporter = lost_jobs(studio)
    with monkeypatch.context() as patched:
        patched.setattr(lost_jobs_module, "start_detached", refuse)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="new thread"):
                reporter.put("i", [held("a")])
    reporter.put("i", [held("a")])
    wait_for(lambda: ends(studio) == {"a": "LOST"})
