"""What a function does with keyword arguments that it does not name is read in its source, and nothing is run."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

import pytest
from celery import Task

from celery_realtime.jobs.keyword_uses import Wrapped, keeps_some, takes_unnamed


class Asked:
    """Fails if it is asked for anything, as proxies without what they stand for do."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"it was asked for {name}")


ASKED: Any = Asked()
PARTS = ["project", "id"]


def wrapped(x: int) -> int:
    return x


def keeps(function: Callable[..., Any]) -> bool:
    assert isinstance(function, types.FunctionType)
    return keeps_some(function, Wrapped([wrapped], "project_id", Task), Task)


def asking_a_proxy(**kwargs: Any) -> Any:
    kwargs.pop(ASKED.key)
    return wrapped(**kwargs)


def handing_all_to_a_proxy(**kwargs: Any) -> Any:
    ASKED(**kwargs)
    ASKED.bind(kwargs, 1)


def emptying(**kwargs: Any) -> Any:
    kwargs.clear()
    return wrapped(1, **kwargs)


def popping_in_a_loop(**kwargs: Any) -> Any:
    for name in list(kwargs):
        kwargs.pop(name)
    return wrapped(1, **kwargs)


def popping_by_a_map(**kwargs: Any) -> Any:
    list(map(kwargs.pop, ["project_" + part for part in ("id", "name")]))
    return wrapped(**kwargs)


def looking_for_a_made_name(**kwargs: Any) -> Any:
    return wrapped(**kwargs) if "_".join(PARTS) in kwargs else None


def choosing_by_a_made_name(**kwargs: Any) -> Any:
    return wrapped(**{name: value for name, value in kwargs.items() if name != "_".join(PARTS)})


def choosing_those_that_it_names(**kwargs: Any) -> Any:
    return wrapped(**{name: value for name, value in kwargs.items() if name in ("x", "y")})


def in_another_one(**kwargs: Any) -> Any:
    return types.SimpleNamespace(**{**kwargs, "more": 1})


@pytest.mark.parametrize(
    "function",
    [
        *(asking_a_proxy, handing_all_to_a_proxy, emptying, popping_in_a_loop, popping_by_a_map),
        *(looking_for_a_made_name, choosing_by_a_made_name, choosing_those_that_it_names, in_another_one),
    ],
)
def test_what_may_take_something_is_known(function: Callable[..., Any]) -> None:
    assert keeps(function)


def by_name(**kwargs: Any) -> Any:
    name = "tenant"
    kwargs.pop(name, None)
    kwargs.setdefault("x", 1)
    for other in ("verbose", "force"):
        kwargs.pop(other, None)
    for given in list(kwargs):
        if given in ("user", "group") or given.startswith("http_"):
            del kwargs[given]
    return wrapped(**kwargs)


def by_leaving_out_what_it_names(**kwargs: Any) -> Any:
    others = {name: value for name, value in kwargs.items() if name != "tenant" and name not in ("user", "group")}
    return wrapped(**{name: value for name, value in others.items() if not name.startswith(("_", "http_"))})


def by_one_that_refuses_it(**kwargs: Any) -> Any:
    return inspect.cleandoc(**kwargs)


def not_at_all(*args: Any, **kwargs: Any) -> Any:
    return wrapped(*args)


def in_its_base(*args: Any, **kwargs: Any) -> Any:
    return super(type, ASKED).__call__(*args, **kwargs)


@pytest.mark.parametrize(
    "function", [by_name, by_leaving_out_what_it_names, by_one_that_refuses_it, not_at_all, in_its_base, wrapped]
)
def test_what_takes_nothing_else_than_it_names_is_known(function: Callable[..., Any]) -> None:
    assert not keeps(function)


def test_without_source_nothing_is_known() -> None:
    made: dict[str, Any] = {}
    exec("def function(**kwargs): return dict(kwargs)", made)
    assert not keeps(made["function"])
    assert not takes_unnamed(made["function"], "kwargs", Task)


def test_what_is_done_with_a_dict_that_is_an_argument_is_read_as_well() -> None:
    def before_start(self: Any, job_id: str, args: Any, kwargs: dict[str, Any]) -> None:
        self.project = kwargs.pop(f"{job_id}_id")

    def apply_async(self: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        return self.lock(dict(kwargs or {}), options.pop("once", None))

    assert takes_unnamed(before_start, "kwargs", Task)
    assert not takes_unnamed(before_start, "args", Task)
    assert not takes_unnamed(apply_async, "kwargs", Task)
