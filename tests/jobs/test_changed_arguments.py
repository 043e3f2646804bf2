"""What an application does to a task's arguments when it starts does not take the job out of its project."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import celery
import pytest
from celery import Celery, Task, signals
from celery.app.trace import trace_task

from tests.recording import Studio, new_app

Change = Callable[[dict[str, Any]], object]

CHANGES: dict[str, Change] = {
    "pops": lambda kwargs: kwargs.pop("project_id", None),
    "clears": lambda kwargs: kwargs.clear(),
    "replaces": lambda kwargs: kwargs.update(project_id="of the receiver"),
    "adds": lambda kwargs: kwargs.setdefault("tenant", 7),
}


def run(studio: Studio, task: Any, **headers: Any) -> Any:
    """Run a job as a worker does that has got it from a producer without this package."""
    request = {"id": "job", "task": task.name, "retries": 0, "hostname": "w@host", **headers}
    return trace_task(task, "job", (), {"project_id": "p"}, request, app=studio.app)


def projects(studio: Studio) -> set[tuple[str, str]]:
    return {(sent.data["job_id"], sent.project_id) for sent in studio.sent}


def lenient(self: Any, **kwargs: Any) -> None:
    self.update_progress(50)


@pytest.fixture
def app() -> Celery:
    return new_app()


@pytest.fixture(params=CHANGES)
def receiver(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """What an application has connected to ``task_prerun``."""

    def change(kwargs: Any = None, **_: Any) -> None:
        CHANGES[request.param](kwargs)

    yield change
    signals.task_prerun.disconnect(change)


@pytest.mark.parametrize("comes_first", [True, False])
@pytest.mark.parametrize("headers", [{}, {"project_id": "p"}])
def test_a_receiver_of_prerun_changes_no_project(
    app: Celery, receiver: Callable[..., None], comes_first: bool, headers: dict[str, Any]
) -> None:
    if comes_first:
        signals.task_prerun.connect(receiver, weak=False)
    studio = Studio(app)
    signals.task_prerun.connect(receiver, weak=False)
    run(studio, app.task(bind=True, shared=False, name="work")(lenient), **headers)
    assert projects(studio) == {("job", "p")}
    assert studio.told() == ["STARTED", "50", "SUCCESS"]


class Popping(Task):  # type: ignore[misc]
    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        kwargs.pop("project_id", None)


class Calling(Task):  # type: ignore[misc]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("project_id", None)
        return super().__call__(*args, **kwargs)


@pytest.mark.parametrize("base", [Popping, Calling])
def test_nor_does_before_start_or_a_call_of_the_task(app: Celery, base: type) -> None:
    studio = Studio(app)
    run(studio, app.task(bind=True, base=base, shared=False, name="work")(lenient))
    assert projects(studio) == {("job", "p")}


@pytest.mark.parametrize("base", [Popping, Calling])
def test_nor_of_what_the_job_goes_on_in_or_publishes(app: Celery, base: type) -> None:
    studio, published = Studio(app), []

    def note(headers: Any = None, **_: Any) -> None:
        published.append(headers.get("project_id"))

    def work(self: Any, **kwargs: Any) -> None:
        app.send_task("add", task_id="child")
        raise self.retry(countdown=0)

    signals.before_task_publish.connect(note)
    try:
        run(studio, app.task(bind=True, base=base, max_retries=3, shared=False, name="work")(work))
    finally:
        signals.before_task_publish.disconnect(note)
    assert projects(studio) == {("job", "p"), ("child", "p")}
    # Outside of a worker, Celery 5.4 takes a call of the base class for one of the application, and retries nothing.
    is_retried = base is Popping or celery.VERSION >= (5, 5)
    assert published == ["p", "p"][: 1 + is_retried]


def test_the_task_gets_what_the_receivers_have_made_of_its_arguments(app: Celery) -> None:
    got: list[dict[str, Any]] = []

    def work(**kwargs: Any) -> None:
        got.append(kwargs)

    def change(kwargs: Any = None, **_: Any) -> None:
        kwargs["tenant"] = 7

    studio = Studio(app)
    signals.task_prerun.connect(change)
    try:
        run(studio, app.task(shared=False, name="work")(work))
    finally:
        signals.task_prerun.disconnect(change)
    assert got == [{"project_id": "p", "tenant": 7}]


def test_a_resolver_is_asked_with_the_arguments_that_the_producer_has_given(app: Celery) -> None:
    asked: list[Any] = []

    def work(**kwargs: Any) -> None: ...

    def resolve(task: str, args: Any, kwargs: Any) -> str:
        asked.append(kwargs)
        return "of the resolver"

    def change(kwargs: Any = None, **_: Any) -> None:
        kwargs.clear()

    signals.task_prerun.connect(change)
    try:
        studio = Studio(app, project_resolver=resolve)
        trace_task(
            app.task(shared=False, name="work")(work),
            "job",
            (),
            {"customer": 3},
            {"id": "job", "task": "work"},
            app=app,
        )
    finally:
        signals.task_prerun.disconnect(change)
    assert projects(studio) == {("job", "of the resolver")}
    assert all(kwargs == {"customer": 3} for kwargs in asked)
