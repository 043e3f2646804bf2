"""Whatever becomes of a job, its project is told exactly one end of it, and the right one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.matrix.outcomes import BROKERS, EAGER, OUTCOMES, POOLS, Outcome
from tests.matrix.stage import Play, Theatre, Told, told


def cells(pools: Sequence[str], outcomes: Sequence[Outcome]) -> list[Any]:
    """Return the matrix, ordered so that brokers and workers are seldom changed."""
    return [
        pytest.param(broker, pool, outcome, id=f"{broker}-{pool}-{outcome.name}")
        for broker, pool, outcome in itertools.product(BROKERS, pools, outcomes)
        if outcome.happens(broker, pool)
    ]


@pytest.mark.parametrize(("broker_name", "pool", "outcome"), cells(POOLS, OUTCOMES))
def test_outcome(theatre: Theatre, tmp_path: Path, broker_name: str, pool: str, outcome: Outcome) -> None:
    play = Play(theatre.stage(broker_name), outcome.configuration(pool), tmp_path)
    check(play, outcome)


@pytest.mark.parametrize(("broker_name", "pool", "outcome"), cells(["prefork"], EAGER))
def test_eager_outcome(theatre: Theatre, tmp_path: Path, broker_name: str, pool: str, outcome: Outcome) -> None:
    play = Play(theatre.stage(broker_name), outcome.configuration(pool), tmp_path)
    check(play, outcome)


@pytest.mark.parametrize(("broker_name", "pool", "outcome"), cells(["prefork", "threads"], OUTCOMES))
def test_outcome_without_history(
    theatre: Theatre, tmp_path: Path, broker_name: str, pool: str, outcome: Outcome
) -> None:
    play = Play(theatre.stage(broker_name, history=False), outcome.configuration(pool), tmp_path)
    run(play, outcome)
    statuses = play.statuses()
    for name, ends in outcome.ends_in(pool).items():
        last = fold(statuses[play.id(name)])
        assert any(end.fits(last) for end in ends), f"{name} ended as {last}"


def check(play: Play, outcome: Outcome) -> None:
    """Run an outcome, and check all that was told of it."""
    run(play, outcome)
    check_offsets(play)
    statuses = play.statuses()
    published_again = [play.id(name) for name in outcome.published_again.get(play.pool, ())]
    for job, job_statuses in statuses.items():
        latest = latest_run(job_statuses) if job in published_again else job_statuses
        check_order(job, latest, starts=outcome.starts_in(play.pool) if job == play.id() else ())
    for progress in play.progress().values():
        assert progress == sorted(progress), "progress went back"
    for name, ends in outcome.ends_in(play.pool).items():
        found = statuses[play.id(name)]
        assert progression(told(found)) in [progression(end.told) for end in ends]
        assert any(end.fits(found[-1]) for end in ends), f"{name} ended as {found[-1]}"


def run(play: Play, outcome: Outcome) -> None:
    """Run an outcome, to its end and beyond."""
    outcome.act(play)
    for name in outcome.ends_in(play.pool):
        play.wait_end(name)
    for signal, count in outcome.late_in(play.pool):
        play.wait_signals(signal, count)
    play.settle()


def check_offsets(play: Play) -> None:
    stamps = [data.get("_realtime", data) for _, data in play.events()]
    assert [stamp["offset"] for stamp in stamps] == list(range(1, len(stamps) + 1))
    assert len({stamp["epoch"] for stamp in stamps}) == 1


def check_order(job: str, statuses: list[Any], *, starts: tuple[int, ...] = ()) -> None:
    """Check that a job only climbs, ends once, and is not told of again.

    Another worker may start it anew, and the same one if its message was delivered again.
    """
    while any(data["state"] == "LOST" for data in statuses[:-1]):  # it came back: the one end that need not be the last
        lost = next(number for number, data in enumerate(statuses) if data["state"] == "LOST")
        check_order(job, statuses[: lost + 1], starts=starts)
        statuses = statuses[lost + 1 :]
    if starts:
        assert [data["status"] for data in statuses].count("running") in starts, f"{job} ran as {told(statuses)}"
        statuses = without_earlier_starts(statuses)
    statuses = without_what_was_given_back(statuses)
    places = [(*status.place, data["worker"]) for status, data in zip(told(statuses), statuses, strict=True)]
    assert len(set(places)) == len(places), f"{job} repeats itself: {places}"
    assert [place[:2] for place in places] == sorted(place[:2] for place in places), f"{job} went back: {places}"
    ends = [status.terminal for status in told(statuses)]
    assert ends == [False] * (len(ends) - 1) + [True], f"{job} did not end once: {told(statuses)}"


def latest_run(statuses: list[Any]) -> list[Any]:
    """Return the statuses from the last publication on; those before it need no end."""
    published = [number for number, data in enumerate(statuses) if data["status"] == "queued"]
    for earlier, later in itertools.pairwise(published):
        places = [status.place for status in told(statuses[earlier:later])]
        assert places == sorted(set(places)), f"an earlier run went back: {told(statuses)}"
    return statuses[max(published) :]


def without_earlier_starts(statuses: list[Any]) -> list[Any]:
    """Return the statuses without the starts that are followed by another one, which is later, in the same attempt."""
    pairs = [*itertools.pairwise(statuses), (statuses[-1], None)]
    return [status for status, after in pairs if after is None or not is_repeated(status, after)]


def is_repeated(start: Any, after: Any) -> bool:
    is_same = (start["status"], start["attempt"]) == ("running", after["attempt"]) and after["status"] == "running"
    return is_same and bool(after["timestamp"] > start["timestamp"])


def without_what_was_given_back(statuses: list[Any]) -> list[Any]:
    """Return the statuses from the last time on that the message went back: the job is queued anew, in its attempt."""
    for number, (before, after) in reversed(list(enumerate(itertools.pairwise(statuses), 1))):
        is_same = before["attempt"] == after["attempt"]
        if is_same and (before["status"], after["status"]) == ("running", "queued"):
            assert after["timestamp"] > before["timestamp"], "a publication is heard of after its start"
            return statuses[number:]
    return statuses


def progression(statuses: list[Told]) -> list[Told]:
    """Return the statuses without those of jobs that wait, and each place once."""
    return list(dict.fromkeys(status for status in statuses if status.status != "queued"))


def fold(statuses: list[Any]) -> Any:
    """Return the state that a client is left with which goes by attempt and rank, whatever the order of arrival."""
    last = statuses[0]
    for status in statuses[1:]:
        if is_news(told([status])[0], told([last])[0]):
            last = status
    return last


def is_news(new: Told, old: Told) -> bool:
    if old.state == "LOST" and new.attempt == old.attempt:
        return new.status != "queued" and new.state != "LOST"
    return new.place > old.place
