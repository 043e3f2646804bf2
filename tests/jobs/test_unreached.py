from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from celery.app.task import Context
from celery.canvas import Signature
from celery.exceptions import ChordError

from celery_realtime.events import Job
from celery_realtime.jobs.incarnation import Incarnation
from celery_realtime.jobs.job_reader import JobReader
from celery_realtime.jobs.lineage import ATTEMPT_HEADER, CONTINUED_RUN_HEADER, TASK_HEADER
from celery_realtime.jobs.projects import Projects
from celery_realtime.jobs.statuses import StatusReporter
from celery_realtime.jobs.unreached import MOST_RECORDED, UnreachedSteps
from celery_realtime.settings import Settings
from tests.recording import Studio, new_app

RUN = "1795762121624-3a930231"
JOB = Job(job_id="job", project_id="p", root_id="root")


def ended(job: Job = JOB, reason: str | BaseException = "ValueError: no", **embed: Any) -> list[Any]:
    """Return the events of the steps behind a job that did not succeed."""
    studio, reporter = Studio(), StatusReporter(Incarnation(), Settings)
    reporter.report_to(studio.realtime.manager)
    projects = Projects(studio.app, lambda: studio.realtime.settings, lambda _: None)
    UnreachedSteps(projects, reporter).end(job, embed, reason)
    return [sent.data for sent in studio.sent]


def step(job_id: str | None, **options: Any) -> dict[str, Any]:
    return {"task": "add", "options": {"task_id": job_id, **options}}


def test_the_steps_of_the_chain_and_the_body_of_the_chord_end_as_failed() -> None:
    told = ended(chain=[step("two"), step("one")], chord=step("body"))
    assert {data["job_id"] for data in told} == {"one", "two", "body"}
    for data in told:
        assert (data["state"], data["error"]) == ("FAILURE", "not run: ValueError: no")
        assert (data["project_id"], data["root_id"], data["parent_id"]) == ("p", "root", "job")


def test_a_step_keeps_the_project_that_it_was_given_and_its_attempt() -> None:
    (told,) = ended(chain=[step("one", headers={"project_id": "other", ATTEMPT_HEADER: {"one": 2}})])
    assert (told["project_id"], told["attempt"]) == ("other", 2)


def test_a_step_of_another_project_does_not_show_the_error() -> None:
    (told,) = ended(chain=[step("one", headers={"project_id": "other"})])
    assert told["error"] == "not run: an earlier step did not succeed"


def test_steps_of_another_project_do_not_name_the_jobs_before_them_and_are_one_workflow() -> None:
    other = {"headers": {"project_id": "other"}}
    told = ended(chain=[step("three", **other), step("two", **other), step("one")])
    assert {data["job_id"]: (data["project_id"], data["root_id"], data["parent_id"]) for data in told} == {
        "one": ("p", "root", "job"),
        "two": ("other", "two", None),
        "three": ("other", "two", None),
    }


def test_the_error_of_a_job_that_nobody_may_see_is_shown_to_nobody() -> None:
    [told] = ended(msgspec.structs.replace(JOB, project_id=None), chain=[step("one", headers={"project_id": "p"})])
    assert told["error"] == "not run: an earlier step did not succeed"


@pytest.mark.parametrize(
    ("projects", "text"),
    [
        (["p"], "ChordError: Dependency member raised ValueError('no')"),
        (["other"], "an earlier step did not succeed"),
        (["p", "other"], "an earlier step did not succeed"),
        ([], "an earlier step did not succeed"),
    ],
)
def test_the_body_of_a_chord_repeats_the_error_of_a_member_that_is_known_to_be_of_its_project(
    projects: list[str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery fails the body where the last member ends, which need not be the one that has failed."""
    studio = Studio()
    asked: list[str] = []

    def projects_of(_self: StatusReporter, job_id: str) -> list[str]:
        asked.append(job_id)
        return projects

    monkeypatch.setattr(StatusReporter, "projects_of", projects_of)

    @studio.app.task(shared=False, bind=True, name="last")
    def last(self: Any) -> None:
        error = ChordError("Dependency member raised ValueError('no')")
        body = Signature(step("body", headers={"project_id": "p"}), app=studio.app)
        with contextlib.suppress(Exception):
            self.backend.chord_error_from_stack(body, error)

    last.apply(headers={"project_id": "p"})
    [told] = [sent.data for sent in studio.sent if sent.data["job_id"] == "body"]
    assert told["error"] == f"not run: {text}"
    assert asked == ["member"]


@pytest.mark.parametrize(
    ("url", "on_record", "received", "text"),
    [
        ("redis://history", [], "p", "ChordError: Dependency member raised WorkerLostError('no')"),
        ("redis://history", ["p"], "p", "ChordError: Dependency member raised WorkerLostError('no')"),
        ("redis://history", [], "other", "an earlier step did not succeed"),
        ("redis://history", ["other"], "p", "an earlier step did not succeed"),
        ("redis://history", [], None, "an earlier step did not succeed"),
        (None, [], "p", "an earlier step did not succeed"),
    ],
)
def test_a_worker_knows_of_which_project_a_member_is_that_it_has_received_before_that_is_on_record(
    url: str | None, on_record: list[str], received: str | None, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery's main process fails the body of a chord at once when a member's process dies."""
    studio, reporter = Studio(), StatusReporter(Incarnation(), lambda: Settings(history_url=url))
    reporter.report_to(studio.realtime.manager)
    monkeypatch.setattr(StatusReporter, "projects_of", lambda _self, _job_id: on_record)
    projects = Projects(studio.app, lambda: studio.realtime.settings, lambda _: None)
    members = {"member": Job(job_id="member", project_id=received)}
    app = new_app()
    UnreachedSteps(projects, reporter, members.get).follow_chords(app, JobReader(app, projects))
    body = Signature(step("body", headers={"project_id": "p"}), app=app)
    with contextlib.suppress(Exception):
        app.backend.chord_error_from_stack(body, ChordError("Dependency member raised WorkerLostError('no')"))
    [told] = [sent.data for sent in studio.sent]
    assert told["error"] == f"not run: {text}"


def test_a_step_has_the_project_that_its_arguments_name() -> None:
    (told,) = ended(chain=[{**step("one"), "kwargs": {"project_id": "named"}}])
    assert told["project_id"] == "named"


def test_a_step_that_will_not_run_ends_softly_and_the_rest_of_a_job_that_runs_for_good() -> None:
    studio, reporter = Studio(), StatusReporter(Incarnation(), Settings)
    reporter.report_to(studio.realtime.manager)
    projects = Projects(studio.app, lambda: studio.realtime.settings, lambda _: None)
    rest = step("rest", headers={TASK_HEADER: {"rest": "become"}, CONTINUED_RUN_HEADER: {"rest": RUN}})
    UnreachedSteps(projects, reporter).end(JOB, {"chain": [rest, step("own")]}, "ValueError: no")
    assert studio.realtime.flush(60)
    standings = {outgoing.job_id: outgoing.standing for outgoing in studio.wire.outgoing}
    assert (standings["rest"].gate, standings["rest"].run) == ("", RUN)
    assert (standings["own"].gate, standings["own"].run) == ("U", "")


def test_the_rest_of_a_job_that_has_replaced_itself_is_lost_with_a_lost_step_whoever_has_run_it() -> None:
    studio, incarnation = Studio(), Incarnation()
    incarnation.begin()
    reporter = StatusReporter(incarnation, Settings)
    reporter.report_to(studio.realtime.manager)
    projects = Projects(studio.app, lambda: studio.realtime.settings, lambda _: None)
    rest = step("rest", headers={TASK_HEADER: {"rest": "become"}, CONTINUED_RUN_HEADER: {"rest": RUN}})
    UnreachedSteps(projects, reporter).end(JOB, {"chain": [rest]}, "WorkerLost: w", state="LOST")
    assert studio.realtime.flush(60)
    [standing] = [outgoing.standing for outgoing in studio.wire.outgoing]
    assert (standing.gate, standing.run, standing.incarnation) == ("L", RUN, "")


def test_a_worker_notes_a_bounded_number_of_the_steps_behind_a_job_that_have_a_project() -> None:
    studio, reporter = Studio(), StatusReporter(Incarnation(), Settings)
    projects = Projects(studio.app, lambda: studio.realtime.settings, lambda _: None)
    steps = UnreachedSteps(projects, reporter)
    request = Context(id="job", task="t", args=[], kwargs={}, chain=[step(str(n)) for n in range(MOST_RECORDED + 5)])
    noted = steps.behind(JOB, request)
    assert len({one.job_id for one in noted}) == MOST_RECORDED
    assert {(one.project_id, one.root_id, one.parent_id) for one in noted} == {("p", "root", "job")}
    assert steps.behind(msgspec.structs.replace(JOB, project_id=None), request) == ()


def test_what_waits_for_a_chord_ends_with_the_error_that_celery_stores_for_its_body() -> None:
    (told,) = ended(reason=ValueError("no"), chord=step("body"))
    assert told["error"] == "not run: ChordError: Dependency job raised ValueError('no')"


def test_what_is_behind_a_task_that_celery_runs_for_itself_has_the_parent_of_that() -> None:
    unlock = Job(job_id="unlock", project_id="p", task="celery.chord_unlock", parent_id="before")
    (told,) = ended(unlock, chord=step("body"))
    assert told["parent_id"] == "before"


def test_a_step_that_has_no_id_and_a_job_without_steps_end_nothing() -> None:
    assert ended(chain=[step(None)]) == []
    assert ended() == []
    assert ended(chain=None, chord=None) == []
