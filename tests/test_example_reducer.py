"""The rule by which the example's page decides between events holds in Node."""

from __future__ import annotations

import subprocess

from tests.processes import ROOT
from tests.programs import require


def test_the_rows_of_the_page_end_as_their_jobs_did() -> None:
    done = subprocess.run(
        [require("node"), "--test", str(ROOT / "tests" / "client" / "jobs.test.mjs")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
