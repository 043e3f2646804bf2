"""Run Celery's own integration suite without a Realtime, and with one attached: ``python -m tests.tools.celery_suite``.

The suite is that of the installed Celery's source distribution; it runs against a real prefork worker. What passes
without must pass with; what does not is tried again, both ways, since many of its tests measure time.

Its test files are run one after another (of the largest, the classes), each on a Redis of its own, without and with at
the same time. What has been run is kept in ``.celery-suite``: an interrupted run goes on where it was, and
``--table`` prints what there is. ``--fresh`` begins again. Other arguments are parts of the names of what is to run.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.services import RedisServer

ROOT = Path(__file__).parents[2]
VENV = ROOT / ".venv" / "celery-suite"
PYTHON = VENV / "bin" / "python"
#: What the suite needs beside Celery: requirements/test.txt of Celery, as far as it is imported.
REQUIREMENTS = [
    "cryptography",
    "django",
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
FOLDER = "t/integration"
#: What is run by neither, and why.
LEFT_OUT = {"test_backend.py": "it needs a cloud"}
#: Run class by class: it has hundreds of tests. Classes of others count on a worker that one before has started.
LARGE = ("test_canvas.py",)
PLUGIN = "tests.tools.attach_everywhere"
NOTES = "tests.tools.note_outcomes"

#: Seconds after which a run is killed, and goes on with the test after the one that it was at; and how often.
LONGEST_RUN = float(os.environ.get("CELERY_SUITE_TIMEOUT", "900"))
MOST_RUNS = 3
#: How often what passes without, and not with, is tried again.
MOST_TRIES = 3

SIDES = ("without", "with")
#: By test, how it ended: passed, failed, error, skipped, rerun, or that it did not within the time.
Outcomes = dict[str, str]


# -- the suite --------------------------------------------------------------------------------------------------


def pip(*arguments: str) -> None:
    """Run pip in the suite's venv."""
    subprocess.run([PYTHON, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)


def prepare(folder: Path, version: str) -> None:
    """Make the venv, and unpack the suite of a version of Celery, unless both are there."""
    if (folder / FOLDER).exists() and PYTHON.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
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
    return path == "pyproject.toml" or folder == FOLDER or (folder == "t" and file.endswith(".py"))


def parts(folder: Path) -> Iterator[str]:
    """Yield what is run at a time: the names of test files, and of classes in the large ones."""
    for path in sorted((folder / FOLDER).glob("test_*.py")):
        if path.name in LARGE:
            yield from (f"{path.name}::{name}" for name in _names(path) if name.startswith("test_"))
        elif path.name not in LEFT_OUT:
            yield path.name


def _names(path: Path) -> list[str]:
    body = ast.parse(path.read_text()).body
    return [node.name for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]


# -- running ----------------------------------------------------------------------------------------------------


class Run:
    """The tests of one part on one side, which may take several processes of pytest.

    Args:
        folder: Where the suite is, and the notes go.
        side: ``without`` or ``with``.
        tests: What pytest is to run.
        name: Of the notes.
    """

    def __init__(self, folder: Path, side: str, tests: Sequence[str], name: str) -> None:
        self._folder = folder
        self._side = side
        self._tests = [f"{FOLDER}/{test}" for test in tests]
        self.notes = folder / side / f"{name.replace('::', '.')}.jsonl"
        self.notes.parent.mkdir(exist_ok=True)

    @property
    def is_over(self) -> bool:
        """Whether all tests have ended."""
        return any(line["end"] == "over" for line in self._lines())

    def outcomes(self) -> Outcomes:
        """Return how each test has ended; a subtest that has failed counts."""
        ends: Outcomes = {}
        for line in self._lines():
            test = (line["test"] or "").removeprefix(f"{FOLDER}/")
            if test and ends.get(test) not in ("failed", "error"):
                ends[test] = line["end"] or "no end"
        return ends

    def _lines(self) -> list[dict[str, str | None]]:
        return [json.loads(line) for line in self.notes.read_text().splitlines()] if self.notes.exists() else []

    def go_on(self) -> None:
        """Run what has not been run."""
        for _ in range(MOST_RUNS):
            if not self.is_over:
                self._start()
        if not self.is_over:
            with self.notes.open("a") as file:
                file.write('{"test": null, "end": "over"}\n')

    def _start(self) -> None:
        plugins = ["-p", NOTES, *(["-p", PLUGIN] if self._side == "with" else [])]
        options = ["-q", "--no-header", "--timeout=300", "-p", "no:cacheprovider", "--tb=short", *plugins]
        with tempfile.TemporaryDirectory(prefix="celery-suite-") as own, served(Path(own)) as environment:
            self._wait([str(PYTHON), "-m", "pytest", *options, *self._tests], environment)

    def _wait(self, command: list[str], environment: dict[str, str]) -> None:
        paths = {
            "PATH": f"{PYTHON.parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": f"{self._folder}{os.pathsep}{ROOT}",
            "NOTE_OUTCOMES": str(self.notes),
        }
        with self.notes.with_suffix(".log").open("ab") as log:
            process = subprocess.Popen(
                *(command,),
                cwd=self._folder,
                env={**os.environ, **environment, **paths},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                process.wait(LONGEST_RUN)
            except subprocess.TimeoutExpired:
                print(f"   {self.notes.stem} {self._side} a Realtime: ended after {LONGEST_RUN:.0f} s", flush=True)
            finally:
                with contextlib.suppress(ProcessLookupError):  # a worker's children may outlive it, too
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextlib.contextmanager
def served(own: Path) -> Iterator[dict[str, str]]:
    """Have a Redis for a run, and yield the environment that says where it is."""
    redis = RedisServer(own).start()
    try:
        yield {"REDIS_PORT": str(redis.port), "TEST_BROKER": redis.url(0), "TEST_BACKEND": redis.url(1)}
    finally:
        redis.kill()


def run_both(folder: Path, tests: Sequence[str], name: str) -> tuple[Outcomes, Outcomes]:
    """Run tests without a Realtime and with one, at once, as far as that has not been done."""
    runs = [Run(folder, side, tests, name) for side in SIDES]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Run.go_on, runs))
    return runs[0].outcomes(), runs[1].outcomes()


# -- comparing --------------------------------------------------------------------------------------------------


def compare(without: Outcomes, attached: Outcomes) -> list[str]:
    """Return the tests that passed without a Realtime and did not with one."""
    return sorted(name for name, end in without.items() if end == "passed" and attached.get(name) != "passed")


def try_again(folder: Path, part: str, differing: list[str]) -> list[str]:
    """Run tests again, both ways; returns those that never passed with a Realtime when they passed without."""
    for number in range(MOST_TRIES):
        if differing:
            without, attached = run_both(folder, differing, f"{part}.again{number}")
            differing = [name for name in differing if name in compare(without, attached)]
    return differing


def table(folder: Path, names: Iterable[str]) -> str:
    """Return how many tests of each part ended how, without and with."""
    rows = ["| Part | without: passed | failed | skipped | with: passed | failed | skipped |", f"|{'---|' * 7}"]
    sums = Counter[tuple[str, str]]()
    for name in names:
        counts = Counter(
            (side, _kind(end)) for side in SIDES for end in Run(folder, side, (), name).outcomes().values()
        )
        sums.update(counts)
        rows.append(_row(name, counts))
    return "\n".join([*rows, _row("all", sums)])


def _kind(end: str) -> str:
    return end if end in ("passed", "skipped") else "failed"


def _row(name: str, counts: Counter[tuple[str, str]]) -> str:
    cells = [str(counts[side, kind]) for side in SIDES for kind in ("passed", "failed", "skipped")]
    return f"| {' | '.join([name, *cells])} |"


def main(*arguments: str) -> int:
    """Compare both; returns 1 if something that passes without a Realtime does not with one."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.celery_suite")
    parser.add_argument("names", nargs="*", help="run only parts whose names contain one of these")
    parser.add_argument("--table", action="store_true", help="print what there is, and run nothing")
    parser.add_argument("--fresh", action="store_true", help="forget what there is")
    options = parser.parse_args(arguments)
    version = importlib.metadata.version("celery")
    folder = ROOT / ".celery-suite" / version
    if options.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    prepare(folder, version)
    names = [part for part in parts(folder) if not options.names or any(name in part for name in options.names)]
    worse = [] if options.table else [test for name in names for test in _run_part(folder, name)]
    print(f"Celery {version} without a Realtime, and with one:\n{table(folder, names)}")
    print("\n".join([f"left out by both: {file}: {reason}" for file, reason in LEFT_OUT.items()]))
    print("\n".join([f"  passes without only: {test}" for test in worse] or ["What passes without passes with."]))
    return 1 if worse else 0


def _run_part(folder: Path, name: str) -> list[str]:
    without, attached = run_both(folder, [name], name)
    differing = compare(without, attached)
    worse = try_again(folder, name, differing)
    print(f"{name}: {len(without)} and {len(attached)} tests; differ: {differing}; still: {worse}", flush=True)
    return worse


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
