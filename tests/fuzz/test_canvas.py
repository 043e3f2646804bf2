"""Every id of a random canvas ends, and as the result backend says; and what was one call is one workflow."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery, signals
from celery.result import GroupResult, result_from_tuple
from hypothesis import example, given
from hypothesis import strategies as st

from celery_realtime.events import STATUS_OF_STATE
from tests.fuzz import canvas_jobs
from tests.fuzz.budget import tried
from tests.launcher import Brokers, Launcher
from tests.waiting import WaitTimeout, wait_for

#: Canvases that run side by side: most of the time they wait.
AT_ONCE = 8
DEPTH = 4

#: Canvases that once were shown wrongly.
KNOWN = [
    ("chain", ["succeed", ("chord", ["succeed", "fail"], "succeed"), "succeed", "succeed"]),
    ("chord", [("chain", ["fail", "succeed"]), "succeed"], "succeed"),
    ("group", [("chain", ["succeed", "succeed"])] * 3),
    ("chord", [("chain", ["succeed", "succeed"])] * 3, "succeed"),
    ("group", ["succeed", ("chord", [("chain", ["retry", "succeed"])], ("group", ["succeed", "succeed"]))]),
    ("link_error", "reject", "succeed"),
    ("become", ("group", [("become", "succeed"), ("chain", ["succeed", "fail"])])),
]

ends = st.sampled_from([*canvas_jobs.ENDS, *["succeed"] * 8])


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return canvases made of others."""
    members = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.tuples(st.just("chain"), st.lists(inner, min_size=2, max_size=4)),
        st.tuples(st.just("group"), members),
        st.tuples(st.just("chord"), members, inner),
        st.tuples(st.just("become"), inner),
        st.tuples(st.sampled_from(["link", "link_error"]), inner, inner),
    )


def canvases(depth: int = DEPTH) -> st.SearchStrategy[Any]:
    """Return canvases of so many levels at most."""
    if depth == 1:
        return ends
    return nested(st.one_of(ends, canvases(depth - 1))).filter(runs_each_step_once)


def runs_each_step_once(canvas: Any) -> bool:
    """Tell whether Celery publishes each step once: what comes after a chord of groups, it does for each member."""
    if canvas[0] != "chain":
        return True
    return not any(step[0] == "chord" and ends_in_group(step[2]) for step in canvas[1][:-1])


def ends_in_group(canvas: Any) -> bool:
    """Tell whether a canvas ends in several tasks."""
    if canvas[0] == "chain":
        return ends_in_group(canvas[1][-1])
    if canvas[0] in ("link", "link_error"):
        return ends_in_group(canvas[1])
    return canvas[0] == "group" or (canvas[0] == "chord" and ends_in_group(canvas[2]))


class Studio:
    """An app with a worker, and what is said of its jobs.

    Args:
        app: The app.
    """

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.history = app.realtime.manager.history
        self.calls: list[Call] = []

    def start(self, canvas: Any) -> Call:
        """Run a canvas in a project of its own."""
        project = f"canvas-{uuid.uuid4().hex[:8]}"
        signature = canvas_jobs.build(self.app, canvas)
        with self.app.realtime.project(project), published() as messages:
            result = signature.apply_async()
        self.calls.append(Call(self, canvas, project, result=result, messages=messages))
        return self.calls[-1]

    def status(self, job_id: str) -> str:
        """Return what the backend says of a job."""
        return str(self.app.backend.get_task_meta(job_id, cache=False)["status"])


@contextmanager
def published() -> Iterator[list[str]]:
    """Collect the messages that are published, as text."""
    messages: list[str] = []

    def take(body: Any = None, headers: Any = None, **_: Any) -> None:
        messages.append(f"{headers} {body}")

    signals.after_task_publish.connect(take)
    try:
        yield messages
    finally:
        signals.after_task_publish.disconnect(take)


class Call:
    """A canvas that was run.

    Args:
        studio: Where.
        canvas: The canvas.
        project: Its project.
        result: What its caller got.
        messages: What was published for it.
    """

    def __init__(self, studio: Studio, canvas: Any, project: str, *, result: Any, messages: list[str]) -> None:
        self.canvas = canvas
        self._messages = messages
        self._studio = studio
        self._project = project
        self._result = result

    def mistakes(self) -> list[str]:
        """Return what is shown and not true, or true and not shown."""
        snapshot = self._studio.history.read(self._project)
        shown = {job["job_id"]: job for job in snapshot.jobs}
        ids = {*self._ids(self._result), *shown}
        mistakes = [text for job_id in sorted(ids) if (text := self._mistake(job_id, shown.get(job_id)))]
        return [*mistakes, *self._workflow_mistakes(snapshot)]

    def _ids(self, result: Any, seen: set[str] | None = None) -> set[str]:
        """Return the ids of all jobs that a result leads to."""
        seen = set() if seen is None else seen
        if isinstance(result, GroupResult):
            following = [*result.results]
        elif result.id in seen:
            return seen
        else:
            seen.add(result.id)
            meta = self._studio.app.backend.get_task_meta(result.id, cache=False)
            following = [
                child if hasattr(child, "id") else result_from_tuple(child, app=self._studio.app)
                for child in meta.get("children") or []
            ]
        for other in [*following, *([result.parent] if result.parent is not None else [])]:
            self._ids(other, seen)
        return seen

    def _mistake(self, job_id: str, job: dict[str, Any] | None) -> str | None:
        stored = self._studio.status(job_id)
        status = STATUS_OF_STATE.get(stored, "running")
        name = f"{job_id[:8]} {job['task'] if job else '?'}"
        if job is None and stored == "PENDING" and not any(job_id in message for message in self._messages):
            return None  # Celery has given the task another id than its caller
        if job is None:
            return f"{name} is not shown, stored {stored}"
        if job["status"] not in ("success", "error"):
            return f"{name} is {job['status']}, stored {stored}"
        if status in ("success", "error"):
            return None if job["status"] == status else f"{name} is {job['status']} {job['error']}, stored {stored}"
        if job["state"] in ("IGNORED", "REJECTED") or str(job["error"]).startswith("not run: "):
            return None
        return f"{name} is {job['status']} {job['error']}, stored {stored}"

    def _workflow_mistakes(self, snapshot: Any) -> list[str]:
        roots = Counter(job["root_id"] for job in snapshot.jobs)
        mistakes = [f"{name} is shown" for job in snapshot.jobs if str(name := job["task"]).startswith("celery.")]
        if len(roots) > 1:
            return [*mistakes, f"{len(roots)} roots of {dict(roots)}"]
        sums = [(flow["total"], flow["done"] + flow["failed"]) for flow in snapshot.workflows]
        total = len(snapshot.jobs)
        right = [(total, total)] if total > 1 else []
        return mistakes if sums == right else [*mistakes, f"workflows sum up to {sums}, not {right}"]


@pytest.fixture(scope="module", params=["redis", "database"])
def studio(
    request: pytest.FixtureRequest,
    brokers: Brokers,
    module_launcher: Launcher,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Studio]:
    broker = brokers.make("redis")
    is_redis = request.param == "redis"
    backend = broker.backend_url if is_redis else f"db+sqlite:///{module_launcher.folder}/results.db"
    env = {**broker.env, "CELERY_RESULT_BACKEND": backend, "HISTORY_URL": broker.backend_url}
    module_launcher.worker(
        "tests.fuzz.canvas_jobs", env=env, pool="prefork" if is_redis else "threads", concurrency=3, name=request.param
    )
    app = canvas_jobs.make_app(broker.url, backend, broker.backend_url, set_as_current=False)
    # Results are looked at, not waited for: without a subscription for each.
    app.backend.add_pending_result = lambda result, **_: result
    app.backend.remove_pending_result = lambda result: result
    yield Studio(app)
    app.realtime.manager.close()


@pytest.mark.filterwarnings("ignore:task_allow_error_cb_on_chord_header")
# Hypothesis minds that another thread, of kombu say, takes a random number while it draws.
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
@given(batch=st.lists(canvases(), min_size=AT_ONCE, max_size=AT_ONCE))
@example(batch=KNOWN)
@tried(2, share=0.02, shrinks=False)
def test_every_id_of_a_canvas_ends_as_the_backend_says(studio: Studio, batch: list[Any]) -> None:
    calls = [studio.start(canvas) for canvas in batch]
    try:
        wait_for(lambda: not any(call.mistakes() for call in calls))
    except WaitTimeout:
        pytest.fail(mistakes_of(calls))


def test_what_has_ended_stays_so(studio: Studio) -> None:
    assert mistakes_of(studio.calls) == ""


def mistakes_of(calls: list[Call]) -> str:
    """Return what is wrong with some canvases, as text."""
    wrong = {repr(call.canvas): mistakes for call in calls if (mistakes := call.mistakes())}
    return "\n".join(f"{canvas}\n    " + "\n    ".join(mistakes) for canvas, mistakes in wrong.items())
