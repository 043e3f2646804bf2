"""The browser's client keeps its promises in Node, on a network without scruples; its types are those it has."""

from __future__ import annotations

import subprocess

from tests.processes import ROOT
from tests.programs import require

STATIC = ROOT / "celery_realtime" / "static"
LARGEST = 12_000


def test_it_does_what_the_scenarios_say_and_survives_whatever_happens_on_the_way() -> None:
    done = subprocess.run(
        [require("node"), "--test", str(ROOT / "tests" / "client" / "celery-realtime.test.mjs")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_small_and_needs_nothing() -> None:
    source = (STATIC / "celery-realtime.js").read_bytes()
    assert len(source) < LARGEST
    assert b"import " not in source
