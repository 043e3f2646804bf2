"""Run programs, each in a fork of one interpreter: ``python -m tests.tools.forked_programs``.

The interpreter has imported what the programs import, which takes a hundred times as long as they do. A program is a
line of JSON on the standard input, and how it ended is one on the standard output.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import IO

import celery  # noqa: F401
import flask_socketio  # noqa: F401

import celery_realtime.web.attach  # noqa: F401


def next_program() -> str | None:
    """Return the next program, in a child that is to run it; None in this process, at the end of the input."""
    for line in sys.stdin:
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
            child = os.fork()
            if child == 0:
                os.dup2(output.fileno(), 1)
                os.dup2(errors.fileno(), 2)
                program: str = json.loads(line)
                return program
            _, status = os.waitpid(child, 0)
            ended = [os.waitstatus_to_exitcode(status), _text_of(output), _text_of(errors)]
        print(json.dumps(ended), flush=True)
    return None


def _text_of(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


if __name__ == "__main__":
    program = next_program()
    if program is not None:
        sys.argv = ["-c"]
        exec(program, {"__name__": "__main__"})
