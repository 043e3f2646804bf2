"""What waits of a stream, and how it is cut."""

from __future__ import annotations

from celery_realtime.jobs.stream_buffers import ItemBuffer, TextBuffer


def test_texts_become_one_and_are_cut_anywhere() -> None:
    buffer = TextBuffer()
    buffer.add(["ab", "", "cdé"])
    buffer.add(["f"])
    assert (buffer.size, buffer.take(4), buffer.take(10), buffer.take(1)) == (6, "abcd", "éf", "")


def test_items_are_never_cut() -> None:
    buffer = ItemBuffer()
    buffer.add([b"1", b'"long enough"', b"2", b"3"])
    assert buffer.take(3) == (b"1",)
    assert buffer.take(3) == (b'"long enough"',)
    assert buffer.take(3) == (b"2", b"3")
    assert buffer.size == 0


def test_the_oldest_goes_first() -> None:
    text, items = TextBuffer(), ItemBuffer()
    text.add(["abcdef"])
    items.add([b"1", b"2", b"3"])
    assert (text.drop_oldest(4), text.take(10), text.drop_oldest(4)) == (2, "cdef", 0)
    assert (items.drop_oldest(4), items.take(10), items.drop_oldest(4)) == (1, (b"2", b"3"), 0)


def test_chunks_are_stored_as_they_are_shown() -> None:
    text, items = TextBuffer(), ItemBuffer()
    assert text.encoded(text.piece_of(text.shown("é"))) == "é".encode()
    assert items.encoded(items.piece_of(items.shown((b'{"a":1}', b"2")))) == b'{"a":1}\n2\n'
    assert (text.piece_of(5), items.piece_of("text")) == ("", ())
