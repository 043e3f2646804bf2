"""``project_id=`` among the arguments of a call: left to whoever takes it, else taken off, at both ends alike."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import inspect
import json
import logging
import operator
import re
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import celery
import pydantic
import pytest
import wrapt
from celery import Celery, Task, chain, chord, group, shared_task, signals
from celery.app.trace import trace_task
from celery_once import AlreadyQueued, QueueOnce
from celery_singleton import Singleton
from celery_singleton.backends.base import BaseBackend

from celery_realtime import Realtime
from celery_realtime.jobs import handle
from celery_realtime.logs import RateLimitedLogger
from tests.jobs.test_task import names
from tests.recording import Studio, current, new_app


class Worker:
    """Runs what was published, as a worker does, from the message alone."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self.messages: list[tuple[str, dict[str, Any], Any]] = []
        signals.after_task_publish.connect(self._take)

    def _take(self, sender: str = "", headers: Any = None, body: Any = None, **_: Any) -> None:
        self.messages.append((sender, dict(headers), json.loads(json.dumps(body))))

    def run(self) -> list[tuple[str, Any]]:
        """Run all that waits; returns of each job its state, and its result or error."""
        ended = []
        while self.messages:
            name, headers, (args, kwargs, embed) = self.messages.pop(0)
            request = {**headers, **embed, "hostname": "w@h", "is_eager": False, "delivery_info": {}}
            traced = trace_task(self._app.tasks[name], headers["id"], args, kwargs, request=request, app=self._app)
            info = traced.info
            ended.append((info.state, info.retval) if info is not None else ("SUCCESS", traced.retval))
        return ended

    def close(self) -> None:
        """Run nothing more."""
        signals.after_task_publish.disconnect(self._take)


@pytest.fixture
def studio() -> Studio:
    return Studio(new_app(result_backend="cache+memory://"))


@pytest.fixture
def worker(studio: Studio) -> Iterator[Worker]:
    worker = Worker(studio.app)
    yield worker
    worker.close()


def outcome(studio: Studio, worker: Worker) -> tuple[Any, set[str], list[str]]:
    """Return what the one job that was published ended as, its projects, and its states."""
    (ended,) = worker.run()
    return ended, {sent.project_id for sent in studio.sent}, studio.told()


SHOWN = ({"p"}, ["PENDING", "STARTED", "SUCCESS"])


# -- who takes it -----------------------------------------------------------------------------------------------


def passing_on(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def taking_by_name(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, project_id: Any, **kwargs: Any) -> Any:
        return [project_id, function(*args, **kwargs)]

    return wrapper


def popping(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        project = kwargs.pop("project_id")
        return [project, function(*args, **kwargs)]

    return wrapper


def popping_what_it_was_given(name: str) -> Callable[[Any], Any]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return [kwargs.pop(name), function(*args, **kwargs)]

        return wrapper

    return decorate


def popping_all_of(*names: str) -> Callable[[Any], Any]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            own = [kwargs.pop(name) for name in list(kwargs) if name in names]
            return [*own, function(*args, **kwargs)]

        return wrapper

    return decorate


KEY = "project_id"


def popping_a_global(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return [kwargs.pop(KEY), function(*args, **kwargs)]

    return wrapper


def project_out_of(kwargs: dict[str, Any]) -> Any:
    return kwargs.pop("project_id")


def popping_by_a_helper(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return [project_out_of(kwargs), function(*args, **kwargs)]

    return wrapper


class Tenancy:
    @staticmethod
    def project_out_of(kwargs: dict[str, Any]) -> Any:
        return kwargs.pop("project_id")


def popping_by_a_class(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return [Tenancy.project_out_of(kwargs), function(*args, **kwargs)]

    return wrapper


def popping_by_an_object(function: Callable[..., Any]) -> Callable[..., Any]:
    tenancy = Tenancy()

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return [tenancy.project_out_of(kwargs), function(*args, **kwargs)]

    return wrapper


class PoppingObject:
    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function, self.key = function, "project_id"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return [kwargs.pop(self.key), self.function(*args, **kwargs)]


def without_a_trace(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return [kwargs.pop("project_id"), function(*args, **kwargs)]

    wrapper.__name__ = function.__name__
    return wrapper


@wrapt.decorator  # type: ignore[untyped-decorator]
def popping_by_wrapt(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
    return [kwargs.pop("project_id"), wrapped(*args, **kwargs)]


def open_project(project_id: Any, **_: Any) -> Any:
    return project_id


@contextlib.contextmanager
def inside_of(project_id: Any, **_: Any) -> Iterator[Any]:
    yield project_id


def call_with(function: Any, *args: Any, project_id: Any, **kwargs: Any) -> Any:
    return [project_id, function(*args, **kwargs)]


class Place(NamedTuple):
    project_id: str


@dataclasses.dataclass
class PlaceRecord:
    project_id: str


class PlaceModel(pydantic.BaseModel):
    project_id: str


def passing_all_to(helper: Callable[..., Any]) -> Callable[[Any], Any]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            place = helper(**kwargs)
            return [getattr(place, "project_id", place), function(*args)]

        return wrapper

    return decorate


def passing_all_to_a_context(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with inside_of(**kwargs) as project:
            return [project, function(*args)]

    return wrapper


def passing_all_on_to_what_calls(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return call_with(function, *args, **kwargs)

    return wrapper


class Configured:
    __slots__ = ("inner", "key")

    def __init__(self, key: Any) -> None:
        self.key = key
        self.inner = self


CONFIGURED = Configured("project_id")


def popping_what_is_configured(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return [kwargs.pop(CONFIGURED.inner.key), function(*args, **kwargs)]

    return wrapper


def popping_a_default(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, _key: str = "project_id", **kwargs: Any) -> Any:
        return [kwargs.pop(_key), function(*args, **kwargs)]

    return wrapper


project_in = operator.itemgetter("project_id")


def taking_by_a_getter(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return [project_in(kwargs), function(*args)]

    return wrapper


def popping_by_the_end_of_its_name(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        ids = [kwargs.pop(name) for name in list(kwargs) if name.endswith("_id")]
        return [*ids, function(*args, **kwargs)]

    return wrapper


def popping_by_what_a_registry_has(function: Callable[..., Any]) -> Callable[..., Any]:
    registry = {"tenancy": [Tenancy()]}

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return [registry["tenancy"][0].project_out_of(kwargs), function(*args, **kwargs)]

    return wrapper


# -- whose names are made, or chosen, when they run -------------------------------------------------------------


def popping_a_made_name(make: Callable[[], str]) -> Callable[[Any], Any]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return [kwargs.pop(make()), function(*args, **kwargs)]

        return wrapper

    return decorate


def popping_by_an_f_string(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        ids = [kwargs.pop(f"{kind}_id") for kind in ("project",)]
        return [*ids, function(*args, **kwargs)]

    return wrapper


PARTS = ["project", "id"]


class Lazy:
    def __getattr__(self, name: str) -> str:
        return "project_id"


class Names(enum.Enum):
    PROJECT = "project_id"


LAZY = Lazy()


def popping_what_is_read_later(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return [kwargs.pop(LAZY.KEY), function(*args, **kwargs)]

    return wrapper


def popping_the_value_of_an_enum(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return [kwargs.pop(Names.PROJECT.value), function(*args, **kwargs)]

    return wrapper


def popping_by_a_pattern(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        ids = [kwargs.pop(name) for name in list(kwargs) if re.fullmatch(r"proj\w+", name)]
        return [*ids, function(*args, **kwargs)]

    return wrapper


def popping_what_the_function_has_no_parameter_for(function: Callable[..., Any]) -> Callable[..., Any]:
    parameters = inspect.signature(function).parameters

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        others = [kwargs.pop(name) for name in list(kwargs) if name not in parameters]
        return [*others, function(*args, **kwargs)]

    return wrapper


def parting_all(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        others = [kwargs[name] for name in kwargs if name != "x"]
        kwargs = {name: value for name, value in kwargs.items() if name == "x"}
        return [*others, function(*args, **kwargs)]

    return wrapper


def popping_all_but_some(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        others = [kwargs.pop(name) for name in set(kwargs) - {"x", "y"}]
        return [*others, function(*args, **kwargs)]

    return wrapper


def taking_all(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return [*json.loads(json.dumps(kwargs)).values(), function(*args)]

    return wrapper


def walking_over_all(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return [*(value for _, value in kwargs.items()), function(*args)]

    return wrapper


def handing_all_to_an_object(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return [*vars(types.SimpleNamespace(**kwargs)).values(), function(*args)]

    return wrapper


class Logger:
    def bind(self, **values: Any) -> Any:
        return Logger.bind(self, **values) if "itself" in values else values


def binding_all(function: Callable[..., Any]) -> Callable[..., Any]:
    logger = Logger()

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return [*logger.bind(**kwargs).values(), function(*args)]

    return wrapper


def popping_by_what_it_is_called_with(function: Callable[..., Any]) -> Callable[..., Any]:
    def fourth(kwargs: dict[str, Any]) -> Any:
        return kwargs.pop("project_id")

    def third(kwargs: dict[str, Any]) -> Any:
        return fourth(kwargs)

    def second(kwargs: dict[str, Any]) -> Any:
        return third(kwargs)

    hooks = [("project", second)]

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return [*(hook(kwargs) for _, hook in hooks), function(*args, **kwargs)]

    return wrapper


@wrapt.decorator  # type: ignore[untyped-decorator]
def popping_a_made_name_by_wrapt(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
    return [kwargs.pop("_".join(PARTS)), wrapped(*args, **kwargs)]


BY_WRAPT = (popping_by_wrapt, popping_a_made_name_by_wrapt)

UNNAMED = [
    *(popping_a_made_name(make) for make in (lambda: "_".join(PARTS), lambda: PARTS[0] + "_id")),
    *(popping_by_an_f_string, popping_what_is_read_later, popping_the_value_of_an_enum, popping_by_a_pattern),
    *(popping_what_the_function_has_no_parameter_for, parting_all, popping_all_but_some, taking_all, walking_over_all),
    *(handing_all_to_an_object, binding_all, popping_by_what_it_is_called_with, popping_a_made_name_by_wrapt),
]

TAKING = [
    *UNNAMED,
    *(taking_by_name, popping, popping_what_it_was_given("project_id"), popping_all_of("tenant", "project_id")),
    *(popping_a_global, popping_by_a_helper, popping_by_a_class, popping_by_an_object, PoppingObject, without_a_trace),
    *(popping_by_wrapt, popping_what_is_configured, popping_a_default, taking_by_a_getter),
    *(popping_by_the_end_of_its_name, popping_by_what_a_registry_has),
    *(passing_all_to(helper) for helper in (open_project, Place, PlaceRecord, PlaceModel)),
    *(passing_all_to_a_context, passing_all_on_to_what_calls),
]


@pytest.mark.parametrize("around", [None, passing_on], ids=["alone", "inside another"])
@pytest.mark.parametrize("decorate", TAKING)
def test_a_decorator_that_takes_it_gets_it(studio: Studio, worker: Worker, decorate: Any, around: Any) -> None:
    def add(x: int) -> int:
        return x + 1

    function = decorate(add)
    task = (around or (lambda same: same))(function)
    # wrapt's have the signature of what they wrap, by which Celery would refuse the call.
    task = studio.app.task(task, name=next(names), shared=False, typing=decorate not in BY_WRAPT)
    task.delay(1, project_id="p")
    assert outcome(studio, worker) == (("SUCCESS", ["p", 2]), *SHOWN)


@wrapt.decorator  # type: ignore[untyped-decorator]
def passing_on_by_wrapt(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
    return wrapped(*args, **kwargs)


def in_a_block(function: Callable[..., Any]) -> Callable[..., Any]:
    realtime = Realtime(new_app())

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with realtime.project("r"), inside_of("s"):
            open_project("q")
            return function(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize("decorate", [passing_on_by_wrapt, in_a_block])
def test_what_speaks_of_projects_and_takes_no_argument_is_left_out(
    studio: Studio, worker: Worker, decorate: Any
) -> None:
    def add(x: int) -> int:
        return x + 1

    studio.app.task(decorate(add), name=next(names), shared=False).delay(1, project_id="p")
    assert outcome(studio, worker) == (("SUCCESS", 2), *SHOWN)


def logging_all(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        log = logging.getLogger("calls")
        log.debug("%s %s %s", args, kwargs, json.dumps(kwargs))
        return function(*args, **kwargs)

    return wrapper


def making_a_key_of_all(function: Callable[..., Any]) -> Callable[..., Any]:
    results: dict[str, Any] = {}

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        key = "&".join(f"{name}={value}" for name, value in sorted(kwargs.items()))
        if key not in results:
            results[key] = function(*args, **kwargs)
        return results[key]

    return wrapper


def passing_on_in_a_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(function(*args, **kwargs)))
        thread.start()
        thread.join()
        return results[0]

    return wrapper


def call_again(function: Any, args: Any = None, kwargs: Any = None) -> Any:
    return function(*(args or ()), **(kwargs or {}))


def passing_on_by_a_helper(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return call_again(function, args=args, kwargs=kwargs)

    return wrapper


def passing_on_what_an_inner_one_passes_on(function: Callable[..., Any]) -> Callable[..., Any]:
    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return inner(*args, **kwargs)

    return wrapper


def passing_on_a_copy(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        given = kwargs or {}
        given = {name: value for name, value in given.items() if value is not None}
        return function(*args, **given)

    return wrapper


def binding(function: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        return function(*bound.args, **bound.kwargs)

    return wrapper


def fixed(args: Any, kwargs: dict[str, Any], signature: inspect.Signature) -> Any:
    bound = signature.bind(*args, **kwargs)
    return bound.args, bound.kwargs


def binding_by_a_helper(function: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = fixed(args, kwargs, signature)
        return function(*args, **kwargs)

    return wrapper


class CallingItsOwn:
    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function

    def call(self, args: Any, kwargs: dict[str, Any]) -> Any:
        return self.function(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(args, kwargs)


def leaving_out_its_own(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **{name: value for name, value in kwargs.items() if name != "tenant"})

    return wrapper


def without_a_note(function: Callable[..., Any]) -> Callable[..., Any]:
    """Pass all on, and do not note what is wrapped."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except ConnectionError:
            return function(*args, **kwargs)

    return wrapper


class PassingObject:
    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function, self.key = function, "tenant"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop(self.key, None)
        return self.function(*args, **kwargs)


@pytest.mark.parametrize(
    "decorate",
    [
        *(logging_all, making_a_key_of_all, passing_on_in_a_thread, passing_on_by_a_helper),
        *(passing_on_what_an_inner_one_passes_on, passing_on_a_copy, binding, binding_by_a_helper),
        *(CallingItsOwn, PassingObject, leaving_out_its_own, without_a_note),
        *(
            lambda function: without_a_note(without_a_note(function)),
            lambda function: without_a_note(binding(function)),
        ),
        *(pydantic.validate_call, contextlib.contextmanager(lambda: (yield))()),
    ],
)
def test_what_is_done_with_all_arguments_takes_none_of_them_if_they_are_passed_on(
    studio: Studio, worker: Worker, decorate: Any
) -> None:
    def add(x: int) -> int:
        return x + 1

    studio.app.task(decorate(add), name=next(names), shared=False).delay(1, project_id="p")
    assert outcome(studio, worker) == (("SUCCESS", 2), *SHOWN)


PASSING = [passing_on, popping_all_of("tenant"), popping_what_it_was_given("tenant")]


@pytest.mark.parametrize("decorate", PASSING)
def test_of_a_function_under_a_decorator_that_passes_it_on_it_is_taken_off(
    studio: Studio, worker: Worker, decorate: Any
) -> None:
    def add(x: int) -> int:
        return x + 1

    kwargs = {} if decorate is passing_on else {"tenant": "t"}
    studio.app.task(decorate(add), name=next(names), shared=False).delay(1, project_id="p", **kwargs)
    assert outcome(studio, worker) == (("SUCCESS", 2 if decorate is passing_on else ["t", 2]), *SHOWN)


@pytest.mark.parametrize("decorate", PASSING)
def test_a_function_that_takes_it_gets_it_through_a_decorator(studio: Studio, worker: Worker, decorate: Any) -> None:
    def add(x: int, **options: Any) -> Any:
        return [x + 1, options]

    kwargs = {} if decorate is passing_on else {"tenant": "t"}
    studio.app.task(decorate(add), name=next(names), shared=False).delay(1, project_id="p", **kwargs)
    result = [2, {"project_id": "p"}]
    assert outcome(studio, worker) == (("SUCCESS", result if decorate is passing_on else ["t", result]), *SHOWN)


class PoppingBase(Task):
    typing = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.project = kwargs.pop("project_id")
        return [self.project, super().__call__(*args, **kwargs)]


class PassingBase(Task):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return [super().__call__(*args, **kwargs)]


class PoppingByMethod(Task):
    typing = False

    def take_project(self, kwargs: dict[str, Any]) -> Any:
        return kwargs.pop("project_id")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return [self.take_project(kwargs), self.run(*args, **kwargs)]


class PoppingBefore(Task):
    typing = False

    def before_start(self, task_id: str, args: Any, kwargs: dict[str, Any]) -> None:
        self.project = kwargs.pop("project_id")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return [self.project, self.run(*args, **kwargs)]


class PassingAllToAMethod(Task):
    typing = False

    def scope(self, project_id: Any) -> Any:
        return project_id

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return [self.scope(**kwargs), self.run(*args)]


class PoppingBelow(PassingBase, PoppingBase):
    typing = False


@pytest.mark.parametrize(
    ("base", "result"),
    [
        (PoppingBase, ["p", 2]),
        (PoppingByMethod, ["p", 2]),
        (PassingBase, [2]),
        (PoppingBelow, [["p", 2]]),
        (PoppingBefore, ["p", 2]),
        (PassingAllToAMethod, ["p", 2]),
    ],
)
def test_a_call_of_a_base_that_takes_it_gets_it(studio: Studio, worker: Worker, base: Any, result: Any) -> None:
    @studio.app.task(base=base, name=next(names), shared=False)
    def add(x: int) -> int:
        return x + 1

    add.delay(1, project_id="p")
    assert outcome(studio, worker) == (("SUCCESS", result), *SHOWN)


# -- kinds of functions, and of calls ---------------------------------------------------------------------------


def plain(x: int) -> Any:
    return [x]


def bound(self: Any, x: int) -> Any:
    return [x]


def positional_only(x: int, /) -> Any:
    return [x]


def keyword_only(x: int, *, project_id: str) -> Any:
    return [x, project_id]


def any_keyword(x: int, **options: Any) -> Any:
    return [x, options["project_id"]]


def by_name(x: int, project_id: str) -> Any:
    return [x, project_id]


KINDS: list[tuple[Any, dict[str, Any], list[Any]]] = [
    (plain, {}, [1]),
    (bound, {"bind": True}, [1]),
    (positional_only, {}, [1]),
    (plain, {"typing": False}, [1]),
    (plain, {"autoretry_for": (OSError,)}, [1]),
    (plain, {"pydantic": True}, [1]),
    (keyword_only, {}, [1, "p"]),
    (any_keyword, {}, [1, "p"]),
    (by_name, {}, [1, "p"]),
    (by_name, {"typing": False, "autoretry_for": (OSError,)}, [1, "p"]),
    (by_name, {"pydantic": True}, [1, "p"]),
]


def delay(studio: Studio, task: Any) -> None:
    task.delay(1, project_id="p")


def apply_async(studio: Studio, task: Any) -> None:
    task.apply_async((1,), {"project_id": "p"})


def apply_async_by_keyword(studio: Studio, task: Any) -> None:
    task.apply_async(kwargs={"project_id": "p", "x": 1} if "/" not in task.name else {"project_id": "p"}, args=None)


def signature(studio: Studio, task: Any) -> None:
    task.s(1, project_id="p").delay()


def partial(studio: Studio, task: Any) -> None:
    task.s(project_id="p").delay(1)


def send_task(studio: Studio, task: Any) -> None:
    studio.app.send_task(task.name, (1,), {"project_id": "p"})


def in_group(studio: Studio, task: Any) -> None:
    group([task.s(1, project_id="p")]).apply_async()


CALLS = [delay, apply_async, signature, partial, send_task, in_group]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("function", "options", "result"), KINDS)
def test_each_call_of_each_kind_of_task_works(
    studio: Studio, worker: Worker, function: Any, options: Any, result: Any, call: Any
) -> None:
    task = studio.app.task(function, name=next(names), shared=False, **options)
    call(studio, task)
    assert outcome(studio, worker) == (("SUCCESS", result), *SHOWN)


@pytest.mark.parametrize(("function", "options", "result"), KINDS)
def test_eager_calls_do_too(studio: Studio, function: Any, options: Any, result: Any) -> None:
    task = studio.app.task(function, name=next(names), shared=False, **options)
    assert task.apply((1,), {"project_id": "p"}).get() == result
    studio.app.conf.task_always_eager = True
    assert task.delay(1, project_id="p").get() == result
    assert {sent.project_id for sent in studio.sent} == {"p"}


def test_a_producer_without_this_package_is_served_alike(studio: Studio, worker: Worker) -> None:
    task = studio.app.task(plain, name=next(names), shared=False)
    plain_app = new_app("elsewhere")
    plain_app.task(plain, name=task.name, shared=False, typing=False).delay(1, project_id="p")
    assert worker.run() == [("SUCCESS", [1])]
    assert (studio.told(), {sent.project_id for sent in studio.sent}) == (["STARTED", "SUCCESS"], {"p"})


def test_later_steps_and_callbacks_name_projects_of_their_own(studio: Studio, worker: Worker) -> None:
    def add(x: int, y: int = 1) -> int:
        return x + y

    task = studio.app.task(add, name=next(names), shared=False)
    chain(task.s(1, project_id="p"), task.s(project_id="q")).apply_async(link=task.s(project_id="r"))
    assert worker.run() == [("SUCCESS", 2), ("SUCCESS", 3), ("SUCCESS", 4)]
    assert [sent.project_id for sent in studio.sent if sent.data.get("state") == "SUCCESS"] == ["p", "q", "r"]


def test_a_replacement_and_a_retry_take_it(studio: Studio, worker: Worker) -> None:
    other = studio.app.task(plain, name=next(names), shared=False)

    def replacing(self: Any, x: int) -> Any:
        if not self.request.retries:
            raise self.retry(countdown=0)
        raise self.replace(other.s(x + 1, project_id="p"))

    studio.app.task(replacing, bind=True, name=next(names), shared=False).delay(1, project_id="p")
    assert worker.run()[-1] == ("SUCCESS", [2])
    assert {sent.project_id for sent in studio.sent} == {"p"}
    assert studio.told()[-1] == "SUCCESS"


def test_a_shared_task_takes_it(studio: Studio, worker: Worker) -> None:
    with current(studio.app):
        task = shared_task(plain, name=next(names))
        task.delay(1, project_id="p")
        assert outcome(studio, worker) == (("SUCCESS", [1]), *SHOWN)


def test_a_task_of_an_app_without_realtime_is_left_alone(studio: Studio) -> None:
    task = new_app("elsewhere").task(plain, name=next(names), shared=False)
    with pytest.raises(TypeError, match="project_id"):
        task.delay(1, project_id="p")


def test_a_plain_call_is_left_alone(studio: Studio) -> None:
    task = studio.app.task(plain, name=next(names), shared=False)
    with pytest.raises(TypeError, match="project_id"):
        task(1, project_id="p")


def test_an_argument_without_a_value_names_no_project(studio: Studio, worker: Worker) -> None:
    task = studio.app.task(plain, name=next(names), shared=False)
    with studio.realtime.project("around"):
        task.delay(1, project_id=None)
    assert worker.run() == [("SUCCESS", [1])]
    assert {sent.project_id for sent in studio.sent} == {"around"}


# -- tasks that publish in a way of their own -------------------------------------------------------------------


class Watching(Task):
    """Notes what it is called with."""

    seen: list[tuple[Any, ...]]

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        type(self).seen.append((args, kwargs, options.get("headers")))
        return super().apply_async(args, kwargs, **options)


class Strict(Task):
    """Has no option for headers."""

    seen: list[tuple[Any, ...]]

    def apply_async(self, args: Any = None, kwargs: Any = None, countdown: Any = None) -> Any:
        type(self).seen.append((args, kwargs, None))
        return super().apply_async(args, kwargs, countdown=countdown)


class OddOrder(Task):
    """Takes the same by other places."""

    seen: list[tuple[Any, ...]]

    def apply_async(self, *, kwargs: Any = None, args: Any = None, headers: Any = None) -> Any:
        type(self).seen.append((args, kwargs, headers))
        return super().apply_async(args, kwargs, headers=headers)


class Mixin:
    seen: list[tuple[Any, ...]]

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        type(self).seen.append((args, kwargs, options.get("headers")))
        return super().apply_async(args, kwargs, **options)  # type: ignore[misc]


class Mixed(Mixin, Task): ...


HEADERS = {"project_id": "p"}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("base", "headers"), [(Watching, HEADERS), (Strict, None), (OddOrder, HEADERS), (Mixed, HEADERS)]
)
def test_a_base_that_publishes_in_its_own_way_does_not_see_it(base: Any, headers: Any, when: str) -> None:
    app = new_app(result_backend="cache+memory://")
    own = type("Own", (base,), {"seen": []})
    if when == "after":
        studio = Studio(app)
    task = app.task(plain, base=own, name=next(names), shared=False)
    task = app.tasks[task.name]
    if when == "before":
        studio = Studio(app)
    worker = Worker(app)
    task.apply_async(args=(1,), kwargs={"project_id": "p"})
    worker.close()
    assert task.seen == [((1,), {}, headers)]
    assert outcome(studio, worker) == (("SUCCESS", [1]), *SHOWN)


def in_its_way(self: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
    inspect.signature(self.run).bind(*(args or ()), **(kwargs or {}))
    type(self).seen.append((args, kwargs, options.get("headers")))
    return Task.apply_async(self, args, kwargs, **options)


class CallableObject:
    """Stands for a function, as what some libraries wrap methods in."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __get__(self, instance: Any, owner: Any) -> Any:
        return self if instance is None else functools.partial(self.function, instance)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.function(*args, **options)


def in_this_way(self: Any, _way: str, *args: Any, **options: Any) -> Any:
    return in_its_way(self, *args, **options)


NO_FUNCTIONS = {
    "by wrapt": wrapt.decorator(lambda wrapped, _instance, args, kwargs: wrapped(*args, **kwargs))(in_its_way),
    "partial": functools.partialmethod(in_this_way, "quickly"),
    "property": property(lambda self: functools.partial(in_its_way, self)),
    "object": CallableObject(in_its_way),
}


@pytest.mark.parametrize("place", ["own", "inherited"])
@pytest.mark.parametrize("kind", NO_FUNCTIONS)
def test_so_it_is_with_a_way_that_is_no_plain_function(studio: Studio, worker: Worker, kind: str, place: str) -> None:
    base = type("Own", (Task,), {"seen": [], "apply_async": NO_FUNCTIONS[kind], "abstract": True})
    base = type("Inheriting", (base,), {"abstract": True}) if place == "inherited" else base
    task = studio.app.task(plain, base=base, name=next(names), shared=False)
    task.delay(1, project_id="p")
    assert base.seen[0][:2] == ((1,), {})  # type: ignore[attr-defined]
    assert outcome(studio, worker) == (("SUCCESS", [1]), *SHOWN)


def test_one_that_needs_no_task_is_left_alone(studio: Studio) -> None:
    def publish(cls: Any, *args: Any, **options: Any) -> Any:
        return cls, args, options

    base = type("Own", (Task,), {"apply_async": classmethod(publish), "abstract": True})
    task = studio.app.tasks[studio.app.task(plain, base=base, name=next(names), shared=False).name]
    assert type(task).apply_async((1,), {"project_id": "p"}) == (type(task), ((1,), {"project_id": "p"}), {})


def popping_way(self: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
    type(self).seen.append(kwargs.pop("project_id"))
    return Task.apply_async(self, args, kwargs, **options)


def popping_this_way(self: Any, _way: str, *args: Any, **options: Any) -> Any:
    return popping_way(self, *args, **options)


@pytest.mark.parametrize(
    "way",
    [
        wrapt.decorator(lambda wrapped, _instance, args, kwargs: wrapped(*args, **kwargs))(popping_way),
        functools.partialmethod(popping_this_way, "quickly"),
        property(lambda self: functools.partial(popping_way, self)),
        CallableObject(popping_way),
    ],
)
def test_and_one_that_looks_for_it_sees_it(studio: Studio, worker: Worker, way: Any) -> None:
    base = type("Own", (Task,), {"seen": [], "apply_async": way, "abstract": True, "typing": False})
    studio.app.task(plain, base=base, name=next(names), shared=False).delay(1, project_id="p")
    assert base.seen == ["p"]  # type: ignore[attr-defined]
    assert outcome(studio, worker) == (("SUCCESS", [1]), *SHOWN)


class Delaying(Task):
    """Has a ``delay`` that takes what the function takes, and no more."""

    abstract = True

    def delay(self, x: int, wait: int = 0) -> Any:
        return self.apply_async((x,), countdown=wait)


def test_a_delay_that_would_refuse_it_publishes_in_the_project(studio: Studio, worker: Worker) -> None:
    task = studio.app.task(plain, base=Delaying, name=next(names), shared=False)
    task.delay(1, project_id="p")
    assert outcome(studio, worker) == (("SUCCESS", [1]), *SHOWN)
    with studio.realtime.project("around"):
        task.delay(1, wait=1, project_id=None)
    assert worker.messages[0][1]["project_id"] == "around"
    with pytest.raises(ValueError, match="project_id"):
        task.delay(1, project_id="")
    taking = studio.app.task(by_name, base=Delaying, name=next(names), shared=False)
    with pytest.raises(TypeError, match="project_id"):
        taking.delay(1, project_id="p")


class Popping(Task):
    """Takes it itself; and passes on headers of its own."""

    typing = False
    seen: list[Any]

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        type(self).seen.append((kwargs or {}).pop("project_id"))
        return super().apply_async(args, kwargs, headers={"tenant": "t"}, **options)


class Reading(Task):
    """Looks at it."""

    seen: list[Any]

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        type(self).seen.append(kwargs["project_id"])
        return super().apply_async(args, kwargs, **options)


class WithHeaders(Task):
    """Passes on headers of its own, and would fail if it was given others."""

    seen: list[Any]

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        type(self).seen.append("p")
        return super().apply_async(args, kwargs, headers={"tenant": "t"}, **options)


class InPlaceOfHeaders(Task):
    """Publishes with headers of its own, in place of others."""

    seen: list[Any]

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        options["headers"] = {"tenant": "t"}
        type(self).seen.append("p")
        return super().apply_async(args, kwargs, **options)


@pytest.mark.parametrize("base", [Popping, Reading, WithHeaders, InPlaceOfHeaders])
def test_a_base_whose_way_to_publish_looks_for_it_sees_it(studio: Studio, worker: Worker, base: Any) -> None:
    own = type("Own", (base,), {"seen": []})
    studio.app.task(plain, base=own, name=next(names), shared=False).delay(1, project_id="p")
    assert own.seen == ["p"]  # type: ignore[attr-defined]
    assert outcome(studio, worker) == (("SUCCESS", [1]), *SHOWN)


def test_what_means_something_else_to_a_base_is_no_project(studio: Studio, worker: Worker) -> None:
    own = type("Own", (Popping,), {"seen": []})
    task = studio.app.task(plain, base=own, name=next(names), shared=False)
    with studio.realtime.project("p"):
        task.delay(1, project_id={"no": "id"})
    assert own.seen == [{"no": "id"}]  # type: ignore[attr-defined]
    assert outcome(studio, worker) == (("SUCCESS", [1]), *SHOWN)


def test_a_call_without_it_is_passed_on_as_it_is(studio: Studio) -> None:
    own = type("Own", (OddOrder,), {"seen": []})
    task = studio.app.task(plain, base=own, name=next(names), shared=False)
    task.apply_async(args=(1,))
    assert own.seen == [((1,), None, None)]  # type: ignore[attr-defined]


@pytest.fixture
def once(studio: Studio, tmp_path: Path) -> Studio:
    settings = {"location": str(tmp_path), "default_timeout": 60}
    studio.app.conf.ONCE = {"backend": "celery_once.backends.File", "settings": settings}
    return studio


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("function", "result"), [(plain, [1]), (by_name, [1, "p"])])
def test_celery_once_locks_and_lets_go(once: Studio, worker: Worker, function: Any, result: Any, call: Any) -> None:
    if call is send_task and celery.VERSION < (5, 7):
        pytest.skip(
            "up to 5.6, Celery fails a job whose after_return raises, as celery-once's does if nothing is locked"
        )
    task = once.app.task(function, base=QueueOnce, name=next(names), shared=False)
    call(once, task)
    if call is not send_task:
        with pytest.raises(AlreadyQueued):
            call(once, task)
    assert outcome(once, worker) == (("SUCCESS", result), *SHOWN)
    call(once, task)
    assert worker.run() == [("SUCCESS", result)]


@pytest.mark.parametrize("function", [plain, by_name])
def test_the_keys_of_celery_once_are_those_without_us(once: Studio, worker: Worker, function: Any) -> None:
    kwargs = {} if function is plain else {"project_id": "p"}
    task = once.app.task(function, base=QueueOnce, name="same", shared=False)
    bare = new_app("elsewhere", ONCE=once.app.conf.ONCE)
    bare.conf.ONCE = once.app.conf.ONCE
    task.delay(1, project_id="p")
    with pytest.raises(AlreadyQueued):
        bare.task(function, base=QueueOnce, name="same", shared=False).delay(1, **kwargs)


class Locks(BaseBackend):
    """The locks of celery-singleton, in this process."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.locks: dict[str, str] = {}

    def lock(self, lock: str, task_id: str, expiry: Any = None) -> bool:
        return self.locks.setdefault(lock, task_id) == task_id

    def unlock(self, lock: str) -> None:
        self.locks.pop(lock, None)

    def get(self, lock: str) -> str | None:
        return self.locks.get(lock)

    def clear(self, key_prefix: str) -> None:
        self.locks.clear()


@pytest.fixture
def single(studio: Studio) -> Any:
    return type("Single", (Singleton,), {"_singleton_backend": Locks()})


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("function", "result"), [(plain, [1]), (by_name, [1, "p"])])
@pytest.mark.parametrize("unique_on", [None, ["x"]])
def test_celery_singleton_locks_and_lets_go(
    studio: Studio, worker: Worker, single: Any, function: Any, result: Any, call: Any, unique_on: Any
) -> None:
    task = studio.app.task(function, base=single, unique_on=unique_on, name=next(names), shared=False)
    call(studio, task)
    if call is not send_task:
        call(studio, task)
    assert outcome(studio, worker) == (("SUCCESS", result), *SHOWN)
    assert not task.singleton_backend.locks


def test_the_keys_of_celery_singleton_are_those_without_us(studio: Studio, worker: Worker, single: Any) -> None:
    studio.app.task(plain, base=single, name="same", shared=False).delay(1, project_id="p")
    (ours,) = single._singleton_backend.locks
    assert ours == single().generate_lock("same", [1], {})


def test_a_handle_whose_publication_became_another_job_says_so(
    studio: Studio, single: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handle, "log", RateLimitedLogger(logging.getLogger(handle.__name__)))
    task = studio.app.task(plain, base=single, name=next(names), shared=False)
    first = studio.realtime.handle(task, (1,), project_id="p")
    assert first.publish().id == first.job_id
    assert first.became is None
    second = studio.realtime.handle(task, (1,), project_id="p")
    promised = second.job_id
    assert second.publish().id == first.job_id
    assert second.job_id == second.as_dict()["job_id"] == second.became == first.job_id
    assert f"job {promised}" in caplog.text
    assert first.job_id in caplog.text


def test_a_handle_whose_publication_became_none_says_so(once: Studio) -> None:
    task = once.app.task(plain, base=QueueOnce, once={"graceful": True}, name=next(names), shared=False)
    once.realtime.handle(task, (1,), project_id="p").publish()
    second = once.realtime.handle(task, (1,), project_id="p")
    second.publish()
    assert second.became == ""


def test_apps_leave_nothing_behind_in_what_is_known_of_their_tasks() -> None:
    from celery_realtime.jobs import arguments

    before = {*arguments._answers}  # and none of them goes meanwhile
    app = new_app()
    Realtime(app)
    task = app.task(plain, name=next(names), shared=False)
    task.signature((1,), {"project_id": "p"}).clone()
    assert arguments.answers_of(type(app.tasks[task.name]), "project_id").takes is False
    assert len({*arguments._answers} - before) == 1


def test_a_chords_body_takes_it(studio: Studio, worker: Worker) -> None:
    task = studio.app.task(plain, name=next(names), shared=False)
    chord([task.s(1, project_id="p")], task.s(project_id="p")).apply_async()
    assert worker.messages[0][1]["project_id"] == "p"
