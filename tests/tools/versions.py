"""Run a selection of tests on each Python and set of packages: ``python -m tests.tools.versions [--quick] [NAME ...]``.

Each combination has a venv of its own below ``.venv/versions``, which uv brings up to date first; what was printed is
in its ``log``. A line for each says how it went, or why it could not be tried.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.processes import ROOT
from tests.tools import try_again

HOME = ROOT / ".venv" / "versions"
#: Holds interpreters that are not on the PATH and not pyenv's, as PATH holds folders.
ELSEWHERE = "CELERY_REALTIME_PYTHONS"
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
CELERYS = ("5.4", "5.5", "5.6")
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"

#: What starts no server; then, on Redis, jobs in a worker and what becomes of them when it leaves, handlers on both
#: kinds of server, and each outcome in two pools. Runs of pytest, since the last one has tests that others have not.
SELECTION = (
    ("-m", "not long and not service", "--ignore=tests/matrix", "tests"),
    (
        *("-m", "not long", "-k", "not rabbitmq"),
        *("tests/integration/test_jobs.py", "tests/integration/test_shutdowns.py", "tests/web/test_handlers.py"),
    ),
    ("-k", "test_outcome and (redis-prefork or redis-threads)", "tests/matrix/test_outcomes.py"),
)
#: What ``--quick`` runs: what starts no server, and what differs most between the versions of Celery.
QUICK = (
    SELECTION[0],
    ("-k", "gives_nothing_back and redis", "tests/integration/test_shutdowns.py"),
)
LEFT_OUT = ("tests/attacks", "tests/browser", "tests/chaos", "tests/fuzz")


#: Of pytest, side by side.
PROCESSES = os.environ.get("PROCESSES", "2")


class Combination(NamedTuple):
    """What the tests run on.

    Attributes:
        name: What it is called.
        python: The version of Python.
        options: For uv: what else to install, and how to choose versions.
    """

    name: str
    python: str
    options: tuple[str, ...] = ()

    @property
    def venv(self) -> Path:
        """Its folder."""
        return HOME / self.name

    @property
    def interpreter(self) -> str:
        """The Python in it."""
        return str(self.venv / "bin" / "python")


class NotTried(Exception):
    """A combination cannot be had here."""


def combinations() -> list[Combination]:
    """Return each Python with the newest packages, this one with each older Celery, and the oldest of everything."""
    return [
        *(Combination(f"python{version}", version) for version in PYTHONS),
        *(Combination(f"celery{version}", HERE, (f"celery~={version}.0",)) for version in CELERYS),
        Combination("oldest", PYTHONS[0], ("--resolution", "lowest-direct")),
    ]


# -- what there is ----------------------------------------------------------------------------------------------


def find_python(version: str) -> str:
    """Return an interpreter of a version of Python.

    Raises:
        NotTried: There is none.
    """
    for path in candidates(version):
        if version_of(path) == version:
            return path
    raise NotTried(f"there is no Python {version} on the PATH, in pyenv or in ${ELSEWHERE}")


def candidates(version: str) -> Iterator[str]:
    """Yield what may be an interpreter of a version."""
    if version == HERE:
        yield sys.executable
    yield from filter(None, os.environ.get(ELSEWHERE, "").split(os.pathsep))
    for folder in os.get_exec_path():
        found = shutil.which(f"python{version}", path=folder)
        if found:
            yield found
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python"), reverse=True))


def version_of(interpreter: str) -> str | None:
    """Return an interpreter's version; None of what is none, such as pyenv's stand-ins for those that are off."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


# -- one combination --------------------------------------------------------------------------------------------


def prepare(combination: Combination) -> None:
    """Make the venv of a combination, or bring it up to date.

    Raises:
        NotTried: Its Python is not there, or its packages are not to be had for that.
    """
    if not Path(combination.interpreter).exists():
        shutil.rmtree(combination.venv, ignore_errors=True)
        uv("venv", "--python", find_python(combination.python), str(combination.venv))
    into = ("pip", "install", "--python", combination.interpreter)
    uv(*into, "--upgrade", "--requirements", "pyproject.toml", "--extra", "test", *combination.options)
    uv(*into, "--no-deps", "--editable", ".")


def uv(*arguments: str) -> None:
    """Run uv.

    Raises:
        NotTried: It fails, and the error has its last words, or it is not there.
    """
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    command = ["uv", "--quiet", *arguments]
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NotTried(f"uv cannot be started ({error}); make versions installs it") from error
    if done.returncode:
        raise NotTried(" ".join(done.stderr.split())[-300:])


def packages_in(combination: Combination) -> str:
    """Return which versions of Python and Celery a venv has."""
    code = "import platform, celery; print('Python', platform.python_version() + ', Celery', celery.__version__)"
    return subprocess.run(
        [combination.interpreter, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def run(combination: Combination, selection: Sequence[Sequence[str]]) -> bool:
    """Run a selection, print how it went, and return whether all has passed."""
    log = combination.venv / "log"
    log.unlink(missing_ok=True)
    started = time.monotonic()
    runs = [run_pytest(combination, log, part) for part in selection]
    passed = all(run.passed for run in runs)
    counts = "; ".join(run.summary for run in runs)
    verdict = f"{'passed' if passed else 'FAILED'} in {time.monotonic() - started:.0f} s"
    print(f"{combination.name} ({packages_in(combination)}): {verdict}: {counts}", flush=True)
    for line in (line for run in runs for line in run.failures):
        print(f"    {line}", flush=True)
    return passed


class Run(NamedTuple):
    """How pytest ended: what it has counted, and what has failed, with whether it fails alone too."""

    passed: bool
    summary: str
    failures: list[str]


def run_pytest(combination: Combination, log: Path, selection: Sequence[str]) -> Run:
    """Run a part of the tests, and once more, each alone, a few that have failed."""
    cache = combination.venv / "pytest"
    shutil.rmtree(cache, ignore_errors=True)
    command = ["-m", "pytest", "-q", "-n", PROCESSES, "--dist", "worksteal", "-o", f"cache_dir={cache}", *selection]
    code, printed = python(combination, log, *command, *(f"--ignore={folder}" for folder in LEFT_OUT))
    summary = printed[-1] if printed else "nothing was printed"
    failures: list[str] = []
    if code == 1:
        code, again = python(combination, log, "-m", "tests.tools.try_again", str(cache))
        failures = [line for line in again if line.startswith(try_again.VERDICTS)]
    return Run(code == 0, summary, failures)


def python(combination: Combination, log: Path, *arguments: str) -> tuple[int, list[str]]:
    """Run the Python of a combination; returns its exit code, and the lines that it has printed to the end of a log."""
    path = f"{combination.venv / 'bin'}{os.pathsep}{os.environ['PATH']}"
    with log.open("ab") as output:
        before = output.tell()
        done = subprocess.run(
            [combination.interpreter, *arguments],
            cwd=ROOT,
            env={**os.environ, "PATH": path, "PYTHONDONTWRITEBYTECODE": ""},  # hundreds of processes import the same
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    return done.returncode, log.read_bytes()[before:].decode(errors="replace").rstrip().splitlines()


def attempt(combination: Combination, selection: Sequence[Sequence[str]]) -> bool:
    """Try a combination; returns False if tests fail on it. What cannot be had here is no failure."""
    try:
        prepare(combination)
    except NotTried as error:
        print(f"{combination.name}: not tried: {error}", flush=True)
        return True
    return run(combination, selection)


def main(arguments: Sequence[str]) -> int:
    """Try the combinations of these names, or all; returns 1 if tests fail on one of them."""
    names = [argument for argument in arguments if argument != "--quick"]
    selection = SELECTION if len(names) == len(arguments) else QUICK
    known = {combination.name: combination for combination in combinations()}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"there is no {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    results = [attempt(known[name], selection) for name in names or known]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
