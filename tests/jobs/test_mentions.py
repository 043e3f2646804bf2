"""What a wrapper does with an argument is found without running anything."""

from __future__ import annotations

import functools
import inspect
import operator
from typing import Any

import pytest
from celery import Task

from celery_realtime.jobs import star_calls
from celery_realtime.jobs.mentions import MOST, Search


class Asked:
    """Fails if it is asked for anything."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"it was asked for {name}")

    def __len__(self) -> int:
        raise AssertionError("it was asked for its length")


ASKED = Asked()
MANY = [lambda: None for _ in range(MOST + 1)]


def silent(*args: Any, **kwargs: Any) -> Any:
    ASKED.tenancy(kwargs)
    MANY[0]()
    return silent(*args, **kwargs)


def test_nothing_is_asked_and_nothing_goes_round_and_round() -> None:
    assert not Search("project_id", (), Task).finds_in(silent)


@pytest.mark.parametrize(
    "value",
    [
        *("project_id", ["project_id"], {"key": "project_id"}, {"project_id": 1}, operator.itemgetter("project_id")),
        *(functools.partial(print, project_id=1), functools.partial(print, "project_id")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_name_is_found_in_whatever_a_wrapper_has(value: Any) -> None:
    def wrapper(**kwargs: Any) -> Any:
        return value, kwargs

    assert Search("project_id", (), Task).finds_in(wrapper)
    assert not Search("tenant", (), Task).finds_in(wrapper)


def test_what_is_called_with_all_arguments_is_read_in_the_source() -> None:
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        len({**args[0]})
        print(*args)  # noqa: T201  (it is never called)
        return [self.scope.of(**kwargs), operator.add(1, tenant=2, **kwargs), args[0](**kwargs)]

    assert star_calls.callees_of(wrapper) == [("self", "scope", "of"), ("operator", "add"), ("",)]  # type: ignore[arg-type]
    assert star_calls.names_beside(wrapper, "tenant")  # type: ignore[arg-type]
    assert not star_calls.names_beside(wrapper, "self")  # type: ignore[arg-type]


def test_without_source_it_calls_nothing_that_is_known() -> None:
    place: dict[str, Any] = {}
    # Not "<string>": from 3.13 on, Python knows the source of what it runs by -c under that name.
    exec(compile("def wrapper(**kwargs): return print(**kwargs)", "<made up>", "exec"), place)
    with pytest.raises(OSError, match="source"):
        inspect.getsource(place["wrapper"])
    assert star_calls.callees_of(place["wrapper"]) == []
