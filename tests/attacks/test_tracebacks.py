"""What nobody can read fills no log: each host writes each kind of traceback once a minute."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.attacks.floods import FLOODS
from tests.attacks.hosts import KINDS, PROJECT, Attacked, is_missing, token_of
from tests.attacks.raw import Raw
from tests.launcher import Launcher
from tests.variants import long_unless

pytestmark = pytest.mark.service

#: What is sent of each kind in a whole run, and in the sample of it that ``make test`` sends to one host.
TIMES, SAMPLE = 3, ("broken_requests", "abrupt_ends", "raising_handlers")

_FRAME = re.compile(r'^[ |+]*File "([^"]+)", line (\d+)', re.MULTILINE)
_END = re.compile(r"^[ |]*([A-Za-z_][\w.]*)(?:$|: | \|)", re.MULTILINE)


def kinds_in(log: str) -> Counter[tuple[str, ...]]:
    """Return how many tracebacks of each kind a log has: by where it was caught, where it was raised, and what."""
    kinds: Counter[tuple[str, ...]] = Counter()
    for text in log.split("Traceback (most recent call last):")[1:]:
        frames = list(_FRAME.finditer(text))
        if frames:
            end = _END.search(text, frames[-1].end())
            if end is not None and end[1].endswith("ExceptionGroup"):
                continue  # what is in it is counted
            kinds[(*frames[0].groups(), *frames[-1].groups(), "" if end is None else end[1])] += 1
    return kinds


def flood(kind: str, folder: Path, names: tuple[str, ...], times: int) -> None:
    """Send what nobody can read, and look at what the server has written."""
    with Launcher(folder) as launcher:
        host = launcher.start(Attacked(kind, folder, {"CELERY_BROKER_URL": "memory://", "HOST_LOGS": "1"}))
        token, began = token_of(), time.monotonic()
        for _ in range(times):
            for name in names:
                FLOODS[name](host.url, token)
        client = Raw(host.url, timeout=60).enter(token)
        assert '"ok":true' in client.ask("subscribe_project", {"project_id": PROJECT})
        client.close()
        most = 1 + int((time.monotonic() - began) // 60)
        kinds = kinds_in(host.log)
        assert kinds, "nothing was logged"
        assert {name: count for name, count in kinds.items() if count > most} == {}, host.log[-4000:]


@pytest.mark.parametrize("kind", long_unless((), KINDS))
@pytest.mark.timeout(600)
def test_each_kind_of_traceback_is_written_once_a_minute(tmp_path: Path, kind: str) -> None:
    if is_missing(kind):
        pytest.skip(f"{kind} is not installed: run this with the venv of make attack, .venv/attack")
    flood(kind, tmp_path, tuple(FLOODS), TIMES)


@pytest.mark.timeout(300)
def test_a_sample_of_that_on_the_host_that_writes_most(tmp_path: Path) -> None:
    flood("gthread", tmp_path, SAMPLE, TIMES)
