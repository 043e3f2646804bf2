"""A few cells of the death matrix, drawn anew each time from nearly all of them.

``DEATHS_SEED`` draws the same ones again; ``DEATHS_CELLS`` says how many (0 for none). With ``DEATHS_ONLY`` they are
drawn from its cells.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.deaths.cells import Flight, draw, matrix
from tests.deaths.running import check, chosen_cells
from tests.deaths.stage import Stages

CELLS = int(os.environ.get("DEATHS_CELLS", "4"))

#: What is not drawn, by patterns, and why.
LEFT_OUT = {
    "broker.*.rabbitmq.*": "RabbitMQ needs ten seconds to come back",
}


def sample() -> tuple[int, Flight | None]:
    seed = int(os.environ.get("DEATHS_SEED") or random.SystemRandom().randrange(1_000_000))
    cells = chosen_cells()
    if not os.environ.get("DEATHS_ONLY"):
        left_out = set(matrix(" ".join(LEFT_OUT)))
        cells = [cell for cell in cells if cell not in left_out]
    return seed, draw(seed, CELLS, cells)


def test_what_is_left_out_is_in_the_matrix_and_little() -> None:
    assert all(matrix(pattern) for pattern in LEFT_OUT)
    assert len(matrix(" ".join(LEFT_OUT))) < len(matrix()) / 4


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_what_is_shown_of_each_job_is_true(deaths: Stages, tmp_path: Path) -> None:
    seed, flight = sample()
    if flight is None:
        pytest.skip("no cells are asked for")
    print(f"DEATHS_SEED={seed} DEATHS_CELLS={CELLS}:", *flight.cells, sep="\n  ")  # noqa: T201
    check(deaths, flight, tmp_path)
