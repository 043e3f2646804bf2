"""mypy --strict in an environment with celery-types; make lint checks this folder without it."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytest.importorskip("mypy")

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

PROGRAM = Path(__file__).parent / "with_celery_types.py"
ROOT = PROGRAM.parents[2]
PACKAGES = ("celery-types",)


def run(*command: object) -> subprocess.CompletedProcess[str]:
    parts = [str(part) for part in command]
    return subprocess.run(parts, capture_output=True, text=True, timeout=500, check=False, cwd=ROOT)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own on top of this one: celery-types would change what make lint says."""
    folder = tmp_path_factory.mktemp("types")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    for path in sys.path:
        if path.endswith("site-packages"):
            next(folder.glob("lib/*/site-packages")).joinpath("of_this_one.pth").write_text(path)
    installed = run(python, "-m", "pip", "install", "-q", "--no-deps", *PACKAGES)
    if installed.returncode:
        pytest.skip(f"pip install {' '.join(PACKAGES)} does not work here: {installed.stderr[-300:]}")
    return python


def test_mypy_knows_the_methods_of_tasks(python: Path) -> None:
    options = ("--strict", "--follow-imports=silent", "--config-file=", "--python-executable", python)
    done = run(python, "-m", "mypy", *options, PROGRAM)
    assert done.returncode == 0, done.stdout + done.stderr
