"""A Realtime is found where the process has it, and goes on with the copy of the app that a new process gets."""

from __future__ import annotations

import gc
import importlib
import inspect
import logging
import os
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from celery import Celery, _state, signals

from celery_realtime import Realtime
from celery_realtime.jobs.spawning import place_of
from tests.recording import new_app


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("a_module_of_the_tests")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def arrive(app: Celery) -> Celery:
    """Return the copy of an app, as a child of a pool gets it that was not forked, when the child is set up."""
    return arrive_from(pickle.dumps(app))


def arrive_from(pickled: bytes) -> Celery:
    """Return the copy of an app that was pickled."""
    copy: Celery = pickle.loads(pickled)
    signals.worker_process_init.send(sender="worker")
    return copy


@pytest.mark.parametrize("name", ["realtime", "app"])
def test_the_realtime_goes_on_with_the_copy_of_its_app(module: ModuleType, name: str) -> None:
    app = new_app(broker="redis://localhost:1/0")
    app.conf.realtime_channel = "studio"
    realtime = Realtime(app)
    vars(module)[name] = {"realtime": realtime, "app": app}[name]
    realtime._celery.incarnation.begin()  # type: ignore[union-attr]
    copy = arrive(app)
    assert copy is not app
    assert copy.realtime is app.realtime is realtime
    assert realtime.app is copy
    assert realtime.settings.channel == "studio"
    assert realtime._celery.incarnation.id  # type: ignore[union-attr]


def test_what_surrounds_a_call_surrounds_it_in_both(module: ModuleType) -> None:
    app = new_app(broker="redis://localhost:1/0")
    module.realtime = realtime = Realtime(app)  # type: ignore[attr-defined]
    before = realtime._celery
    again = arrive(arrive(app))  # it may be sent on
    assert realtime.app is again
    with realtime.project("p"):
        assert before.projects.is_outside("q")  # type: ignore[union-attr]


def test_one_that_is_in_no_variable_of_a_module_is_the_only_one_for_an_app_of_its_name(module: ModuleType) -> None:
    app = new_app("kept in a dict", broker="redis://localhost:1/0")
    others = [Realtime(new_app(name)) for name in ("another", "and another")]
    module.apps = {"studio": app, "others": others}  # type: ignore[attr-defined]
    realtime = Realtime(app)
    copy = arrive(app)
    assert copy is not app
    assert copy.realtime is realtime
    assert realtime.app is copy


def test_celerys_own_variables_are_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    app = new_app()
    monkeypatch.setattr(_state, "default_app", app)
    assert place_of(app) is None


def a_pickled_app(**settings: Any) -> bytes:
    app = new_app("gone", broker="redis://localhost:1/0")
    Realtime(app, channel="studio", **settings)
    return pickle.dumps(app)


def a_filter(_event: str, _project: str, payload: Any) -> Any:
    return payload


def test_where_the_modules_make_none_there_is_one_with_the_same_settings() -> None:
    pickled = a_pickled_app(event_filter=a_filter)
    gc.collect()
    copy = arrive_from(pickled)
    assert copy.realtime.app is copy
    assert copy.realtime.settings.channel == "studio"
    assert inspect.unwrap(copy.realtime.settings.event_filter) is a_filter
    with copy.realtime.project("p"):
        assert copy.realtime.handle(copy.signature("add")).project_id == "p"


def test_one_that_a_function_attaches_which_only_the_main_process_calls_goes_on(module: ModuleType) -> None:
    app = new_app("made by a function", broker="redis://localhost:1/0")
    module.realtime = realtime = Realtime(channel="studio")  # type: ignore[attr-defined]
    realtime.init_app(app)
    pickled = pickle.dumps(app)
    module.realtime = again = Realtime(channel="studio")  # type: ignore[attr-defined] # as in a process of its own
    copy = arrive_from(pickled)
    assert copy.realtime is again
    assert again.app is copy
    assert again.settings.channel == "studio"
    assert again.progress_tracker(None).progress == 0


class Shared:
    """A filter that refuses to be pickled in a way of its own, as what ``multiprocessing`` shares does."""

    def __call__(self, _event: str, _project: str, payload: Any) -> Any:
        return payload

    def __reduce__(self) -> Any:
        raise RuntimeError("should only be shared between processes through inheritance")


def test_a_setting_that_cannot_be_sent_does_not_keep_a_child_from_starting(module: ModuleType) -> None:
    module.app = new_app("shared", broker="redis://localhost:1/0")  # type: ignore[attr-defined]
    module.realtime = realtime = Realtime(module.app, event_filter=Shared())  # type: ignore[attr-defined]
    copy = arrive(module.app)
    assert copy.realtime is realtime


def test_one_that_cannot_be_sent_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    pickled = a_pickled_app(event_filter=lambda *given: given[-1])
    gc.collect()
    with caplog.at_level(logging.ERROR, "celery_realtime"):
        copy = arrive_from(pickled)
    assert getattr(copy, "realtime", None) is None
    assert "realtime = Realtime(app)" in caplog.text


def test_of_several_for_one_name_none_is_chosen(caplog: pytest.LogCaptureFixture) -> None:
    apps = [new_app("of one name", broker="redis://localhost:1/0") for _ in range(2)]
    realtimes = [Realtime(app, channel=channel) for app, channel in zip(apps, ("one", "two"), strict=True)]
    copy = arrive(apps[1])
    assert copy.realtime not in realtimes
    assert copy.realtime.settings.channel == "two"
    assert [realtime.app for realtime in realtimes] == apps


@pytest.mark.parametrize("source", ["raise OSError('no disk')", "realtime = None", ""])
def test_a_module_that_cannot_be_imported_or_has_something_else_is_done_without(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "module_of_the_main_process.py").write_text("realtime = None")
    module = importlib.import_module("module_of_the_main_process")
    monkeypatch.delitem(sys.modules, module.__name__)
    monkeypatch.setitem(sys.modules, module.__name__, module)  # and it is gone after the test
    app = new_app("elsewhere", broker="redis://localhost:1/0")
    module.realtime = Realtime(app, channel="studio")  # type: ignore[attr-defined]
    pickled = pickle.dumps(app)
    del app, module.realtime
    gc.collect()
    (tmp_path / "module_of_the_main_process.py").write_text(source)
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, module.__name__)
    copy = arrive_from(pickled)
    assert copy.realtime.settings.channel == "studio"
    assert ("no disk" in caplog.text) is ("raise" in source)


def test_what_cannot_be_made_there_is_said(caplog: pytest.LogCaptureFixture) -> None:
    pickled = a_pickled_app(event_filter=a_filter).replace(b"a_filter", b"a_failer")
    gc.collect()
    copy = arrive_from(pickled)
    assert getattr(copy, "realtime", None) is None
    assert "a_failer" in caplog.text
    assert "realtime = Realtime(app)" in caplog.text


def test_places_are_modules_and_names() -> None:
    assert place_of(os.path.join) in (("posixpath", "join"), ("os.path", "join"), ("ntpath", "join"))
    assert place_of(object()) is None
