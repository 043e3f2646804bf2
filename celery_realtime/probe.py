"""``python -m celery_realtime.probe FILE``: tell a supervisor how a worker is doing, by its ``realtime_health_file``.

It loads nothing but a few modules of the standard library, and talks to nobody.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: Seconds after which a file is of a worker that is gone or hangs: it writes one every second.
MAX_AGE = 30.0

#: The exit codes: it is well, it is not.
OK, FAILING = 0, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m celery_realtime.probe", description=__doc__.partition("\n")[0])
    parser.add_argument("file", help="what the setting realtime_health_file names")
    parser.add_argument("--live", action="store_true", help="fail only if the worker should be started anew")
    parser.add_argument("--max-age", type=float, default=MAX_AGE, help="seconds (default: %(default)g)")
    options = parser.parse_args(arguments)
    problem = problem_of(options.file, "live" if options.live else "ready", options.max_age)
    sys.stdout.write(f"{problem or 'ok'}\n")
    return FAILING if problem else OK


def problem_of(path: str, probe: str, max_age: float) -> str:
    """Return what is wrong, in one line; nothing if all is well.

    Args:
        path: Of the file.
        probe: ``live`` or ``ready``.
        max_age: Seconds after which the file is too old.
    """
    try:
        age = time.time() - Path(path).stat().st_mtime
        health: dict[str, Any] = json.loads(Path(path).read_bytes())
        is_well, checks = health[probe], health["checks"]
    except OSError as error:
        return f"{path} cannot be read, so no worker runs that writes it: {error.strerror}"
    except (ValueError, KeyError, TypeError):
        return f"{path} is no file of a worker's health"
    if age > max_age:
        return f"the worker has not written {path} for {age:.0f} s"
    failing = sorted(name for name, check in checks.items() if check["state"] == "failing")
    return "" if is_well else f"failing: {', '.join(failing)}"


if __name__ == "__main__":
    sys.exit(main())
