"""Run the tests that have failed once more, each alone: ``python -m tests.tools.try_again [CACHE]``, after pytest.

On a machine that others keep busy, a test can fail that has nothing to do with what was changed. One that passes alone
is named, and has to be mended all the same; one that fails twice, and more than a few failures, fail the run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.processes import ROOT

#: Where pytest has its cache, unless it was told of another folder.
CACHE = ROOT / ".pytest_cache"

#: Under this name a run of this project's tests notes there what failed in it. pytest's own note also has what failed
#: before.
NOTE = "celery_realtime/failed"
THEIRS = "cache/lastfailed"

#: What is said of a test that passes, and of one that fails, the second time.
VERDICTS = ("passed only alone, which has to be mended", "failed twice")

#: Failures that may be the machine's.
MOST = 5


def failed(cache: Path = CACHE) -> list[str]:
    """Return the tests that failed in the last run."""
    path = next((path for name in (NOTE, THEIRS) if (path := cache / "v" / name).exists()), None)
    return [] if path is None else sorted(json.loads(path.read_text(encoding="utf-8")))


def passes(test: str) -> bool:
    """Run a test alone, and return whether it passes."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", test]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def main(cache: Path = CACHE) -> int:
    """Return 0 if all tests that failed pass alone."""
    tests = failed(cache)
    if not 0 < len(tests) <= MOST:
        print(f"{len(tests)} tests failed; up to {MOST} are run again", file=sys.stderr)
        return 1
    results = {test: passes(test) for test in tests}
    for test, has_passed in results.items():
        print(f"{VERDICTS[0 if has_passed else 1]}: {test}")
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
