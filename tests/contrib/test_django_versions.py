"""The tests of the Django module on other versions of Django, each installed once below ``.venv``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT

pytestmark = pytest.mark.long

#: That of the other tests, 5.2, is not among them; 6.0 needs Python 3.12.
VERSIONS = ["4.2", "5.1", "6.0"]

TESTS = [
    "tests/contrib/test_django.py",
    "tests/contrib/test_django_suite.py",
    "tests/jobs/test_commits.py",
    "tests/jobs/test_django_results.py",
]


def installed(version: str) -> Path:
    """Return a folder with a version of Django, which is in front of the one of the virtual environment.

    What Django itself needs is there already, in versions that all of these take.
    """
    folder = ROOT / ".venv" / f"django-{version}"
    if not (folder / "django").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        done = subprocess.run([*pip, f"django~={version}.0"], capture_output=True, text=True, timeout=240, check=False)
        if done.returncode:
            pytest.skip(f"Django {version} cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return folder


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_module_works_with_other_versions(version: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(installed(version))}
    asked = [sys.executable, "-c", "import django; print(django.__version__)"]
    assert subprocess.check_output(asked, env=env, text=True, timeout=120).startswith(f"{version}.")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not long", *TESTS]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout
