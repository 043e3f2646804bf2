"""Run Celery's own integration suite with a Realtime attached, and without: ``python -m tests.tools.celery_suite``.

The suite is that of the installed Celery's source distribution; it runs against a real prefork worker. What passes
without must pass with; what does not is tried once more, since many of its tests measure time. Both run at once, each
on a Redis of its own. Arguments go to pytest. The suite's own requirements come into a venv of their own.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.services import RedisServer

ROOT = Path(__file__).parents[2]
VENV = ROOT / ".venv" / "celery-suite"
PYTHON = VENV / "bin" / "python"
#: What the suite needs beside Celery: requirements/test.txt of Celery, as far as it is imported.
REQUIREMENTS = [
    "cryptography",
    "pydantic",
    "pytest>=8.2",
    "pytest-celery",
    "pytest-order",
    "pytest-rerunfailures",
    "pytest-subtests",
    "pytest-timeout",
    "python-dateutil",
    "sqlalchemy>=2",
]
#: What needs a cloud.
LEFT_OUT = ("test_backend.py",)
PLUGIN = "tests.tools.attach_everywhere"

Outcomes = dict[str, str]


def pip(*arguments: str) -> None:
    """Run pip in the suite's venv."""
    subprocess.run([PYTHON, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)


def prepare(folder: Path, version: str) -> None:
    """Make the venv, and unpack the suite of a version of Celery."""
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    pip("install", f"celery=={version}", "--editable", f"{ROOT}[redis]", *REQUIREMENTS)
    pip("download", "--no-deps", "--no-binary", ":all:", "--dest", str(folder), f"celery=={version}")
    with tarfile.open(next(folder.glob("celery-*.tar.gz"))) as archive:
        wanted = [member for member in archive.getmembers() if _is_wanted(member.name)]
        for member in wanted:  # without the folder of the version, and without Celery itself
            member.name = member.name.partition("/")[2]
        archive.extractall(folder, members=wanted, filter="data")


def _is_wanted(name: str) -> bool:
    path = name.partition("/")[2]
    folder, _, file = path.rpartition("/")
    return path == "pyproject.toml" or folder == "t/integration" or (folder == "t" and file.endswith(".py"))


def run(folder: Path, *arguments: str, attached: bool) -> Outcomes:
    """Run the suite once, on a Redis of its own, and return how each test ended."""
    name = "with" if attached else "without"
    own = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder))
    options = ["-q", "--no-header", "--timeout=300", "-p", "no:cacheprovider", f"--junitxml={own / 'report.xml'}"]
    options += [f"--ignore=t/integration/{file}" for file in LEFT_OUT] + (["-p", PLUGIN] if attached else [])
    redis = RedisServer(own).start()
    environment = {
        **os.environ,
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "REDIS_PORT": str(redis.port),
        "TEST_BROKER": redis.url(0),
        "TEST_BACKEND": redis.url(1),
    }
    log = own / "pytest.log"
    try:
        with log.open("wb") as output:
            command = [str(PYTHON), "-m", "pytest", *options, *(arguments or ["t/integration"])]
            subprocess.run(command, cwd=folder, env=environment, check=False, stdout=output, stderr=output)
    finally:
        redis.kill()
    print(f"-- {name} a Realtime\n{log.read_text(errors='replace')[-6000:]}", flush=True)
    return outcomes(ET.parse(own / "report.xml").iter("testcase"))


def run_both(folder: Path, *arguments: str) -> tuple[Outcomes, Outcomes]:
    """Run the suite without a Realtime and with one, at once."""
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run, folder, *arguments, attached=attached) for attached in (False, True)]
        without, attached = [run.result() for run in runs]
    return without, attached


def outcomes(cases: Iterable[ET.Element]) -> Outcomes:
    """Return how each test of a report ended: ``passed``, ``failure``, ``error`` or ``skipped``."""
    found: Outcomes = {}
    for case in cases:
        name = f"{case.get('classname')}::{case.get('name')}"
        ends = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        found[name] = ends[0] if ends else "passed"
    return found


def compare(without: Outcomes, attached: Outcomes) -> list[str]:
    """Return the tests that passed without a Realtime and did not with one."""
    return sorted(name for name, end in without.items() if end == "passed" and attached.get(name) != "passed")


def summary(found: Outcomes) -> str:
    """Return how many tests ended how."""
    ends = [*found.values()]
    return ", ".join(f"{ends.count(end)} {end}" for end in sorted(set(ends)))


def try_again(folder: Path, names: list[str]) -> list[str]:
    """Run tests once more, alone; returns those that still pass without a Realtime alone, or do not run."""
    if not names:
        return []
    words = [(name.rpartition("::")[0].split("."), name.rpartition("::")[2]) for name in names]
    places = [f"{'/'.join(path[:3])}.py::{'::'.join([*path[3:], test])}" for path, test in words]
    without, attached = run_both(folder, *places)
    return [name for name in names if without.get(name, "passed") == "passed" and attached.get(name) != "passed"]


def main(*arguments: str) -> int:
    """Compare both; returns 1 if something that passes without a Realtime does not with one."""
    version = importlib.metadata.version("celery")
    with tempfile.TemporaryDirectory(prefix="celery-suite-") as name:
        folder = Path(name)
        prepare(folder, version)
        without, attached = run_both(folder, *arguments)
        print(f"Celery {version} without a Realtime: {summary(without)}; with one: {summary(attached)}")
        differing = compare(without, attached)
        print("\n".join([f"  passed without, {attached.get(one, 'did not run')} with: {one}" for one in differing]))
        worse = try_again(folder, differing)
    print("\n".join([f"  again: {one}" for one in worse] or ["What passes without passes with."]))
    return 1 if worse or "passed" not in without.values() else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
