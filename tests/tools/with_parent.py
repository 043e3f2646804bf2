"""Become the command in the arguments, and end when the parent does (on Linux; elsewhere only the former).

With ``--kill`` before it, it is killed then: for commands that miss SIGTERM, as Erlang does while it starts.

A program of its own, and not ``preexec_fn``: that one may hang where the parent has threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

# A shell starts background jobs with SIGINT ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.SIG_DFL)
killed = sys.argv[1] == "--kill"
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL if killed else signal.SIGTERM)
command = sys.argv[2:] if killed else sys.argv[1:]
os.execvp(command[0], command)
