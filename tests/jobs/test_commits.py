"""What is deferred to the end of a transaction belongs to the project in which that was said."""

from __future__ import annotations

import json
import subprocess
import sys


def test_what_is_published_after_a_commit_belongs_to_the_project_of_the_block_where_it_was_said() -> None:
    program = [sys.executable, "-m", "tests.jobs.django_commits"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    outside_jobs, in_a_job, refused = done.stdout.splitlines()
    in_block = dict.fromkeys(("delay_on_commit", "apply_async_on_commit", "closure", "partial", "robust"), "p")
    assert json.loads(outside_jobs) == {**in_block, "argument": "q"}
    assert json.loads(in_a_job) == {**in_block, "argument": "q", "outside": "job", "after": "job"}
    assert refused == "refused"
