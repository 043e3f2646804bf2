from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, Task

from celery_realtime.jobs.projects import project_argument, takes_project
from tests.recording import new_app


def plain(meeting_id: Any, project_id: Any) -> None: ...


def first(project_id: Any, meeting_id: Any = None) -> None: ...


def keyword_only(meeting_id: Any, *, project_id: Any = None) -> None: ...


def positional_only(project_id: Any, /, meeting_id: Any) -> None: ...


def any_keyword(meeting_id: Any, **options: Any) -> None: ...


def any_argument(*args: Any, **kwargs: Any) -> None: ...


def without(meeting_id: Any) -> None: ...


def nothing() -> None: ...


def rest(*meetings: Any) -> None: ...


def rest_then_keyword(meeting_id: Any, *rest: Any, project_id: Any = None) -> None: ...


def bound(self: Any, meeting_id: Any, project_id: Any) -> None: ...


def as_task(function: Callable[..., Any], **options: Any) -> Any:
    app = new_app()
    app.task(function, name="t", shared=False, **options)
    return app.tasks["t"]


@pytest.mark.parametrize("function", [plain, first, keyword_only, any_keyword, any_argument, rest_then_keyword])
def test_a_task_takes_a_project_when_its_function_has_an_argument_that_the_keyword_fills(
    function: Callable[..., Any],
) -> None:
    assert takes_project(as_task(function))


@pytest.mark.parametrize("function", [without, nothing, rest, positional_only])
def test_a_task_takes_no_project_when_its_function_has_no_argument_that_the_keyword_fills(
    function: Callable[..., Any],
) -> None:
    assert not takes_project(as_task(function))


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "found"),
    [
        (plain, ("m1", "p"), {}, "p"),
        (plain, ["m1", "p"], {}, "p"),
        (plain, ("m1",), {"project_id": "p"}, "p"),
        (plain, ("m1",), {}, None),
        (plain, (), None, None),
        (plain, None, None, None),
        (plain, ("m1", None), {}, None),
        (plain, ("m1", 5), {}, 5),
        (first, ("p", "m1"), {}, "p"),
        (keyword_only, ("m1",), {"project_id": "p"}, "p"),
        (keyword_only, ("m1",), {}, None),
        (positional_only, ("p", "m1"), {}, "p"),
        (any_keyword, ("m1",), {"project_id": "p"}, "p"),
        (any_keyword, ("m1", "p"), {}, None),
        (any_argument, ("p",), {}, None),
        (without, ("p",), {}, None),
        (rest, ("m1", "m2"), {}, None),
        (rest_then_keyword, ("m1", "m2", "m3"), {}, None),
        (rest_then_keyword, ("m1", "m2", "m3"), {"project_id": "p"}, "p"),
    ],
)
def test_the_project_is_read_from_the_argument_that_the_function_would_have(
    function: Callable[..., Any], args: Any, kwargs: Any, found: object
) -> None:
    assert project_argument(as_task(function), args, kwargs) == found


def test_the_self_of_a_bound_task_is_not_counted() -> None:
    task = as_task(bound, bind=True)
    assert takes_project(task)
    assert project_argument(task, ("m1", "p"), {}) == "p"
    assert project_argument(task, ("m1",), {}) is None


def test_the_self_of_a_class_based_task_is_not_counted() -> None:
    class Transcribe(Task):
        name = "t"

        def run(self, meeting_id: Any, project_id: Any) -> None: ...

    task = new_app().register_task(Transcribe())
    assert takes_project(task)
    assert project_argument(task, ("m1", "p"), {}) == "p"
    assert project_argument(task, ("m1",), {}) is None


class StaticRun(Task):
    name = "static"

    @staticmethod
    def run(project_id: Any, meeting_id: Any) -> None: ...


class InheritedStaticRun(StaticRun):
    name = "inherited"


@pytest.mark.parametrize("task_class", [StaticRun, InheritedStaticRun])
def test_a_static_run_has_no_self_that_could_be_counted(task_class: type[Task]) -> None:
    assert project_argument(new_app().register_task(task_class()), ("p", "m1"), {}) == "p"


def test_a_base_of_ones_own_changes_nothing() -> None:
    class Base(Task):
        abstract = True

    assert project_argument(as_task(plain, base=Base), ("m1", "p"), {}) == "p"
    assert project_argument(as_task(bound, base=Base, bind=True), ("m1", "p"), {}) == "p"


def test_automatic_retries_do_not_hide_the_arguments() -> None:
    task = as_task(bound, bind=True, autoretry_for=(ValueError,))
    assert project_argument(task, ("m1", "p"), {}) == "p"


def test_a_decorator_that_names_what_it_wraps_does_not_hide_the_arguments() -> None:
    @functools.wraps(plain)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return plain(*args, **kwargs)

    assert project_argument(as_task(wrapped), ("m1", "p"), {}) == "p"


def test_nor_does_one_that_names_nothing_and_passes_all_on() -> None:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    assert project_argument(as_task(decorate(plain)), ("m1", "p"), {}) == "p"
    assert not takes_project(as_task(decorate(without)))
    assert takes_project(as_task(decorate(any_keyword)))


def test_what_is_done_with_some_arguments_already_has_the_others() -> None:
    class Base(Task):
        def transcribe(self, language: str, meeting_id: Any, project_id: Any) -> None: ...

        def summarise(self, language: str, meeting_id: Any) -> None: ...

    class Transcribe(Base):
        name, run = "transcribe", functools.partialmethod(Base.transcribe, "en")

    class Summarise(Base):
        name, run = "summarise", functools.partialmethod(Base.summarise, language="en")

    app = new_app()
    transcribe, summarise = app.register_task(Transcribe()), app.register_task(Summarise())
    assert project_argument(transcribe, ("m1", "p"), {}) == "p"
    assert takes_project(transcribe)
    assert not takes_project(summarise)


def test_a_lazy_task_answers_as_the_task_that_it_becomes() -> None:
    app: Celery = new_app()
    lazy = app.task(plain, name="t", shared=False)
    assert takes_project(lazy)
    assert project_argument(lazy, ("m1", "p"), {}) == "p"


def test_of_an_unknown_task_only_the_keyword_can_be_read() -> None:
    assert project_argument(None, ("p",), {"project_id": "p"}) == "p"
    assert project_argument(None, ("p",), {}) is None


@pytest.mark.parametrize("args", ["p", 5, object(), {"project_id": "p"}])
def test_arguments_that_are_no_list_hold_no_project(args: object) -> None:
    assert project_argument(as_task(first), args, None) is None


def test_a_decorators_own_positions_come_before_those_of_what_it_wraps() -> None:
    @functools.wraps(plain)
    def injecting(tenant: Any, *args: Any) -> Any:
        return plain(*args)

    @functools.wraps(bound)
    def passing(self: Any, *args: Any) -> Any:
        return bound(self, *args)

    assert project_argument(as_task(injecting), ("t", "p"), {}) is None
    assert project_argument(as_task(passing, bind=True), ("m1", "p"), {}) == "p"
