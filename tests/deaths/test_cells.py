"""The matrix leaves out what means nothing, says why, and draws the same cells from the same seed."""

from __future__ import annotations

import itertools

import pytest

from tests.deaths.cells import (
    BACKENDS,
    BROKERS,
    MOMENTS,
    POOLS,
    REASONS,
    SEQUELS,
    SHARED,
    VICTIMS,
    Cell,
    combinations,
    draw,
    flights,
    matrix,
    reason_against,
)
from tests.deaths.plan import SLOTS, plan_jobs

CELLS = matrix()


def test_each_combination_is_in_the_matrix_or_there_is_a_reason_against_it() -> None:
    left_out = [cell for cell in combinations() if reason_against(cell) is not None]
    assert not set(CELLS) & set(left_out)
    sizes = (VICTIMS, MOMENTS, SEQUELS, POOLS, BROKERS, BACKENDS)
    assert len(CELLS) + len(left_out) == len(list(itertools.product(*sizes)))


def test_no_value_of_a_dimension_is_left_out_altogether() -> None:
    for position, values in enumerate((VICTIMS, MOMENTS, SEQUELS, POOLS, BROKERS, BACKENDS)):
        assert {str(cell).split(".")[position] for cell in CELLS} == set(values)


@pytest.mark.parametrize("reason", [reason for reason, _ in REASONS])
def test_each_reason_leaves_out_some_and_not_all(reason: str) -> None:
    assert any(reason_against(cell) == reason for cell in combinations())


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("child.running.nothing.prefork.redis.redis", True),
        ("child.running.nothing.threads.redis.redis", False),
        ("child.running.at-once.prefork.redis.redis", False),
        ("group.reserved.other.gevent.rabbitmq.none", True),
        ("group.reserved.other.solo.rabbitmq.none", False),
        ("web.running.later.solo.redis.database", True),
        ("web.running.nothing.solo.redis.database", False),
        ("broker-empty.running.at-once.prefork.redis.redis", True),
        ("broker-empty.running.at-once.prefork.rabbitmq.redis", False),
    ],
)
def test_examples_of_what_is_in_it(name: str, kept: bool) -> None:
    assert (reason_against(Cell(*name.split("."))) is None) is kept


def test_flights_hold_every_cell_once_and_only_cells_that_can_share_a_stage() -> None:
    grouped = flights(CELLS, 5)
    assert sorted(str(cell) for flight in grouped for cell in flight.cells) == sorted(map(str, CELLS))
    for flight in grouped:
        assert 1 <= len(flight.cells) <= 5
        assert len({(cell.stage, cell.fate) for cell in flight.cells}) == 1
    assert len({str(flight) for flight in grouped}) == len(grouped)


def test_flights_of_a_stage_come_in_a_row() -> None:
    stages = [flight.stage for flight in flights(CELLS, 5)]
    assert len([stage for stage, _ in itertools.groupby(stages)]) == len(BROKERS) * len(BACKENDS)


def test_a_pattern_chooses_cells() -> None:
    chosen = matrix("main.*.at-once.prefork.redis.none group.running.nothing.solo.redis.none")
    assert [str(cell) for cell in chosen] == [
        *(f"main.{moment}.at-once.prefork.redis.none" for moment in MOMENTS),
        "group.running.nothing.solo.redis.none",
    ]


def test_a_seed_draws_the_same_cells_again_and_another_draws_others() -> None:
    assert draw(7, 4, CELLS) == draw(7, 4, CELLS)
    assert len({draw(seed, 4, CELLS) for seed in range(20)}) > 15


def test_drawn_cells_can_share_a_stage() -> None:
    for seed in range(50):
        flight = draw(seed, 4, CELLS)
        assert flight is not None
        assert len(set(flight.cells)) == len(flight.cells) <= 4
        assert len({(cell.stage, cell.fate) for cell in flight.cells}) == 1


def test_no_cells_can_be_drawn() -> None:
    assert draw(1, 0, CELLS) is None


@pytest.mark.parametrize("cell", CELLS[::37], ids=str)
def test_the_jobs_of_a_cell_fit_into_the_slots_of_the_pool(cell: Cell, tmp_path: object) -> None:
    jobs = plan_jobs(cell, "p1", tmp_path)  # type: ignore[arg-type]
    steady = [jobs.steady] if jobs.steady else []
    running = jobs.holders or jobs.targets
    assert len(running) + len(steady) == SLOTS[cell.pool]
    assert bool(jobs.holders) is (cell.moment == "reserved")
    assert len({job.job_id for job in jobs.jobs}) == len(jobs.jobs)
    assert bool(steady) is (cell.pool != "solo" and cell.victim not in ("main", "group", "host"))


def test_cells_that_share_a_death_agree_on_what_follows() -> None:
    assert {cell.fate for cell in CELLS} == {("worker", "soon"), ("worker", "later")} | {
        (victim, sequel) for victim in SHARED for sequel in SEQUELS if any(_is(cell, victim, sequel) for cell in CELLS)
    }


def _is(cell: Cell, victim: str, sequel: str) -> bool:
    return (cell.victim, cell.sequel) == (victim, sequel)
