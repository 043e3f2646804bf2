"""Hundreds of random lives of workers, children and servers: what is shown of each job is true in the end.

``DEATHS_SEED`` repeats a run as far as processes and networks let it; ``DEATHS_LIVES`` says how many lives.
"""

from __future__ import annotations

import os
import random
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


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("broker", BROKERS)
def test_random_lives(deaths: Stages, tmp_path: Path, broker: str) -> None:  # noqa: F811
    seed = int(os.environ.get("DEATHS_SEED") or random.SystemRandom().randrange(1_000_000))
    print(f"DEATHS_SEED={seed} DEATHS_LIVES={LIVES}")  # noqa: T201
    chance = random.Random(f"{seed} {broker}")
    backend = chance.choice(BACKENDS)
    ended, wrong = 0, []
    while ended < LIVES / len(BROKERS):
        folder = tmp_path / f"after-{ended}"
        folder.mkdir()
        lives = Round(deaths.stage((broker, backend)), folder, chance)
        faults = lives.run(ROUND)
        ended += lives.lives
        verdict = [*map(str, faults), *lives.story(faults)] or ["right"]
        write_report([f"{broker}, {backend}, {ended} lives: {line}" for line in verdict])
        wrong += [f"after {ended} lives ({backend}): {line}" for line in verdict if faults]
    assert not wrong, "\n".join(wrong)
