"""The events of a project are emitted in the order of their offsets, each once, whatever order they come in."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from celery_realtime.channel.wire import Heard, heard
from celery_realtime.history.store import Snapshot
from celery_realtime.web import ordering
from celery_realtime.web.ordering import MOST_PAST, MOST_WAITING, PATIENCE, OtherEpochs, ProjectOrder


def event(offset: int, epoch: str = "e", project: str = "p") -> Heard:
    data = {"n": offset, "_realtime": {"project_id": project, "epoch": epoch, "offset": offset}}
    return heard(project, "step", data)


def status(offset: int, job: str, word: str, epoch: str = "e") -> Heard:
    data = {"job_id": job, "status": word, "attempt": 0, "epoch": epoch, "offset": offset}
    return heard("p", "agent_status", data)


class Past:
    """A history: its epoch, its events, and how many of the last ones can be read."""

    def __init__(self, count: int = 0, epoch: str = "e", most: int = 1000) -> None:
        self.epoch = epoch
        self.most = most
        self.events = [event(number, epoch) for number in range(1, count + 1)]

    def __call__(self, missing: Any) -> Snapshot:
        count = len(self.events) - missing.offset
        is_whole = missing.epoch == self.epoch and 0 <= count <= self.most
        entries = [{"event": each.event, "data": each.data} for each in self.events[missing.offset :]]
        return Snapshot(self.epoch, len(self.events), is_whole, [], 0, [], entries if is_whole else [])


class Project:
    """The order of a project, its history, a clock, and what has been emitted."""

    def __init__(self, past: Past | None = None, seeded: int | None = 0) -> None:
        self.past = past or Past()
        self.order = ProjectOrder("p")
        self.clock = 100.0
        self.emitted: list[Any] = []
        if seeded is not None:
            self.note(self.order.seed(self.past.epoch, seeded, self.clock))

    def note(self, due: Any) -> None:
        self.emitted += [each.data.get("n", each.data.get("status", each.event)) for each in due]

    def take(self, *offsets: int, epoch: str = "e") -> None:
        for offset in offsets:
            self.note(self.order.take(event(offset, epoch), self.clock))

    def ask(self) -> None:
        missing = self.order.request()
        assert missing is not None
        self.note(self.order.answer(missing, self.past(missing), self.clock))

    def settle(self) -> None:
        """Let time pass, and ask the history for as long as something is missing."""
        for _ in range(10):
            self.clock += PATIENCE
            if self.order.overdue_at <= self.clock:
                self.ask()
        assert self.order.overdue_at == math.inf


# -- in order -----------------------------------------------------------------------------------------------------


def test_what_is_next_is_emitted_at_once() -> None:
    project = Project()

    project.take(1, 2, 3)

    assert project.emitted == [1, 2, 3]
    assert project.order.overdue_at == math.inf


def test_what_is_ahead_of_a_hole_waits_until_the_hole_is_filled() -> None:
    project = Project()

    project.take(2, 4, 3)
    assert project.emitted == []
    assert project.order.overdue_at == pytest.approx(100.0 + PATIENCE)
    project.take(1)

    assert project.emitted == [1, 2, 3, 4]
    assert project.order.overdue_at == math.inf


def test_what_was_emitted_is_not_emitted_again() -> None:
    project = Project()

    project.take(1, 1, 3, 3, 2, 2, 3, 1)

    assert project.emitted == [1, 2, 3]


def test_what_does_not_come_is_read_from_the_history() -> None:
    project = Project(Past(5))
    project.take(1, 3, 5)

    project.settle()

    assert project.emitted == [1, 2, 3, 4, 5]


def test_a_second_hole_has_time_of_its_own() -> None:
    project = Project()
    project.take(2)
    project.clock += 0.08
    project.take(4)
    project.take(1)

    assert project.emitted == [1, 2]
    assert project.order.overdue_at == pytest.approx(100.08 + PATIENCE)


def test_what_a_snapshot_has_is_not_emitted() -> None:
    project = Project(Past(7), seeded=5)

    project.take(4, 5, 6)

    assert project.emitted == [6]


def test_what_comes_before_the_first_snapshot_waits_for_it() -> None:
    project = Project(seeded=None)

    project.take(4, 3, 2)
    assert project.emitted == []
    project.note(project.order.seed("e", 2, project.clock))

    assert project.emitted == [3, 4]


def test_what_a_later_snapshot_has_is_missing_if_it_does_not_come() -> None:
    project = Project(Past(3))

    project.note(project.order.seed("e", 3, project.clock))
    assert project.emitted == []
    assert project.order.overdue_at == pytest.approx(100.0 + PATIENCE)
    project.settle()

    assert project.emitted == [1, 2, 3]


def test_what_the_history_is_said_to_have_is_read_if_it_does_not_come() -> None:
    project = Project(Past(2))
    project.take(1)

    project.order.announce("e", 2, project.clock)
    project.settle()

    assert project.emitted == [1, 2]


def test_what_was_announced_and_comes_is_not_read() -> None:
    project = Project()

    project.order.announce("e", 2, project.clock)
    project.take(1, 2)

    assert project.order.overdue_at == math.inf


def test_for_a_client_without_a_snapshot_it_begins_with_what_comes_first() -> None:
    project = Project(seeded=None)
    project.order.start(event(5))

    project.take(5, 6)
    [late] = project.order.take(event(4), project.clock)

    assert project.emitted == [5, 6]
    assert late.offset is None  # and so is emitted only if it takes no job backwards


# -- too much, too far, too old -----------------------------------------------------------------------------------


def test_when_too_much_was_missed_clients_subscribe_again_and_what_waits_is_emitted() -> None:
    project = Project(Past(50, most=10))
    project.take(1, 49, 50, 51)

    project.settle()
    project.take(52)

    assert project.emitted == [1, "agent_resync", 49, 50, 51, 52]


def test_an_offset_that_is_not_in_the_history_stops_nothing() -> None:
    project = Project(Past(3))
    project.take(1, 10**15)

    project.settle()
    assert project.emitted == [1, 2, 3, 10**15]  # without an offset
    project.take(4)

    assert project.emitted[-1] == 4
    assert project.order.emitted == 4
    assert project.order.waiting == 0


def test_what_a_server_has_lost_again_is_not_waited_for() -> None:
    """It was restarted without its last second, and nothing has been stored since."""
    project = Project(Past(4))
    project.take(1, 2, 3, 4, 5, 7)

    project.settle()

    assert project.emitted == [1, 2, 3, 4, 5, 7]
    assert project.order.emitted == 5


def test_what_came_while_the_history_was_read_is_not_taken_for_forged() -> None:
    project = Project(Past(2))
    project.take(2)
    missing = project.order.request()
    assert missing is not None
    answer = project.past(missing)
    project.take(4)
    project.note(project.order.answer(missing, answer, project.clock))

    assert project.emitted == [1, 2]
    project.take(3)

    assert project.emitted == [1, 2, 3, 4]


def test_what_waits_is_bounded_and_no_less_complete() -> None:
    count = MOST_WAITING + 100
    project = Project(Past(count, most=count))

    project.take(*range(2, count + 1))
    assert project.order.waiting <= MOST_WAITING
    project.settle()

    assert project.emitted == list(range(1, count + 1))


def test_events_of_unknown_epochs_are_bounded() -> None:
    project = Project()

    for number in range(3 * MOST_WAITING):
        project.take(1, epoch=f"epoch {number}")

    assert project.order.waiting <= MOST_WAITING


def test_any_number_of_epochs_is_followed() -> None:
    project = Project()
    for number in range(3 * MOST_PAST):
        project.past = Past(1, f"epoch {number}")
        project.take(1, epoch=f"epoch {number}")
        project.ask()

    assert project.emitted == [1] * 3 * MOST_PAST


def test_past_epochs_are_bounded() -> None:
    epochs = OtherEpochs()
    for number in range(3 * MOST_PAST):
        epochs.end(f"epoch {number}", 1)

    assert epochs.past == MOST_PAST
    assert epochs.is_past(f"epoch {3 * MOST_PAST - 1}")


def test_an_event_without_an_offset_is_not_emitted_again_when_the_history_has_it() -> None:
    project = Project()
    project.take(1)
    project.order.take_unnumbered()
    project.take(3)
    missing = project.order.request()
    assert missing is not None
    entries = [{"event": "step", "data": "text", "epoch": "e", "offset": n} for n in (2, 3, 4)]

    due = project.order.answer(missing, Snapshot("e", 4, True, [], 0, [], entries), project.clock)

    assert [each.offset for each in due] == [3, 4]
    assert due[1].mark == {"epoch": "e", "offset": 4, "project_id": "p"}


# -- epochs -------------------------------------------------------------------------------------------------------


def test_a_new_epoch_begins_when_the_history_says_so() -> None:
    project = Project(seeded=9)
    project.past = Past(3, "new")

    project.take(3, epoch="new")
    assert project.emitted == []
    project.settle()
    project.take(4, epoch="new")

    assert project.emitted == [1, 2, 3, 4]


def test_an_epoch_that_the_history_does_not_know_changes_nothing() -> None:
    project = Project(Past(2))

    project.take(1)
    project.take(1, 2, 3, epoch="forged")
    project.settle()
    project.take(2)
    project.take(4, epoch="forged")

    assert project.emitted == [1, 2]
    assert project.order.epoch == "e"


def test_a_new_epoch_of_which_too_much_was_missed_has_clients_subscribe_again() -> None:
    project = Project(seeded=9)
    project.past = Past(50, "new", most=10)

    project.take(49, 51, epoch="new")
    project.settle()

    assert project.emitted == ["agent_resync", 49, 51]


def test_a_new_epoch_that_nothing_on_the_channel_shows_is_noticed() -> None:
    project = Project(seeded=9)
    project.past = Past(2, "new")

    project.order.announce("new", 2, project.clock)
    project.settle()

    assert project.emitted == [1, 2]
    assert project.order.epoch == "new"


def test_after_an_outage_a_new_epoch_is_read_from_its_beginning() -> None:
    project = Project(seeded=9)
    project.past = Past(2, "new")

    project.order.fall_behind()
    project.settle()

    assert project.emitted == [1, 2]


def test_what_waits_when_an_epoch_ends_is_emitted_before_the_next() -> None:
    project = Project(seeded=4)
    project.take(6, 8)
    project.past = Past(1, "new")

    project.take(1, epoch="new")
    project.settle()

    assert project.emitted == [6, 8, 1]


def test_what_comes_too_late_of_an_earlier_epoch_has_lost_its_place() -> None:
    project = Project(seeded=4)
    project.take(5)
    project.past = Past(1, "new")
    project.take(1, epoch="new")
    project.settle()

    assert list(project.order.take(event(5), project.clock)) == []
    [late] = project.order.take(event(6), project.clock)

    assert (late.epoch, late.offset, late.data["n"]) == (None, None, 6)


def test_an_answer_that_is_older_than_the_epoch_is_dropped() -> None:
    project = Project(Past(9), seeded=8)
    project.order.fall_behind()
    missing = project.order.request()
    assert missing is not None
    old = project.past(missing)
    project.past = Past(2, "new")
    project.take(2, epoch="new")
    project.ask()

    assert list(project.order.answer(missing, old, project.clock)) == []
    assert project.emitted == [1, 2]


# -- while the history cannot be read -----------------------------------------------------------------------------


def test_what_is_given_up_is_emitted_late_if_it_takes_nothing_backwards() -> None:
    project = Project()
    project.past.events = [
        *(status(1, "a", "queued"), status(2, "a", "running"), status(3, "b", "error")),
        *(event(4), status(5, "a", "success"), event(6)),
    ]
    for number in (1, 5, 6):
        project.note(project.order.take(project.past.events[number - 1], project.clock))
    project.note(project.order.give_up(project.clock))
    assert project.emitted == ["queued", "success", 6]

    project.settle()

    assert project.emitted == ["queued", "success", 6, "error", 4]


def test_what_was_given_up_is_not_emitted_behind_what_came_since_the_history_was_read() -> None:
    """The answer is older than the end of the job that it has the start of."""
    project = Project()
    queued, running, failed = status(1, "a", "queued"), status(2, "a", "running"), status(4, "a", "error")
    project.past.events = [queued, running, event(3)]
    for heard_now in (queued, event(3)):
        project.note(project.order.take(heard_now, project.clock))
    project.note(project.order.give_up(project.clock))
    missing = project.order.request()
    assert missing is not None
    answer = project.past(missing)
    project.note(project.order.take(failed, project.clock))

    project.note(project.order.answer(missing, answer, project.clock))

    assert project.emitted == ["queued", 3, "error"]
    project.past.events.append(failed)
    project.settle()
    assert project.emitted == ["queued", 3, "error"]


def test_what_is_given_up_after_the_history_was_asked_is_asked_for_once_more() -> None:
    project = Project(Past(3))
    project.take(1, 3)
    project.note(project.order.give_up(project.clock))
    missing = project.order.request()
    assert missing is not None
    answer = project.past(missing)
    project.past.events += [event(4), event(5)]
    project.take(5)
    project.note(project.order.give_up(project.clock))

    project.note(project.order.answer(missing, answer, project.clock))
    assert project.emitted == [1, 3, 5, 2]
    project.settle()

    assert project.emitted == [1, 3, 5, 2, 4]


def test_what_the_history_does_not_have_is_not_asked_for_for_ever() -> None:
    project = Project(Past(2))
    project.take(1, 10**9)
    project.note(project.order.give_up(project.clock))

    project.settle()

    assert project.emitted == [1, 10**9, 2]


def test_progress_that_was_given_up_is_not_emitted_behind_the_end() -> None:
    project = Project()
    halfway = heard("p", "agent_progress", {"job_id": "a", "progress": 50, "epoch": "e", "offset": 1})
    project.past.events = [halfway, event(2)]
    project.take(2)
    project.note(project.order.give_up(project.clock))
    missing = project.order.request()
    assert missing is not None
    project.note(project.order.take(status(3, "a", "success"), project.clock))

    project.note(project.order.answer(missing, project.past(missing), project.clock))

    assert project.emitted == [2, "success"]


def test_after_very_many_jobs_behind_a_hole_clients_subscribe_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering, "MOST_EMITTED", 3)
    project = Project()
    project.past.events = [event(1), *(status(number, f"job {number}", "queued") for number in range(2, 7))]
    for queued in project.past.events[1:]:
        project.note(project.order.take(queued, project.clock))
        project.note(project.order.give_up(project.clock))

    project.settle()

    assert project.emitted == [*["queued"] * 5, "agent_resync"]


def test_after_very_many_holes_clients_subscribe_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering, "MOST_LOST", 3)
    project = Project(Past(10))
    for offset in (2, 4, 6, 8):
        project.take(offset)
        project.note(project.order.give_up(project.clock))

    project.settle()

    assert project.emitted == [2, 4, 6, 8, "agent_resync"]


def test_an_epoch_is_believed_when_the_history_cannot_be_asked() -> None:
    project = Project(seeded=4)
    project.take(2, 3, epoch="new")

    project.note(project.order.give_up(project.clock))
    assert project.emitted == [2, 3]
    project.past = Past(3, "new")
    project.settle()

    assert project.emitted == [2, 3, 1]


# -- whatever comes -----------------------------------------------------------------------------------------------

losses = st.sets(st.integers(1, 40))


@given(st.data(), st.integers(1, 40), losses)
def test_any_order_with_losses_and_duplicates_comes_out_in_order_and_once(
    data: Any, count: int, lost: set[int]
) -> None:
    project = Project(Past(count))
    offsets = [offset for offset in range(1, count + 1) if offset not in lost]
    again = data.draw(st.lists(st.sampled_from(offsets), max_size=10)) if offsets else []
    asks = data.draw(st.sets(st.integers(0, 50), max_size=5))

    for place, offset in enumerate(data.draw(st.permutations([*offsets, *again]))):
        project.take(offset)
        if place in asks:
            project.ask()
    project.order.announce("e", count, project.clock)
    project.settle()

    assert project.emitted == list(range(1, count + 1))


RANKS = {"queued": 0, "running": 1, "success": 2}


class Lives:
    """Jobs that happen while the channel loses some of what it is given, and the history answers late or not at all."""

    def __init__(self) -> None:
        self.shown: list[Heard] = []
        self._project = Project()
        self._steps = {job: list(RANKS) for job in "ab"}
        self._asked: list[tuple[Any, Any]] = []

    def happen(self, job: str, *, is_lost: bool) -> None:
        """Let the next happen to a job."""
        events, order = self._project.past.events, self._project.order
        if self._steps[job]:
            events.append(status(len(events) + 1, job, self._steps[job].pop(0)))
            self.shown.extend(() if is_lost else order.take(events[-1], self._project.clock))

    def give_up(self) -> None:
        self.shown += self._project.order.give_up(self._project.clock)

    def ask(self) -> None:
        missing = self._project.order.request()
        assert missing is not None
        self._asked.append((missing, self._project.past(missing)))

    def answer(self) -> None:
        """Let the history's answer to the first question come, as it was then."""
        if self._asked:
            self.shown += self._project.order.answer(*self._asked.pop(0), self._project.clock)

    def ranks(self, job: str) -> list[int]:
        return [RANKS[event.data["status"]] for event in self.shown if event.job_id == job]


happenings = st.tuples(st.just("happen"), st.sampled_from("ab"), st.booleans())


@given(
    st.lists(st.one_of(happenings, happenings, st.sampled_from(["give_up", "ask", "answer"])), min_size=8, max_size=20)
)
def test_whenever_the_history_answers_no_job_goes_backwards(deeds: list[Any]) -> None:
    lives = Lives()
    for deed in deeds:
        if isinstance(deed, str):
            getattr(lives, deed)()
        else:
            lives.happen(deed[1], is_lost=deed[2])

    for job in "ab":
        assert lives.ranks(job) == sorted(set(lives.ranks(job))), f"{job} went back"


@given(st.data(), st.lists(st.integers(1, 12), min_size=2, max_size=4), losses)
def test_epochs_come_out_one_behind_the_other(data: Any, counts: list[int], lost: set[int]) -> None:
    project = Project(Past(0, "epoch 0"))
    emitted: list[tuple[str, int]] = []

    def take(offset: int, epoch: str) -> None:
        emitted.extend((each.epoch, each.offset) for each in project.order.take(event(offset, epoch), project.clock))

    def ask() -> None:
        missing = project.order.request()
        assert missing is not None
        due = project.order.answer(missing, project.past(missing), project.clock)
        emitted.extend((each.epoch or "", each.offset or 0) for each in due)

    for number, count in enumerate(counts):
        epoch = f"epoch {number}"
        project.past = Past(count, epoch)
        for offset in data.draw(st.permutations(range(1, count + 1))):
            if offset not in lost:
                take(offset, epoch)
        project.order.announce(epoch, count, project.clock)
        for _ in range(5):
            ask()

    assert emitted == [(f"epoch {n}", offset) for n, count in enumerate(counts) for offset in range(1, count + 1)]


@given(st.lists(st.tuples(st.integers(-5, 10**20), st.sampled_from(["e", "x", "y"])), max_size=60))
@example([(4, "e")])
def test_nothing_that_comes_stalls_what_is_true(forged: list[tuple[int, str]]) -> None:
    project = Project(Past(3))
    for offset, epoch in forged:
        if (offset, epoch) not in {(1, "e"), (2, "e"), (3, "e")}:
            project.take(offset, epoch=epoch)
    emitted = len(project.emitted)
    project.take(1, 2, 3)
    project.settle()

    true = [number for number in project.emitted[emitted:] if number in (1, 2, 3)]
    assert true[:3] == [1, 2, 3] or project.emitted[:3] == [1, 2, 3]
    # What bears the next offset cannot be told from the next event.
    last = next(number for number in itertools.count(3) if (number + 1, "e") not in forged)
    assert project.order.emitted == last


def test_a_client_with_an_older_snapshot_than_the_first_one_gets_what_came_between() -> None:
    project = Project(Past(5), seeded=5)
    project.note(project.order.seed("e", 3, project.clock))

    missing = project.order.request()
    assert missing is not None
    project.note(project.order.answer(missing, project.past(missing), project.clock))
    project.take(6)

    assert project.emitted == [4, 5, 6]


def test_a_client_with_an_older_snapshot_gets_that_late_if_newer_events_were_emitted() -> None:
    project = Project(Past(6), seeded=5)
    project.take(6)
    project.note(project.order.seed("e", 4, project.clock))

    missing = project.order.request()
    assert missing is not None
    project.note(project.order.answer(missing, project.past(missing), project.clock))
    project.take(7)

    assert project.emitted == [6, 5, 7]
    assert project.order.overdue_at == math.inf


def test_an_answer_that_begins_behind_what_is_missing_by_now_is_asked_for_again() -> None:
    project = Project(Past(6), seeded=5)
    project.order.fall_behind()
    missing = project.order.request()
    assert missing is not None
    project.order.seed("e", 2, project.clock)

    project.note(project.order.answer(missing, project.past(missing), project.clock))

    assert project.emitted == []
    assert project.order.overdue_at < project.clock


def test_an_answer_that_was_asked_for_before_all_clients_had_left_says_nothing() -> None:
    earlier = Project(Past(6), seeded=5)
    earlier.order.fall_behind()
    missing = earlier.order.request()
    assert missing is not None
    later = ProjectOrder("p", requests=earlier.order.requests)

    assert later.answer(missing, earlier.past(missing), 100.0) == []
    assert later.epoch is None
