"""Hundreds of random lives of workers, children and servers: what is shown of each job is true in the end.

``DEATHS_SEED`` repeats a run as far as processes and networks let it; ``DEATHS_LIVES`` says how many lives.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.deaths.cells import BACKENDS, BROKERS
from tests.deaths.fixtures import deaths  # noqa: F401
from tests.deaths.lives import Round
from tests.deaths.running import write_report
from tests.deaths.stage import Stages

LIVES = int(os.environ.get("DEATHS_LIVES", "500"))
#: Lives that end in one project, before its jobs are judged.
ROUND = 25
#: Of how many jobs of a hundred nobody can know, at most, what became of them; see tests/deaths/unknowable.py.
MOST_EXCUSED = 5


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("broker", BROKERS)
def test_random_lives(deaths: Stages, tmp_path: Path, broker: str) -> None:  # noqa: F811
    seed = int(os.environ.get("DEATHS_SEED") or _new_seed())
    print(f"DEATHS_SEED={seed} DEATHS_LIVES={LIVES}")  # noqa: T201
    chance = random.Random(f"{seed} {broker}")
    backend = chance.choice(BACKENDS)
    ended, wrong = 0, []
    while ended < LIVES / len(BROKERS):
        folder = tmp_path / f"after-{ended}"
        folder.mkdir()
        began = time.monotonic()
        lives = Round(deaths.stage((broker, backend)), folder, chance)
        faults = [*map(str, lives.run(ROUND)), *_too_many(lives)]
        ended += lives.lives
        figures = f"{broker}, {backend}, {ended} lives, {time.monotonic() - began:.0f} s: "
        verdict = [figures + line for line in [*faults, *lives.stories(), _summary(lives, faults)]]
        print("\n".join(verdict))  # noqa: T201
        write_report(verdict)
        wrong += verdict if faults else []
    assert not wrong, "\n".join(wrong)


def _new_seed() -> int:
    """Draw a seed, one for all processes of a run."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    return random.Random(run).randrange(1_000_000) if run else random.SystemRandom().randrange(1_000_000)


def _too_many(lives: Round) -> list[str]:
    excused = len(lives.excused)
    return [f"of {excused} jobs nobody can know"] if excused * 100 > MOST_EXCUSED * lives.jobs else []


def _summary(lives: Round, faults: list[str]) -> str:
    return f"{'wrong' if faults else 'right'}, {lives.jobs} jobs, {len(lives.excused)} of which nobody can know"
