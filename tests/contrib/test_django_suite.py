"""``manage.py test`` in a Django project with this package: nothing waits for a broker, and nothing is said of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contrib.sites import EXAMPLES, SECRET
from tests.processes import python_path
from tests.variants import long_unless

pytest.importorskip("django_celery_results", reason="pip install django-celery-results")

#: A broker that is not there, in whose place each job runs in its caller, and one that is in the process; and results
#: in the database of the tests, and in the process.
PLACES = {
    "studio.tests": ("redis://127.0.0.1:1/0", "django-db"),
    "tests.contrib.django_suite": ("memory://", "cache+memory://"),
}

#: Whoever waits to send something waits for an hour; the check of the broker is right, and beside the point.
SETTINGS = """
from studio.settings import *

INSTALLED_APPS = [*INSTALLED_APPS, "django_celery_results"]
CELERY_TASK_STORE_EAGER_RESULT = True
CELERY_REALTIME_FLUSH_TIMEOUT = 3600
SILENCED_SYSTEM_CHECKS = ["celery_realtime.W002"]
"""

QUIET = re.compile(
    r"(?:(?:Creating|Cloning) test database for alias 'default'\.\.\.\n)+\.+\n-+\nRan (\d+) tests in [\d.]+s\n\n"
    r"OK\n(?:Destroying test database for alias 'default'\.\.\.\n)+"
)


@pytest.mark.parametrize(
    ("tests", "options", "number"),
    long_unless(
        [("tests.contrib.django_suite", (), 8)],
        [
            ("studio.tests", (), 5),
            ("tests.contrib.django_suite", (), 8),
            ("studio.tests", ("--parallel", "2"), 5),
            ("tests.contrib.django_suite", ("--parallel", "2"), 8),
        ],
    ),
)
def test_the_tests_of_a_project_pass_and_nothing_else_is_seen_or_waited_for(
    tests: str, options: tuple[str, ...], number: int, tmp_path: Path
) -> None:
    (tmp_path / "quiet_settings.py").write_text(SETTINGS)
    paths = [str(EXAMPLES / "with_django"), str(tmp_path), python_path()["PYTHONPATH"]]
    done = subprocess.run(
        [sys.executable, "manage.py", "test", *options, tests],
        cwd=EXAMPLES / "with_django",
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "DJANGO_SETTINGS_MODULE": "quiet_settings",
            "CELERY_BROKER_URL": PLACES[tests][0],
            "CELERY_RESULT_BACKEND": PLACES[tests][1],
            "REALTIME_SECRET_KEY": SECRET,
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    seen = QUIET.fullmatch(done.stderr)
    assert seen, done.stderr
    assert int(seen[1]) == number
    assert "celery_realtime" not in done.stdout
    assert done.returncode == 0
