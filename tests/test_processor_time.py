"""``tests/tools/processor_time.py`` sees what tests, and the processes that they start, have taken."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT

BURN = "import time\nwhile time.process_time() < 0.5: pass"
TESTS = {
    "test_child.py": f"import subprocess, sys\ndef test(): subprocess.run([sys.executable, '-c', {BURN!r}])",
    "test_idle.py": "def test(): pass",
}


@pytest.mark.parametrize("processes", [pytest.param("0", marks=pytest.mark.long), "1"])
def test_what_children_have_taken_counts_for_the_file_of_the_test(tmp_path: Path, processes: str) -> None:
    for name, source in TESTS.items():
        (tmp_path / name).write_text(source)
    options = ["-p", "tests.tools.processor_time", "-p", "xdist", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-n", processes, "-c", "/dev/null", "--rootdir", ".", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    taken = {name: float(seconds) for seconds, name in re.findall(r"([\d.]+) s  .*?(test_\w+\.py)", done.stdout)}
    assert taken["test_child.py"] >= 0.5
    assert taken["test_idle.py"] < taken["test_child.py"]
