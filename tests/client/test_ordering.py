"""A client passes on events in the order of their offsets, and holds a bounded number."""

from __future__ import annotations

from celery_realtime.client.messages import Item
from celery_realtime.client.ordering import MAX_FOREIGN_EPOCHS, MAX_HELD, EventOrder


def item(offset: int) -> Item:
    return Item("step", None, "e", offset)


def started(offset: int = 0) -> EventOrder:
    return EventOrder({"epoch": "e", "offset": offset})


def offsets(order: EventOrder, *numbers: int) -> list[int | None]:
    return [due.offset for number in numbers for due in order.insert(item(number))]


def test_events_are_due_once_and_in_order() -> None:
    order = started(1)
    assert offsets(order, 4, 3, 3, 1, 0, 2, 2) == [2, 3, 4]
    assert order.offset == 4
    assert order.held_offsets == []


def test_the_position_moves_before_an_event_is_handed_out() -> None:
    order = started()
    assert offsets(order, 2) == []
    assert [(due.offset, order.offset) for due in order.insert(item(1))] == [(1, 1), (2, 2)]


def test_what_waits_above_a_hole_is_bounded() -> None:
    order = started()
    for number in range(2, MAX_HELD + 2):
        assert offsets(order, number) == []
    assert not order.drop_overflow()
    offsets(order, MAX_HELD + 2)
    assert order.drop_overflow()
    assert order.held_offsets == []


def test_what_waits_for_an_answer_is_bounded_and_handed_out_once() -> None:
    order = started()
    for number in range(MAX_HELD + 5):
        order.hold_until_answer(item(number))
    held = order.take_held()
    assert (len(held), held[0].offset) == (MAX_HELD, 5)
    assert order.take_held() == []


def test_a_new_position_keeps_what_waited_and_remembers_the_epoch_as_over() -> None:
    order = started()
    offsets(order, 3)
    order.restart("f", 7)
    assert (order.epoch, order.offset, order.take_held()) == ("f", 7, [item(3)])
    assert not order.is_first_of_epoch("e")


def test_an_epoch_is_new_once_and_only_so_many_are_remembered() -> None:
    order = started()
    assert [order.is_first_of_epoch("x"), order.is_first_of_epoch("x")] == [True, False]
    for number in range(3 * MAX_FOREIGN_EPOCHS):
        assert order.is_first_of_epoch(f"epoch {number}")
    assert len(order.foreign_epochs) == MAX_FOREIGN_EPOCHS
